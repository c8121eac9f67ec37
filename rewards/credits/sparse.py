"""The whole score on the last token: RLHF as usual."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokengym.rewards.credits.token_credit import token_credit
from tokengym.rewards.maths.tokens import on_last

if TYPE_CHECKING:
    from torch import Tensor


@token_credit
def sparse(paid: Tensor, response_mask: Tensor) -> Tensor:
    """The last token earns the whole score, the others nothing: RLHF as usual.

    r_t = R if t = n - 1 else 0
    """
    return on_last(paid, response_mask)
