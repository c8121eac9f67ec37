"""What a stock agent of Stable-Baselines3 does with credit, said once where it learns.

Its own buffers hold what steps pay, and train without an error: the whole score at the last token,
whatever the rule.
"""

import logging
import sys
from functools import cache
from typing import Any

logger = logging.getLogger(__name__)

BASE = "stable_baselines3.common.base_class"
"""Module of its algorithms."""
KINDS = {"rollout": "HindsightRolloutBuffer", "replay": "HindsightReplayBuffer"}
"""Buffers of `tokengym.agents` that pay each token at its step, by what they replace."""


def playing() -> Any:
    """Return the SB3 algorithm that plays rows of this process just now; None without one."""
    if (module := sys.modules.get(BASE)) is None:
        return None
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "collect_rollouts":
        frame = frame.f_back  # type: ignore[assignment]
    agent = None if frame is None else frame.f_locals.get("self")
    return agent if isinstance(agent, module.BaseAlgorithm) else None


def tell_stock_learner(credit: str) -> None:
    """Warn, once, of what the stock algorithm that has just ended an episode does not read.

    Args:
        credit: Name of the rule, whose token rewards come after the steps, in the terminal info.
    """
    if (agent := playing()) is None:
        return
    for kind, ours in KINDS.items():
        buffer = getattr(agent, f"{kind}_buffer", None)
        if buffer is not None and type(buffer).__module__.startswith("stable_baselines3."):
            _say_buffer(type(agent).__name__, credit, kind, ours)


@cache
def _say_buffer(name: str, credit: str, kind: str, ours: str) -> None:
    logger.warning(
        "%s learns from what steps pay, the whole score at the last token, and never sees the "
        "token rewards of %s; pass %s_buffer_class=tokengym.agents.%s, or take tokengym.PPO",
        name,
        credit,
        kind,
        ours,
    )
