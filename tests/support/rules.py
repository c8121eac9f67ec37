"""Rules of token credit by word, and their rewards of scores that a test gives."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokengym.envs import Episode
from tokengym.rewards import Reward, RewardChoice, Rule, Scorer, Scores


def rule_of(word: str, **options: Any) -> Rule:
    """Return the rule of a word, or of a name with options as keywords."""
    made: Any = RewardChoice.of(word).made
    return Rule(made.function, **options) if options else made


class Given(Scorer):
    """Returns the scores that it was given, whatever it is asked."""

    def __init__(self, scores: Scores) -> None:
        self.scores = scores

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return them."""
        return self.scores


def rewards_of(
    credit: Rule | Callable[..., Any], episodes: Sequence[Episode], scores: Scores
) -> list[NDArray[np.float32]]:
    """Return the token rewards of episodes with known scores and attributions."""
    paid = Reward(Given(scores), credit).evaluate(episodes)
    return [one.token_rewards for one in paid if one.token_rewards is not None]
