"""The mathematics of learning from token sequences: pure functions of tensors.

Axes are always (batch, time[, vocab]). ``response_mask`` is True where the policy chose the token;
what lies under a False is never read, so it may hold anything finite or not.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

KL_ESTIMATORS = ("k1", "k2", "k3")


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


def masked_mean(x: Tensor, mask: Tensor, *, count: int | Tensor | None = None) -> Tensor:
    """Return the mean of ``x`` where ``mask`` is True.

    mean = sum_{mask} x / count

    Args:
        x: (...), any unit.
        mask: (...) bool, True keeps.
        count: What to divide by, where ``x`` is a part of a larger whole: the number of unmasked
            tokens of that whole. Then the parts' results add up to the whole's mean.

    Returns:
        Scalar, in the unit of ``x``.

    Raises:
        ValueError: if shapes differ or nothing is unmasked.
    """
    check_shapes(x, mask=mask)
    count = mask.sum() if count is None else count
    if not count > 0:
        raise ValueError(f"the mask of shape {tuple(mask.shape)} keeps nothing; there is no mean")
    return x.masked_fill(~mask, 0.0).sum() / count


def masked_whiten(x: Tensor, mask: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """Return ``x`` shifted to mean 0 and scaled to variance 1 over the unmasked entries.

    w = (x - mean) / sqrt(variance + epsilon), variance = mean((x - mean)^2)

    Args:
        x: (batch, time), any unit.
        mask: (batch, time) bool, True keeps.
        epsilon: Keeps a constant ``x`` finite (it becomes 0).

    Returns:
        (batch, time), unitless; 0 where the mask is False.
    """
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    return ((x - mean) * torch.rsqrt(variance + epsilon)).masked_fill(~mask, 0.0)


def gae(
    token_rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
    final_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return generalised advantage estimates and the returns that the values should learn.

    delta_t = r_t + gamma * V_{t+1} - V_t
    A_t     = delta_t + gamma * gae_lambda * A_{t+1},  return_t = A_t + V_t

    V past an episode's last token is ``final_values``.

    Args:
        token_rewards: (batch, time), reward units.
        values: (batch, time) V(s_t), s_t being the text before token t, reward units.
        response_mask: (batch, time) bool, True on the response's own tokens, which lie together.
        gamma: Discount per token, in [0, 1].
        gae_lambda: In [0, 1]: 1 is Monte Carlo less the value, 0 the one-step TD error.
        final_values: (batch,) value past the last token; 0 (the default) unless truncated.

    Returns:
        Advantages and returns, both (batch, time), reward units; 0 where the mask is False.

    Raises:
        ValueError: if shapes differ or a coefficient lies outside [0, 1].

    Source: Schulman et al. 2016, arXiv:1506.02438, eq. 11 and 16.

    Example:
        >>> reward, value = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.25]])
        >>> mask = torch.ones(1, 2, dtype=torch.bool)
        >>> gae(reward, value, mask, gamma=1.0, gae_lambda=1.0)[0].tolist()
        [[0.5, 0.75]]
        >>> gae(reward, value, mask, gamma=1.0, gae_lambda=0.0)[0].tolist()
        [[-0.25, 0.75]]
    """
    check_shapes(token_rewards, values=values, response_mask=response_mask)
    for name, coefficient in (("gamma", gamma), ("gae_lambda", gae_lambda)):
        if not 0.0 <= coefficient <= 1.0:
            raise ValueError(
                f"{name} must lie in [0, 1], got {coefficient}; pass 1.0 for no discount"
            )
    next_value = (
        torch.zeros_like(values[:, 0]) if final_values is None else final_values
    )  # (batch,)
    check_shapes(values[:, 0], final_values=next_value)
    advantage = torch.zeros_like(next_value)  # (batch,) A_{t+1}
    advantages = torch.zeros_like(values)
    for t in reversed(range(values.shape[1])):
        mask = response_mask[:, t]
        delta = token_rewards[:, t] + gamma * next_value - values[:, t]
        # Before its last token is reached (from the right), a row carries its final value along.
        advantage = torch.where(mask, delta + gamma * gae_lambda * advantage, advantage)
        next_value = torch.where(mask, values[:, t], next_value)
        advantages[:, t] = advantage
    advantages = advantages.masked_fill(~response_mask, 0.0)
    return advantages, (advantages + values).masked_fill(~response_mask, 0.0)


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
        (...), nats, >= 0 up to rounding.

    Raises:
        ValueError: if shapes differ.
    """
    check_shapes(logits, ref_logits=ref_logits)
    log_p, log_q = F.log_softmax(logits, -1), F.log_softmax(ref_logits, -1)
    # A forbidden token has log p = log q = -inf and adds 0, not nan.
    difference = (log_p - log_q).masked_fill(torch.isneginf(log_p), 0.0)
    return (log_p.exp() * difference).sum(-1)


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


def adaptive_kl_coef(
    kl_coef: float, kl: float, *, target: float, horizon: float, n_steps: int
) -> float:
    """Return the KL coefficient moved towards a target KL, by at most 20 % per horizon.

    c <- c * (1 + clip(kl / target - 1, -0.2, 0.2) * n_steps / horizon)

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
    return kl_coef * (1.0 + error * n_steps / horizon)
