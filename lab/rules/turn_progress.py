"""Progress between scored turns, spread back over the turns that led to it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokengym.base import check_number
from tokengym.envs import Turn
from tokengym.lab.rules.turn_credit import TurnCredit
from tokengym.rewards import CreditError


class TurnProgress(TurnCredit):
    """Each turn earns a share of the progress that it and the turns after it made.

    d_k = s_k - s_j,  s_k the score of turn k and s_j that of the last scored turn before it
    r_k = sum_{l >= k} d_l gamma^{l-k} / sum_{m=1..l} gamma^{l-m}

    A score says how the conversation stands after the turn, and a turn earns by changing that.
    Before the first scored turn it stands at 0, so that the d_l sum to the last score; the source
    counts from the first score, which then earns nothing (``published=true``). The shares of d_l
    over the turns 1 to l sum to 1. A turn without a score makes no progress of its own, and passes
    it on. A turn's reward stands at its last token; the last token of the episode gets the rest of
    its score, which is 0 under the scorer "partner:of=last".

    Args:
        gamma: Weight of a turn before, in [0, 1]: 0 pays the turn that made the progress alone, 1
            all turns up to it alike.
        published: Whether progress begins at the first scored turn, as in the source.

    Source: prime-rl's `turn_credit` (pull request 3282, 2026); the group's advantage, to which it
    adds these, is the learner's.

    Example:
        >>> TurnProgress(gamma=0.5).progress([0.0, 3.0]).tolist()
        [1.0, 2.0]
        >>> TurnProgress(gamma=0.5, published=True).progress([3.0, 0.0]).tolist()
        [-1.0, -2.0]
    """

    name = "turn-progress"

    def __init__(self, gamma: float = 0.5, published: bool = False) -> None:
        self.gamma = gamma
        self.published = published
        check_number(self, "gamma", least=0.0, most=1.0, error=CreditError)

    def progress(self, scores: Sequence[float | None]) -> NDArray[np.float64]:
        """Return the reward of each turn, from the scores after them; None where there is none."""
        rewards, before = np.zeros(len(scores)), None if self.published else 0.0
        for turn, score in enumerate(scores):
            if score is None:
                continue
            if before is not None:
                weights = self.gamma ** np.arange(turn, -1, -1.0)  # 0 ** 0 is 1
                rewards[: turn + 1] += (score - before) * weights / weights.sum()
            before = score
        return rewards

    def by_turn(self, score: float, turns: Sequence[Turn]) -> NDArray[np.float64]:
        """Return the turns' shares of the progress."""
        del score
        return self.progress([turn.score for turn in turns])
