"""Rewards whose sum to come is a turn's return, discounted in turns."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokengym.base import check_number
from tokengym.envs import Turn
from tokengym.lab.rules.turn_credit import TurnCredit
from tokengym.rewards import CreditError


class TurnReturn(TurnCredit):
    """Each turn earns so that it and those after it sum to the scores to come, later ones for less.

    G_k = sum_{j >= k} gamma^{j-k} s_j,  s_j the turn's score, s_K that of the last one with the
    rest of the episode's score;  r_k = G_k - G_{k+1}

    A discount per token makes a long turn count less than a short one. Here a learner without a
    discount of its own (gamma=1) sees G_k at every token of turn k, however long turns are. The
    rewards sum to G_1 and not to the score, unless gamma is 1: then they are `turn-score`'s.

    Args:
        gamma: Discount per turn, in [0, 1]; the source uses 0.4.

    Source: Baronio et al. 2025, Kevin, arXiv:2507.11948; also verifiers' pull requests 536 and
    1554.

    Example:
        >>> turns = [Turn("assistant", "a", (0, 2)), Turn("assistant", "b", (3, 4), 0.5)]
        >>> TurnReturn(gamma=0.5).by_turn(2.0, turns).tolist()  # G is 1 and 2
        [-1.0, 2.0]
    """

    name = "turn-return"

    def __init__(self, gamma: float = 0.4) -> None:
        self.gamma = gamma
        check_number(self, "gamma", least=0.0, most=1.0, error=CreditError)
        self.sum_preserving = gamma == 1.0

    def by_turn(self, score: float, turns: Sequence[Turn]) -> NDArray[np.float64]:
        """Return the differences of the turns' returns."""
        scores = np.array([0.0 if turn.score is None else turn.score for turn in turns])
        scores[-1] += score - scores.sum()
        returns = turn_returns(scores, self.gamma)
        return returns - np.append(returns[1:], 0.0)


def turn_returns(
    scores: Sequence[float] | NDArray[np.floating], gamma: float
) -> NDArray[np.float64]:
    """Return what each turn and its successors earn, discounted in turns.

    G_k = s_k + gamma G_{k+1}

    Example:
        >>> turn_returns([1.0, 0.0, 4.0], 0.5).tolist()
        [2.0, 2.0, 4.0]
    """
    returns, following = np.zeros(len(scores)), 0.0
    for turn in reversed(range(len(scores))):
        following = float(scores[turn]) + gamma * following
        returns[turn] = following
    return returns
