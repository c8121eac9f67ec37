"""Formulas of the weights on the advantage, (batch, time) tensors in and out.

A weight redistributes an advantage over the tokens of a response, where a credit rule redistributes
its reward. Weights are >= 0 and have mean 1 over each response (`losses.mean_one`), so that the
size of the step stays what it was.
"""

import torch
from torch import Tensor

from tokengym.agents import losses


def top_weights(values: Tensor, response_mask: Tensor, *, share: float) -> Tensor:
    """Return equal weights on the tokens of a response with the highest values, 0 on the others.

    w_t = n / k on the k = ceil(share n) highest of n tokens; of equal values the earlier counts

    Args:
        values: (batch, time), such as entropies in nats.
        response_mask: (batch, time) bool.
        share: Share of the tokens that are kept, in (0, 1].

    Returns:
        (batch, time), unitless; 0 where the mask is False.

    Source: Wang et al. 2025, arXiv:2506.01939, keeps the fifth of a batch's tokens with the highest
        entropy; here it is the fifth of each response's, so that each keeps its weight.

    Example:
        >>> import torch
        >>> mask = torch.ones(1, 4, dtype=torch.bool)
        >>> top_weights(torch.tensor([[0.1, 0.9, 0.5, 0.2]]), mask, share=0.5).tolist()
        [[0.0, 2.0, 2.0, 0.0]]
    """
    losses.check_shapes(response_mask, values=values)
    lengths = response_mask.sum(1, keepdim=True)
    kept = torch.ceil(share * lengths - 1e-6).clamp(min=1)
    order = values.masked_fill(~response_mask, -torch.inf).argsort(
        dim=1, descending=True, stable=True
    )
    ranks = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return losses.mean_one((ranks < kept).to(values.dtype), response_mask)


def entropy_bonus_weights(
    entropy: Tensor, advantages: Tensor, response_mask: Tensor, *, share: float
) -> Tensor:
    """Return weights that grow with the entropy where the advantage is positive, else fall with it.

    w_t = 1 - share + share H_t / mean over the rows alive at t of H_t,  1 / H in place of H in
    responses of negative advantage; each sign has its own mean, and each response is scaled to a
    mean of 1

    Args:
        entropy: (batch, time), nats, of the policy that sampled.
        advantages: (batch, time); a response's sign is that of its sum.
        response_mask: (batch, time) bool.
        share: Weight of the entropy, in [0, 1].

    Returns:
        (batch, time), unitless; 0 where the mask is False.

    Source: GTPO, Tan et al. 2025, arXiv:2508.04349. There the entropy shapes the rewards of a
        group's right answers and, inverted, of its wrong ones; here the sign of the advantage tells
        them apart, over the whole batch.
    """
    losses.check_shapes(response_mask, entropy=entropy, advantages=advantages)
    is_good = (advantages.masked_fill(~response_mask, 0.0).sum(1) >= 0)[:, None]
    floor = torch.where(is_good, entropy, 1.0 / entropy.clamp(min=1e-3))
    weights = torch.ones_like(entropy)
    for chosen in (is_good, ~is_good):
        alive = response_mask & chosen
        mean = floor.masked_fill(~alive, 0.0).sum(0) / alive.sum(0).clamp(min=1)
        shaped = 1.0 - share + share * floor / mean.clamp(min=1e-12)
        weights = torch.where(alive, shaped, weights)
    return losses.mean_one(weights, response_mask)


def softmax_weights(values: Tensor, response_mask: Tensor, *, temperature: float) -> Tensor:
    """Return weights proportional to exp(value / temperature).

    w_t = n softmax(value / temperature)_t over the response

    Args:
        values: (batch, time), such as log ratios in nats.
        response_mask: (batch, time) bool.
        temperature: In the unit of the values; large makes all weights 1.

    Returns:
        (batch, time), unitless; 0 where the mask is False.
    """
    losses.check_shapes(response_mask, values=values)
    logits = (values / temperature).masked_fill(~response_mask, -torch.inf)
    return losses.mean_one(logits.softmax(1), response_mask)


