"""The clipped losses, divergences from the reference, and means over masked tensors.

Axes are always (batch, time[, vocab]). A mask is True where an entry counts; what is under a False
is never read, so it may hold anything finite or not.
"""

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor


def check_shapes(expected: Tensor, **others: Tensor) -> None:
    """Raise unless every tensor has the shape of the first.

    Args:
        expected: The tensor whose shape is the right one.
        others: Tensors to check, by the names that the message shows.

    Raises:
        ValueError: if a shape differs; the message shows both.
    """
    for name, tensor in others.items():
        if tensor.shape != expected.shape:
            raise ValueError(
                f"{name} must have shape {tuple(expected.shape)}, got {tuple(tensor.shape)}; "
                "the axes are (batch, time)"
            )


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` as it is in float32 or float64, and any other type as float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def no_spread(x: Tensor, mask: Tensor | None = None, dim: int | tuple[int, ...] = ()) -> Tensor:
    """Return where the values along ``dim`` differ by no more than rounding.

    max - min <= 4 * eps * max |x|,  eps the type's: 2^-23 of float32

    The mean of equal values is rounded, so that what is left after subtracting it says nothing, and
    divided by its own spread becomes noise of size 1. Every advantage that is taken against other
    values asks here: equal ones have advantage exactly 0 at any magnitude.

    Args:
        x: Any unit, float32 or float64.
        mask: Of the shape of ``x``, bool, True where an entry counts; None counts all.
        dim: Axes that are compared, which the result has with size 1; () compares all.

    Example:
        >>> no_spread(torch.tensor([[996.25, 996.25], [0.0, 1e-6], [996.25, 996.26]]), dim=1)
        tensor([[ True],
                [False],
                [False]])
    """
    most = (x if mask is None else x.masked_fill(~mask, -torch.inf)).amax(dim, keepdim=True)
    least = (x if mask is None else x.masked_fill(~mask, torch.inf)).amin(dim, keepdim=True)
    size = torch.maximum(most.abs(), least.abs())
    return most - least <= 4.0 * torch.finfo(x.dtype).eps * size


def masked_mean(
    x: Tensor,
    mask: Tensor,
    *,
    count: int | Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the mean of ``x`` where ``mask`` is True.

    mean = sum_{mask} x / count,  or  sum_{mask} x * weights

    Args:
        x: (...), any unit.
        mask: (...) bool, True keeps.
        count: Divisor where ``x`` is a part of a larger batch: that batch's number of unmasked
            tokens. The parts' results then add up to the batch's mean.
        weights: (...) weight of each entry in place of 1 / count; see `loss_weights`.

    Returns:
        Scalar, in the unit of ``x``.

    Raises:
        ValueError: if shapes differ or nothing is unmasked.
    """
    check_shapes(x, mask=mask)
    if weights is not None:
        check_shapes(x, weights=weights)
        return (x.masked_fill(~mask, 0.0) * weights).sum()
    count = mask.sum() if count is None else count
    _check_keeps(mask, count)
    return x.masked_fill(~mask, 0.0).sum() / count


def _check_keeps(mask: Tensor, count: Tensor | float) -> None:
    """Refuse a mask that counts nothing."""
    if not count > 0:
        raise ValueError(f"the mask of shape {tuple(mask.shape)} keeps nothing; there is no mean")


def masked_std(x: Tensor, mask: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """Return the standard deviation of the unmasked entries, what `masked_whiten` divides by.

    std = sqrt(mean((x - mean)^2) + epsilon);  1 where `masked_whiten` has nothing to divide

    Args:
        x: (batch, time), any unit.
        mask: (batch, time) bool, True keeps.
        epsilon: As in `masked_whiten`.

    Returns:
        Scalar, in the unit of ``x``.
    """
    return _checked_whitening(x, mask, epsilon).std


def masked_whiten(x: Tensor, mask: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """Return ``x`` shifted to mean 0 and scaled to variance 1 over the unmasked entries.

    w = (x - mean) / sqrt(variance + epsilon), variance = mean((x - mean)^2)

    The variance is the population's, divided by n. CleanRL and TRL divide by n - 1: of 100 tokens
    their result is 0.5 % smaller.

    Args:
        x: (batch, time), any unit.
        mask: (batch, time) bool, True keeps.
        epsilon: Keeps small spreads from being scaled up.

    Returns:
        (batch, time), unitless, float32 at least; 0 where the mask is False, and everywhere if the
        entries differ by no more than rounding, see `no_spread`.
    """
    return _checked_whitening(x, mask, epsilon).whitened


class Whitening(NamedTuple):
    """Entries with mean 0 and variance 1, and what they were divided by."""

    whitened: Tensor
    """(batch, time), as `masked_whiten` returns it."""
    std: Tensor
    """Scalar, as `masked_std` returns it."""
    is_finite: Tensor
    """Scalar bool: whether the variance is; where it is not, neither of the others holds."""


def whitening(x: Tensor, mask: Tensor, *, epsilon: float = 1e-8) -> Whitening:
    """Return what `masked_whiten` and `masked_std` do, without waiting for the device.

    What a device alone knows is not refused, nor computed again in float64: a mask that keeps
    nothing, and a variance that overflows float32.

    Args:
        x: (batch, time), any unit.
        mask: (batch, time) bool, True keeps.
        epsilon: As in `masked_whiten`.
    """
    check_shapes(x, mask=mask)
    x = at_least_float32(x)
    return _whitening(x, mask, no_spread(x, mask), epsilon)


def _whitening(x: Tensor, mask: Tensor, is_equal: Tensor, epsilon: float) -> Whitening:
    count = mask.sum()
    mean = x.masked_fill(~mask, 0.0).sum() / count
    variance = ((x - mean) ** 2).masked_fill(~mask, 0.0).sum() / count
    centred = (x - mean).masked_fill(is_equal, 0.0)
    return Whitening(
        (centred * torch.rsqrt(variance + epsilon)).masked_fill(~mask, 0.0),
        torch.where(is_equal.squeeze(), 1.0, (variance + epsilon).sqrt()),
        variance.isfinite(),
    )


def _checked_whitening(x: Tensor, mask: Tensor, epsilon: float) -> Whitening:
    """Return `whitening`, in float64 where float32 overflows.

    The square of 1e20 does, and by an infinite deviation everything would be whitened to 0.
    """
    check_shapes(x, mask=mask)
    _check_keeps(mask, mask.sum())
    x = at_least_float32(x)
    is_equal = no_spread(x, mask)
    found = _whitening(x, mask, is_equal, epsilon)
    if found.is_finite or x.dtype == torch.float64:
        return found
    wide = _whitening(x.double(), mask, is_equal, epsilon)
    return Whitening(wide.whitened.to(x.dtype), wide.std.to(x.dtype), wide.is_finite)


KL_ESTIMATORS = ("k1", "k2", "k3")
"""Names of the estimators of `kl_estimate`."""


def kl_estimate(log_probs: Tensor, ref_log_probs: Tensor, *, estimator: str = "k1") -> Tensor:
    """Return a per-token estimate of KL(policy || reference) from tokens the policy sampled.

    d = log_probs - ref_log_probs;  k1 = d,  k2 = d^2 / 2,  k3 = exp(-d) - 1 + d

    k1 is unbiased and may be negative; k2 is biased and k3 unbiased, both never negative.

    Args:
        log_probs: (batch, time), nats, of the chosen tokens under the policy.
        ref_log_probs: (batch, time), nats, under the reference.
        estimator: "k1", "k2" or "k3".

    Returns:
        (batch, time), nats.

    Raises:
        ValueError: if shapes differ or the estimator is unknown.

    Source: Schulman 2020, "Approximating KL divergence".
    """
    check_shapes(log_probs, ref_log_probs=ref_log_probs)
    difference = log_probs - ref_log_probs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference**2
    if estimator == "k3":
        return torch.expm1(-difference) + difference
    raise ValueError(f"estimator must be one of {', '.join(KL_ESTIMATORS)}, got {estimator!r}")


def full_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """Return KL(policy || reference), exact over the vocabulary.

    KL = sum_v p_v * (log p_v - log q_v),  p = softmax(logits), q = softmax(ref_logits)

    Args:
        logits: (..., vocab), the policy's, after temperature; -inf where the action mask forbids.
        ref_logits: (..., vocab), the reference's, under the same temperature and mask.

    Returns:
        (...), nats, >= 0 up to rounding. Its gradient reaches the logits, not the reference's.

    Raises:
        ValueError: if shapes differ.
    """
    check_shapes(logits, ref_logits=ref_logits)
    return cast(Tensor, _FullKL.apply(logits, ref_logits))


class _FullKL(torch.autograd.Function):
    """`full_kl` with its gradient written out: dKL / dlogits_v = p_v (log p_v - log q_v - KL).

    Half the time of autograd's, which keeps and passes over (..., vocab) once per operation.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ref_logits: Tensor) -> Tensor:
        log_p = F.log_softmax(logits, -1)
        p = log_p.exp()
        # A forbidden token has log p = log q = -inf and adds 0, not nan.
        difference = log_p.sub_(F.log_softmax(ref_logits, -1)).masked_fill_(p == 0.0, 0.0)
        kl = (p * difference).sum(-1)
        ctx.save_for_backward(p, difference, kl)
        return kl

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        p, difference, kl = ctx.saved_tensors  # (..., vocab) twice, (...)
        # The derivative of p log p has a 1 beside log p; as the p sum to 1, it cancels.
        return (difference - kl.unsqueeze(-1)).mul_(p).mul_(grad.unsqueeze(-1)), None


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the next-token distribution.

    H = -sum_v p_v * log p_v,  p = softmax(logits)

    Args:
        logits: (..., vocab), after temperature; -inf where the action mask forbids.

    Returns:
        (...), nats, >= 0.
    """
    log_p = F.log_softmax(logits, -1)
    return -(log_p.exp() * log_p.masked_fill(torch.isneginf(log_p), 0.0)).sum(-1)


def adaptive_kl_coef(
    kl_coef: float, kl: float, *, target: float, horizon: float, n_steps: int
) -> float:
    """Return the KL coefficient moved towards a target KL, by at most 20 % per horizon.

    c <- c * (1 + clip(kl / target - 1, -0.2, 0.2) * min(n_steps / horizon, 1))

    The paper's is without the min; an update of five horizons would make c negative.

    Args:
        kl_coef: The coefficient that was used.
        kl: KL per episode that was measured, nats.
        target: KL per episode that is wanted, nats.
        horizon: Episodes over which the correction takes place.
        n_steps: Episodes since the last correction.

    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2.

    Example:
        >>> round(adaptive_kl_coef(0.2, 9.0, target=6.0, horizon=100, n_steps=50), 6)
        0.22
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return kl_coef * (1.0 + error * min(n_steps, horizon) / horizon)


def masked_ratio(log_probs: Tensor, old_log_probs: Tensor, response_mask: Tensor) -> Tensor:
    """Return rho = pi / pi_old of each token, (batch, time); 1 outside the mask.

    Masked before the exp: an infinite ratio under the mask would give a nan gradient.
    """
    return (log_probs - old_log_probs).masked_fill(~response_mask, 0.0).exp()


def clipped_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
) -> Tensor:
    """Return each token's part of `policy_loss`, whose arguments and errors these are.

    Returns:
        (batch, time); where the mask is False the ratio is 1.
    """
    check_shapes(log_probs, old_log_probs=old_log_probs, advantages=advantages)
    ratio = masked_ratio(log_probs, old_log_probs, response_mask)
    high = clip_range if clip_range_high is None else clip_range_high
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


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
        weights: See `masked_mean`.

    Returns:
        Scalar.

    Raises:
        ValueError: if shapes differ.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7.
    """
    per_token = clipped_loss(
        log_probs,
        old_log_probs,
        advantages,
        response_mask,
        clip_range=clip_range,
        clip_range_high=clip_range_high,
    )
    return masked_mean(per_token, response_mask, count=count, weights=weights)


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
        lengths = response_mask.sum(1, keepdim=True).clamp(min=1)
        return response_mask.float() / (rows * lengths)
    if mean == "constant":
        return response_mask.float() / (rows * horizon)
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
    # Masked before the square: an infinite error under the mask would give a nan gradient.
    error = (values - returns).masked_fill(~response_mask, 0.0) ** 2
    if clip_range_vf is not None:
        clipped = old_values + (values - old_values).clamp(-clip_range_vf, clip_range_vf)
        error = torch.maximum(error, (clipped - returns).masked_fill(~response_mask, 0.0) ** 2)
    return 0.5 * masked_mean(error, response_mask, count=count)
