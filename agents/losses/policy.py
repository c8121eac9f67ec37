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
    clip_range_high: float | None = None,
    count: int | Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return PPO's clipped surrogate, negated so that lower is better.

    ratio = exp(log_probs - old_log_probs)
    L = -mean_masked(min(ratio * A, clip(ratio, 1 - clip_range, 1 + clip_range_high) * A))

    Args:
        log_probs: (batch, time), nats, under the policy being trained.
        old_log_probs: (batch, time), nats, as stored when the token was sampled.
        advantages: (batch, time).
        response_mask: (batch, time) bool.
        clip_range: How far the ratio may move before its gradient stops.
        clip_range_high: The same upwards; None takes ``clip_range``. DAPO has 0.28
            (arXiv:2503.14476).
        count: See `masked_mean`.
        weights: (batch, time) weight of each token in place of 1 / count; see `loss_weights`.

    Returns:
        Scalar.

    Raises:
        ValueError: if shapes differ.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7.
    """
    check_shapes(log_probs, old_log_probs=old_log_probs, advantages=advantages)
    # Masked before the exp: an infinite ratio under the mask would give a nan gradient.
    ratio = (log_probs - old_log_probs).masked_fill(~response_mask, 0.0).exp()
    high = clip_range if clip_range_high is None else clip_range_high
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + high)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    if weights is not None:
        check_shapes(log_probs, weights=weights)
        return -(surrogate.masked_fill(~response_mask, 0.0) * weights).sum()
    return -masked_mean(surrogate, response_mask, count=count)


def loss_weights(response_mask: Tensor, mean: str, *, rows: int, horizon: int) -> Tensor:
    """Return the weight of each token in a loss that is not a mean over tokens.

    sequence: 1 / (rows * n_i), a mean over the tokens of a response, then over responses (GRPO)
    constant: 1 / (rows * horizon), a sum over tokens over a constant (Dr. GRPO)

    Args:
        response_mask: (batch, time) bool.
        mean: "sequence" or "constant".
        rows: Responses of the whole minibatch, of which this batch may be a part.
        horizon: Longest response, tokens.

    Returns:
        (batch, time); 0 where the mask is False.

    Raises:
        ValueError: if the mean is unknown.

    Source: Shao et al. 2024, arXiv:2402.03300; Liu et al. 2025, arXiv:2503.20783.

    Example:
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> loss_weights(mask, "sequence", rows=2, horizon=4).tolist()
        [[0.25, 0.25], [0.5, 0.0]]
        >>> loss_weights(mask, "constant", rows=2, horizon=4).tolist()
        [[0.125, 0.125], [0.125, 0.0]]
    """
    if mean == "sequence":
        return response_mask / (rows * response_mask.sum(1, keepdim=True).clamp(min=1))
    if mean == "constant":
        return response_mask / torch.tensor(float(rows * horizon))
    raise ValueError(f"mean must be 'sequence' or 'constant', got {mean!r}")


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
        clip_range_vf: Most that a value may move, reward units; None does not clip.
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
