"""The clipped losses of policy and values."""

import torch
from torch import Tensor

from tokengym.agents.losses.masks import check_shapes, masked_mean


def policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    clip_range: float,
    count: int | Tensor | None = None,
) -> Tensor:
    """Return PPO's clipped surrogate, negated so that lower is better.

    ratio = exp(log_probs - old_log_probs)
    L = -mean_masked(min(ratio * A, clip(ratio, 1 - clip_range, 1 + clip_range) * A))

    Args:
        log_probs: (batch, time), nats, under the policy being trained.
        old_log_probs: (batch, time), nats, as stored when the token was sampled.
        advantages: (batch, time).
        response_mask: (batch, time) bool.
        clip_range: How far the ratio may move before its gradient stops.
        count: See `masked_mean`.

    Returns:
        Scalar.

    Raises:
        ValueError: if shapes differ.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7.
    """
    check_shapes(log_probs, old_log_probs=old_log_probs, advantages=advantages)
    # Masked before the exp: an infinite ratio under the mask would give a nan gradient.
    ratio = (log_probs - old_log_probs).masked_fill(~response_mask, 0.0).exp()
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    return -masked_mean(surrogate, response_mask, count=count)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    response_mask: Tensor,
    *,
    clip_range_vf: float | None,
    count: int | Tensor | None = None,
) -> Tensor:
    """Return the clipped squared error of the values.

    clipped = clip(V, V_old - clip_range_vf, V_old + clip_range_vf)
    L = 0.5 * mean_masked(max((V - return)^2, (clipped - return)^2))

    Args:
        values: (batch, time), of the value head being trained, reward units.
        old_values: (batch, time), as stored when the tokens were sampled.
        returns: (batch, time), advantages + old values.
        response_mask: (batch, time) bool.
        clip_range_vf: In reward units; None leaves the plain squared error.
        count: See `masked_mean`.

    Returns:
        Scalar, reward units squared.

    Raises:
        ValueError: if shapes differ.
    """
    check_shapes(values, old_values=old_values, returns=returns)
    error = (values - returns) ** 2
    if clip_range_vf is not None:
        clipped = old_values + (values - old_values).clamp(-clip_range_vf, clip_range_vf)
        error = torch.maximum(error, (clipped - returns) ** 2)
    return 0.5 * masked_mean(error, response_mask, count=count)