def band_weights(values: Tensor, response_mask: Tensor, *, low: float, high: float) -> Tensor:
    """Return equal weights on the tokens of a response whose values lie in a band, 0 elsewhere.

    w_t = n / k on the k of n tokens with low <= v_t <= high;  1 everywhere if there are none

    Args:
        values: (batch, time), such as relative surprisals.
        response_mask: (batch, time) bool.
        low: Least value that is kept.
        high: Largest value that is kept.

    Returns:
        (batch, time), unitless; 0 where the mask is False.

    Example:
        >>> import torch
        >>> mask = torch.ones(1, 4, dtype=torch.bool)
        >>> band_weights(torch.tensor([[0.1, 0.5, 2.0, 9.0]]), mask, low=0.5, high=2.0).tolist()
        [[0.0, 2.0, 2.0, 0.0]]
    """
    losses.check_shapes(response_mask, values=values)
    return losses.mean_one(((values >= low) & (values <= high)).to(values.dtype), response_mask)


def gated_weights(
    importance: Tensor, response_mask: Tensor, *, quantile: float, boost: float
) -> Tensor:
    """Return weights that fall below a quantile of the importance and rise above it.

    s = log(1 + importance), scaled to [0, 1] over the response; q its quantile
    w_t = max(s_t / q, 0.1) where s_t < q, else 1 + boost (s_t - q) / (1 - q); divided by their mean

    Args:
        importance: (batch, time), >= 0.
        response_mask: (batch, time) bool.
        quantile: Share of a response's tokens below q, in [0, 1].
        boost: Extra weight of the most important token, >= 0.

    Returns:
        (batch, time), unitless; 0 where the mask is False.

    Source: Li et al. 2026, OAR, arXiv:2601.07408, and its code (`calculate_oar_hybrid_weights`).
    """
    losses.check_shapes(response_mask, importance=importance)
    scores = importance.log1p().double()
    low = scores.masked_fill(~response_mask, torch.inf).amin(1, keepdim=True)
    high = scores.masked_fill(~response_mask, -torch.inf).amax(1, keepdim=True)
    scaled = torch.where(high > low, (scores - low) / (high - low), 0.0)
    response_values = scaled.masked_fill(~response_mask, torch.nan)
    middle = torch.nanquantile(response_values, quantile, dim=1, keepdim=True).nan_to_num()
    rising = 1.0 + boost * (scaled - middle) / (1.0 - middle).clamp(min=1e-8)
    falling = (scaled / middle.clamp(min=1e-8)).clamp(min=0.1)
    weights = torch.where(scaled < middle, falling, rising)
    return losses.mean_one(weights.to(importance.dtype), response_mask)


def evidence_weights(
    log_ratios: Tensor, advantages: Tensor, response_mask: Tensor, *, mix: float, clip: float
) -> Tensor:
    """Return weights that grow where a teacher would rather have written the token.

    w_t = 1 - mix + mix clip(exp(sign(A) d_t), 1 - clip, 1 + clip), divided by their mean

    Args:
        log_ratios: (batch, time) d, log pi_teacher - log pi, nats.
        advantages: (batch, time); the sign of a response is that of its sum.
        response_mask: (batch, time) bool.
        mix: Share of the teacher, in [0, 1].
        clip: Largest departure from 1, in [0, 1].

    Returns:
        (batch, time), unitless; 0 where the mask is False.

    Source: Yang et al. 2026, RLSD, arXiv:2604.03128, which does not divide by the mean and lets
        ``mix`` fall to 0.
    """
    losses.check_shapes(response_mask, log_ratios=log_ratios, advantages=advantages)
    sign = advantages.masked_fill(~response_mask, 0.0).sum(1, keepdim=True).sign()
    evidence = (sign * log_ratios).exp().clamp(1.0 - clip, 1.0 + clip)
    return losses.mean_one(1.0 - mix + mix * evidence, response_mask)
