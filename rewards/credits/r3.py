"""R3, the regularised relevance reward, on the last token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokengym.rewards.credits.token_credit import token_credit
from tokengym.rewards.maths.relevance import COMPONENTS
from tokengym.rewards.maths.tokens import on_last

if TYPE_CHECKING:
    from torch import Tensor


@token_credit(scorer="encoder", scorer_options=COMPONENTS)
def r3(paid: Tensor, response_mask: Tensor) -> Tensor:
    """The last token earns the relevance of the response to the question or a reference.

    Source: Kim et al. 2024, arXiv:2402.03469.
    """
    return on_last(paid, response_mask)
