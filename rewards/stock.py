"""What a stock agent of Stable-Baselines3 does with credit, said once where it learns.

Its own buffers hold what steps pay, and train without an error: the whole score at the last token,
whatever the rule.
"""

import inspect
import logging
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from tokengym.rewards.errors import RewardError

logger = logging.getLogger(__name__)

BASE = "stable_baselines3.common.base_class"
"""Module of its algorithms."""
KINDS = {"rollout": "HindsightRolloutBuffer", "replay": "HindsightReplayBuffer"}
"""Buffers of `tokengym.agents` that pay each token at its step, by what they replace; all such
have the attribute ``pays_tokens``."""


def rollout() -> Mapping[str, Any]:
    """Return the variables of the rollout of an SB3 algorithm that calls; {} where none does.

    SB3 tells environments nothing of it, and a rollout buffer nothing of its infos.
    """
    if (module := sys.modules.get(BASE)) is None:
        return {}
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "collect_rollouts":
        frame = frame.f_back  # type: ignore[assignment]
    played = {} if frame is None else frame.f_locals
    return played if isinstance(played.get("self"), module.BaseAlgorithm) else {}


def refuse_unscored() -> None:
    """Refuse a response that has no score, or may have none, of a stock algorithm.

    Its buffers hold every step, so that it would learn that such a response earns 0.

    Raises:
        RewardError: in one line; nothing where no such algorithm has ended an episode.
    """
    if (agent := rollout().get("self")) is not None:
        raise RewardError(
            f"{type(agent).__name__} cannot leave out a response without a score, and would learn "
            "that it earns 0; pass on_error='raise' and on_partner_error='raise', give a number "
            "where the scorer gives None, or take tokengym.PPO"
        )


def tell_stock_learner(credit: str) -> None:
    """Warn, once, of what the stock algorithm that has just ended an episode does not read.

    Args:
        credit: Name of the rule, whose token rewards come after the steps, in the terminal info.
    """
    if (agent := rollout().get("self")) is None:
        return
    for kind, ours in KINDS.items():
        buffer = getattr(agent, f"{kind}_buffer", None)
        if buffer is not None and not getattr(buffer, "pays_tokens", False):
            takes = f"{kind}_buffer_class" in inspect.signature(type(agent)).parameters
            remedy = f"pass {kind}_buffer_class=tokengym.agents.{ours}, or " if takes else ""
            _say_buffer(type(agent).__name__, credit, remedy)


@cache
def _say_buffer(name: str, credit: str, remedy: str) -> None:
    logger.warning(
        "%s learns from what steps pay, the whole score at the last token, and never sees the "
        "token rewards of %s; %stake tokengym.PPO",
        name,
        credit,
        remedy,
    )
