"""Options that say what scores the responses, of `make_reward`, ``gym.make`` and commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokengym.rewards.models.scores import AnyScorer


@dataclass(frozen=True, kw_only=True)
class RewardOptions:
    """What scores the responses; None leaves it to the task or its bundle."""

    scorer: AnyScorer | str | Path | None = None
    """Scorer of a response: a name with options, as in "toxicity:path=models/judge",
    "file.py:Name", a model's folder or hub name, a scorer, or a function of prompt and response;
    None takes the bundle's reward model or encoder, or the exact score if the task has one."""
    reward_model: str | Path | None = None
    """Folder or hub name of a reward model, for rewards that are scored by one; None takes the
    bundle's."""
    encoder: str | Path | None = None
    """Folder or hub name of the encoder of the r3 rewards; None takes the bundle's."""
    scorer_timeout: float | None = None
    """Seconds after which a call of the scorer raises (a run then ends, and can be resumed); None
    waits for ever."""
