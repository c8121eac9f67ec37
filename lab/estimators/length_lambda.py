"""Generalised advantage estimates whose lambda rises with the length of the response."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from tokengym.agents import losses
from tokengym.rewards import token_credit

ALPHA = 0.05
"""VAPO's."""


def lambda_of(length: Tensor, alpha: float = ALPHA) -> Tensor:
    """Return the lambda of a response of each length.

    lambda_n = max(0, 1 - 1 / (alpha n))

    The sum of the weights lambda^k of the steps ahead is then alpha n: a share of the response.

    Args:
        length: (batch,) tokens.
        alpha: That share, above 0. VAPO's 0.05 makes lambda 0 for responses of up to 20 tokens.

    Example:
        >>> import torch
        >>> lambda_of(torch.tensor([10, 40])).tolist()
        [0.0, 0.5]
    """
    return (1.0 - 1.0 / (alpha * length.clamp(min=1).float())).clamp(min=0.0)


@token_credit(whitens=True)
def gae_length(
    token_rewards: Tensor,
    values: Tensor,
    final_values: Tensor,
    response_mask: Tensor,
    gamma: float,
    gae_lambda_vf: float | None,
    alpha: float = ALPHA,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Advantages at the lambda of each response's length, and returns at 1 or ``gae_lambda_vf``.

    Yue et al. 2025, VAPO, arXiv:2504.05118.
    """
    known: Any = {"gamma": gamma, "final_values": final_values}
    estimates = partial(losses.gae, token_rewards, values, response_mask, **known)
    advantages, _ = estimates(gae_lambda=lambda_of(response_mask.sum(1), alpha))
    _, returns = estimates(gae_lambda=1.0 if gae_lambda_vf is None else gae_lambda_vf)
    return advantages, {"returns": returns}
