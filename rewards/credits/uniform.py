"""The score in equal parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokengym.rewards.credits.token_credit import token_credit

if TYPE_CHECKING:
    from torch import Tensor


@token_credit(control=True)
def uniform(paid: Tensor, response_mask: Tensor) -> Tensor:
    """Each token earns the same part of the score, whatever it says.

    r_t = R / n

    Source: the uniform baseline of Chan et al. 2024, arXiv:2402.00782.
    """
    return paid[:, None] / response_mask.sum(1, keepdim=True) * response_mask
