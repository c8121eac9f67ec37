"""Progress between scored turns, spread back over the turns that led to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokengym.lab.rules.turn_return import check_gamma, powers, turn_ends
from tokengym.rewards import token_credit

if TYPE_CHECKING:
    from torch import Tensor


@token_credit(cut="turn", parts=True, check=check_gamma)
def turn_progress(
    turn_scores: Tensor, turn_ids: Tensor, gamma: float = 0.5, published: bool = False
) -> Tensor:
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
        turn_scores: s.
        turn_ids: k.
        gamma: Weight of a turn before, in [0, 1]: 0 pays the turn that made the progress alone, 1
            all turns up to it alike.
        published: Whether progress begins at the first scored turn, as in the source.

    Source: prime-rl's `turn_credit` (pull request 3282, 2026); the group's advantage, to which it
    adds these, is the learner's.

    Example:
        >>> import torch
        >>> turns = torch.tensor([[0, 1]])
        >>> turn_progress(torch.tensor([[0.0, 3.0]]), turns, gamma=0.5).tolist()
        [[1.0, 2.0]]
        >>> turn_progress(torch.tensor([[3.0, 0.0]]), turns, gamma=0.5, published=True).tolist()
        [[-1.0, -2.0]]
    """
    known = turn_scores.nan_to_num()
    places = turn_ids.new_ones(turn_ids.shape[1]).cumsum(0) - 1
    scored = places.where(~turn_scores.isnan(), -1).cummax(1).values  # the last one, or -1
    start = known.gather(1, turn_scores.isnan().long().argmin(1, keepdim=True))
    start = start if published else start * 0
    stands = known.gather(1, scored.clamp(min=0)).where(scored >= 0, start)
    gained = stands.diff(dim=1, prepend=start) * (turn_ids >= 0)
    weights = powers(gamma, turn_ids).to(known) * turn_ends(turn_ids)[:, None]
    total = weights.sum(2, keepdim=True)
    return (gained[:, None] @ (weights / total.where(total > 0, 1.0)))[:, 0]
