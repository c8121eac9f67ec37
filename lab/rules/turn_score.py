"""A turn's score at its last token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokengym.rewards import token_credit

if TYPE_CHECKING:
    from torch import Tensor


@token_credit(cut="turn", parts=True)
def turn_score(turn_scores: Tensor) -> Tensor:
    """Each turn earns, at its last token, the score that the partner gave it.

    r_{e_k} = s_k for turn k with last token e_k; the episode's last token also gets R - sum_k s_k

    Under the scorer "partner" the rest is 0: the rewards are the turns' scores. Under any other
    scorer the episode's own score comes on top, minus what the turns were paid. A reply in which
    the partner gave no score pays nothing, and an episode of one turn is `sparse`.
    """
    return turn_scores.nan_to_num()
