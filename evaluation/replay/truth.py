"""What each token was truly worth, where a task knows it: the yardstick for credit rules."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokengym.envs import Episode
from tokengym.evaluation.statistics import Array
from tokengym.rewards import gold_scorer
from tokengym.rewards.gold.truth import gold_token_credit


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The true worth of every token of some responses."""

    name: str
    """What it is, in words."""
    values: tuple[Array, ...]
    """Per episode (n,), signed."""
    matters: tuple[NDArray[np.bool_], ...]
    """Per episode (n,): the tokens that matter."""
    meaning: str
    """Which those are, in words."""


def token_truth(task: Any, episodes: Sequence[Episode], policy: Any | None = None) -> Truth | None:
    """Return what a task knows of its tokens' true worth; None if nothing.

    The Oracle knows the exact advantage of each token for the policy that played; a bundle whose
    gold score rests on single words knows what each of them adds to it
    (`tokengym.rewards.gold.truth.gold_token_credit`).

    Args:
        task: The bare environment (``envs.unwrapped``).
        episodes: Finished responses.
        policy: The policy that played them, for the Oracle's advantages; None takes all legal
            tokens alike.
    """
    if hasattr(task, "exact_advantages") and episodes:
        table = None
        if policy is not None:
            from tokengym.agents.oracle import policy_table

            table = policy_table(policy, task)
        advantages = task.exact_advantages(table)
        return Truth(
            name="exact advantage" + (" under random play" if policy is None else ""),
            values=tuple(advantages.along(episode.response_ids) for episode in episodes),
            matters=tuple(task.removal_effects(e.response_ids) != 0 for e in episodes),
            meaning="tokens without which the score would be another",
        )
    values = gold_token_credit(gold_scorer(task.bundle), episodes, task.tokenizer)
    if values is None:
        return None
    return Truth(
        name="gold word weights",
        values=tuple(values),
        matters=tuple(row != 0 for row in values),
        meaning="words that the gold score counts",
    )
