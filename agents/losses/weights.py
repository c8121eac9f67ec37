"""Weights of a response's tokens, which multiply its advantages: tensors in, tensors out.

A weight redistributes an advantage over the tokens of a response, where a credit rule redistributes
its reward. Every function here returns weights >= 0 whose mean over each response is 1, so that the
size of the step stays what it was.
"""

import torch
from torch import Tensor

from tokengym.agents.losses.masks import check_shapes


def mean_one(weights: Tensor, response_mask: Tensor) -> Tensor:
    """Return weights divided by their mean over each response.

    w_t n / sum over s of w_s;  1 everywhere in a response whose weights are all 0

    Args:
        weights: (batch, time), >= 0, any scale.
        response_mask: (batch, time) bool.

    Returns:
        (batch, time), unitless; 0 where the mask is False.

    Example:
        >>> import torch
        >>> mean_one(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]])).tolist()
        [[0.5, 1.5, 0.0]]
    """
    check_shapes(response_mask, weights=weights)
    kept = weights.masked_fill(~response_mask, 0.0)
    total = kept.sum(1, keepdim=True)
    lengths = response_mask.sum(1, keepdim=True)
    scaled = torch.where(total > 0, kept * lengths / total.clamp(min=1e-30), 1.0)
    return scaled.masked_fill(~response_mask, 0.0)


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
    check_shapes(response_mask, values=values)
    lengths = response_mask.sum(1, keepdim=True)
    kept = torch.ceil(share * lengths - 1e-6).clamp(min=1)
    order = values.masked_fill(~response_mask, -torch.inf).argsort(
        dim=1, descending=True, stable=True
    )
    ranks = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return mean_one((ranks < kept).to(values.dtype), response_mask)


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
    check_shapes(response_mask, entropy=entropy, advantages=advantages)
    is_good = (advantages.masked_fill(~response_mask, 0.0).sum(1) >= 0)[:, None]
    floor = torch.where(is_good, entropy, 1.0 / entropy.clamp(min=1e-3))
    weights = torch.ones_like(entropy)
    for chosen in (is_good, ~is_good):
        alive = response_mask & chosen
        mean = floor.masked_fill(~alive, 0.0).sum(0) / alive.sum(0).clamp(min=1)
        shaped = 1.0 - share + share * floor / mean.clamp(min=1e-12)
        weights = torch.where(alive, shaped, weights)
    return mean_one(weights, response_mask)


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
    check_shapes(response_mask, values=values)
    logits = (values / temperature).masked_fill(~response_mask, -torch.inf)
    return mean_one(logits.softmax(1), response_mask)
