"""Rewards whose sum to come is a turn's return, discounted in turns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from tokengym.base import check_number
from tokengym.rewards import CreditError, rest_on_last, token_credit

if TYPE_CHECKING:
    from torch import Tensor


def check_gamma(options: SimpleNamespace) -> None:
    """Refuse a weight of turns outside [0, 1]."""
    check_number(options, "gamma", least=0.0, most=1.0, error=CreditError)


def powers(gamma: float, like: Tensor) -> Tensor:
    """Return gamma^(l - k) at row l and column k <= l, 0 elsewhere: (turns, turns); 0^0 is 1."""
    places = like.new_ones(like.shape[1]).cumsum(0)
    return (gamma ** (places[:, None] - places).clamp(min=0)).tril()


@token_credit(cut="turn", conserves=lambda gamma: gamma == 1.0, check=check_gamma)
def turn_return(
    scores: Tensor, turn_scores: Tensor, response_mask: Tensor, gamma: float = 0.4
) -> Tensor:
    """Each turn earns so that it and those after it sum to the scores to come, later ones for less.

    G_k = sum_{j >= k} gamma^{j-k} s_j,  s_j the turn's score, s_K that of the last one with the
    rest of the episode's score;  r_k = G_k - G_{k+1}

    A discount per token makes a long turn count less than a short one. Here a learner without a
    discount of its own (gamma=1) sees G_k at every token of turn k, however long turns are. The
    rewards sum to G_1 and not to the score, unless gamma is 1: then they are `turn_score`'s.

    Args:
        scores: R.
        turn_scores: s.
        response_mask: The turns.
        gamma: Discount per turn, in [0, 1]; the source uses 0.4.

    Source: Baronio et al. 2025, Kevin, arXiv:2507.11948; also verifiers' pull requests 536 and
    1554.

    Example:
        >>> import torch
        >>> scores, turns = torch.tensor([[float("nan"), 0.5]]), torch.tensor([[True, True]])
        >>> turn_return(torch.tensor([2.0]), scores, turns, gamma=0.5).tolist()  # G is 1 and 2
        [[-1.0, 2.0]]
    """
    paid = rest_on_last(scores, turn_scores.nan_to_num(), response_mask)
    returns = paid @ powers(gamma, paid)
    return -returns.diff(dim=1, append=returns.new_zeros(len(returns), 1))
