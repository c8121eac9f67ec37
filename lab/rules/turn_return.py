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


def powers(gamma: float, turn_ids: Tensor) -> Tensor:
    """Return gamma^(turns from token k to l) at row l and column k <= l, else 0; 0^0 is 1.

    (batch, time, time) float64.
    """
    turns = turn_ids.double()
    return (gamma ** (turns[:, :, None] - turns[:, None]).clamp(min=0)).tril()


def turn_ends(turn_ids: Tensor) -> Tensor:
    """Return the last token of each turn, (batch, time) bool."""
    return turn_ids.diff(dim=1, append=turn_ids.new_full((len(turn_ids), 1), -1)) != 0


@token_credit(cut="turn", conserves=lambda gamma: gamma == 1.0, check=check_gamma)
def turn_return(
    paid: Tensor,
    turn_scores: Tensor,
    turn_ids: Tensor,
    response_mask: Tensor,
    gamma: float = 0.4,
) -> Tensor:
    """Each turn earns so that it and those after it sum to the scores to come, later ones for less.

    G_k = sum_{j >= k} gamma^{j-k} s_j,  s_j the turn's score, s_K that of the last one with the
    rest of the episode's score;  r_k = G_k - G_{k+1}

    A discount per token makes a long turn count less than a short one. Here a learner without a
    discount of its own (gamma=1) sees G_k at every token of turn k, however long turns are. The
    rewards sum to G_1 and not to the score, unless gamma is 1: then they are `turn_score`'s.

    Args:
        paid: R.
        turn_scores: s.
        turn_ids: The turns.
        response_mask: The tokens.
        gamma: Discount per turn, in [0, 1]; the source uses 0.4.

    Source: Baronio et al. 2025, Kevin, arXiv:2507.11948; also verifiers' pull requests 536 and
    1554.

    Example:
        >>> import torch
        >>> scores, turns = torch.tensor([[float("nan"), 0.5]]), torch.tensor([[0, 1]])
        >>> turn_return(torch.tensor([2.0]), scores, turns, turns >= 0, gamma=0.5).tolist()
        [[-1.0, 2.0]]
    """
    earned = rest_on_last(paid, turn_scores.nan_to_num(), response_mask)
    # G is the same at all tokens of a turn, so that it changes at a turn's last token alone.
    returns = (earned[:, None] @ powers(gamma, turn_ids).to(earned))[:, 0]
    return -returns.diff(dim=1, append=returns.new_zeros(len(returns), 1))
