"""R3 token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokengym.rewards.credits.token_credit import token_credit
from tokengym.rewards.maths.relevance import COMPONENTS

if TYPE_CHECKING:
    from torch import Tensor


@token_credit(scorer_options=COMPONENTS)
def r3_dense(relevance: Tensor) -> Tensor:
    """Each token earns its exact part in the relevance of the response, good or bad.

    Relevance is a mean-pooled dot product, so that its parts cost no extra pass.

    Source: the decomposition in `maths.relevance.relevance_shares`; the reward is Kim et al.
    2024, arXiv:2402.03469.
    """
    return relevance
