"""ABC: the score spread by the reward model's own attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokengym.rewards.credits.token_credit import token_credit
from tokengym.rewards.maths.tokens import shares

if TYPE_CHECKING:
    from torch import Tensor


@token_credit(beta=0.8)
def abc(paid: Tensor, attention: Tensor, response_mask: Tensor) -> Tensor:
    """Each token earns its share of the score by how much the reward model looked at it.

    r_t = beta * R * alpha_t / sum_s alpha_s + (1 - beta) * R * 1[t = n - 1]

    alpha is the reward model's last layer, averaged over heads, in the row of the last response
    token, restricted to the response. It comes with the score, from the same pass. The paper's
    headline runs use beta = 0.8, its sweep is best at 1.

    Source: Chan et al. 2024, "Dense Reward for Free in RLHF", arXiv:2402.00782, eq. 5.
    """
    return paid[:, None] * shares(attention, response_mask)
