"""A control: the score in parts that grow towards the end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from tokengym.base.settings import check_number
from tokengym.rewards.credits.token_credit import token_credit
from tokengym.rewards.errors import CreditError
from tokengym.rewards.maths.tokens import shares

if TYPE_CHECKING:
    from torch import Tensor


def _check(options: SimpleNamespace) -> None:
    check_number(options, "tau", above=0, finite=True, error=CreditError)


@token_credit(control=True, check=_check)
def recency(paid: Tensor, positions: Tensor, response_mask: Tensor, tau: float = 10.0) -> Tensor:
    """Each token earns more of the score the later it stands, whatever it says.

    alpha_t = exp(-(n - 1 - t) / tau) / sum_s exp(-(n - 1 - s) / tau)

    Args:
        paid: R.
        positions: t.
        response_mask: The tokens.
        tau: Tokens over which a weight falls by e; small is nearly sparse, large nearly uniform.
    """
    distance = response_mask.sum(1, keepdim=True) - 1 - positions
    return paid[:, None] * shares((-distance.to(paid) / tau).exp(), response_mask)
