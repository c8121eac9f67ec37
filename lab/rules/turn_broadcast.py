"""The episode's score, the same for every turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokengym.lab.rules.turn_return import turn_ends
from tokengym.rewards import token_credit

if TYPE_CHECKING:
    from torch import Tensor


@token_credit(cut="turn", conserves=lambda published: not published)
def turn_broadcast(paid: Tensor, turn_ids: Tensor, published: bool = False) -> Tensor:
    """Each turn earns an equal share of the episode's score, or all of it.

    r_{e_k} = R / K for each of K turns with last tokens e_k;  R where ``published``

    The share R / K keeps the sum. As published, every turn is trained on the whole score, R at
    each, which sums to K R: conversations of more turns weigh more, and a learner from returns
    sees R again for every turn to come. The estimator "turn-returns" with gamma=0 takes a turn's
    reward as the advantage of its tokens and nothing else, which is what those trainers do.

    Args:
        paid: R.
        turn_ids: The turns.
        published: Whether each turn earns all of the score.

    Source: the default of trainers for conversations; the survey arXiv:2604.09459 names it as what
    turn credit is to improve on.

    Example:
        >>> import torch
        >>> turns = torch.tensor([[0, 1]])
        >>> turn_broadcast(torch.tensor([3.0]), turns).tolist()
        [[1.5, 1.5]]
        >>> turn_broadcast(torch.tensor([3.0]), turns, published=True).tolist()
        [[3.0, 3.0]]
    """
    ends = turn_ends(turn_ids)
    count = 1 if published else ends.sum(1, keepdim=True)
    return paid[:, None] / count * ends
