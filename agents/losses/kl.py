"""Divergence from the reference, entropy, and the adaptive price of the divergence."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tokengym.agents.losses.masks import check_shapes

KL_ESTIMATORS = ("k1", "k2", "k3")


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
        p, difference, kl = ctx.saved_tensors
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
