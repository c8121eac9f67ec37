"""The episode's score, the same for every turn."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokengym.envs import Turn
from tokengym.lab.rules.turn_credit import TurnCredit


class TurnBroadcast(TurnCredit):
    """Each turn earns an equal share of the episode's score, or all of it.

    r_{e_k} = R / K for each of K turns with last tokens e_k;  R where ``published``

    The share R / K keeps the sum. As published, every turn is trained on the whole score, R at
    each, which sums to K R: conversations of more turns weigh more, and a learner from returns
    sees R again for every turn to come. The estimator "turn-returns" with gamma=0 takes a turn's
    reward as the advantage of its tokens and nothing else, which is what those trainers do.

    Args:
        published: Whether each turn earns all of the score.

    Source: the default of trainers for conversations; the survey arXiv:2604.09459 names it as what
    turn credit is to improve on.

    Example:
        >>> turns = [Turn("assistant", "a", (0, 2)), Turn("assistant", "b", (3, 4))]
        >>> TurnBroadcast().by_turn(3.0, turns).tolist()
        [1.5, 1.5]
        >>> TurnBroadcast(published=True).by_turn(3.0, turns).tolist()
        [3.0, 3.0]
    """

    name = "turn-broadcast"

    def __init__(self, published: bool = False) -> None:
        self.published = published
        self.sum_preserving = not published

    def by_turn(self, score: float, turns: Sequence[Turn]) -> NDArray[np.float64]:
        """Return the score, or its share, for every turn."""
        return np.full(len(turns), score if self.published else score / len(turns))
