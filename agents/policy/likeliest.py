"""The tokens that top-k and nucleus sampling keep."""

import torch
import torch.nn.functional as F
from torch import Tensor

SORTED_BELOW = 4_096
"""Words of a vocabulary that is sorted to find the likeliest; of a larger one the edge is found."""
LEAST_HALF = 128
"""Most tokens that are sorted to find the edge of the nucleus."""


def likeliest(logits: Tensor, *, top_k: int = 0, top_p: float = 1.0) -> Tensor | None:
    """Return the tokens kept by top-k and nucleus sampling, or None where all are kept.

    First the top_k likeliest; then, of what those are renormalised to, the fewest of the likeliest
    whose probabilities add up to top_p. As transformers' ``generate`` does it, but for ties: all
    that equal the last of the top_k are kept, as there; of those that tie on the edge of the
    nucleus the lower ids are, where ``generate`` leaves it to its sorting.

    Args:
        logits: (batch, vocab), shaped.
        top_k: Number of tokens kept; 0 keeps all.
        top_p: Probability that the kept tokens have together; 1.0 keeps all.

    Returns:
        (batch, vocab) bool, at least one True per row.

    Source: Fan et al. 2018, arXiv:1805.04833; Holtzman et al. 2020, arXiv:1904.09751.
    """
    if logits.shape[-1] >= SORTED_BELOW:
        return by_threshold(logits, top_k=top_k, top_p=top_p)
    keep = None
    if 0 < top_k < logits.shape[-1]:
        keep = logits >= logits.topk(top_k, dim=-1).values[..., -1:]
        keep &= ~torch.isneginf(logits)  # fewer than top_k may be allowed at all
        logits = logits.masked_fill(~keep, -torch.inf)
    if top_p < 1.0:
        descending, order = logits.sort(dim=-1, descending=True, stable=True)
        probs = descending.softmax(-1)
        before = probs.cumsum(-1) - probs  # probability of the likelier ones
        in_nucleus = before < top_p
        nucleus = torch.zeros_like(in_nucleus).scatter(-1, order, in_nucleus)
        nucleus &= ~torch.isneginf(logits)
        keep = nucleus if keep is None else keep & nucleus
    return keep


def by_threshold(logits: Tensor, *, top_k: int = 0, top_p: float = 1.0) -> Tensor | None:
    """Return what `likeliest` returns, from the least kept logit instead of a sorted vocabulary.

    M(t) = sum of p over the tokens likelier than t. The nucleus holds the tokens above the least
    value t of p with M(t) < top_p, and of those that equal it the first ceil((top_p - M(t)) / t).

    With top_k the value is found among the top_k alone; otherwise in the half of the vocabulary
    that holds it, which is halved again and again. Nothing looks at a value, so a captured step
    can do it. Arguments are those of `likeliest`.
    """
    vocab = logits.shape[-1]
    if 0 < top_k < vocab:
        values = logits.topk(top_k, dim=-1).values  # (batch, k), descending
        keep = (logits >= values[..., -1:]) & ~torch.isneginf(logits)
        if top_p == 1.0:
            return keep
        # The last of them stands for all that equal it.
        num_tied = keep.sum(-1, keepdim=True) - (top_k - 1)
        mass = (values - values[..., :1]).exp()
        total = mass.sum(-1, keepdim=True) + mass[..., -1:] * (num_tied - 1).clamp(min=0)
        probs = mass / total
        in_nucleus = probs.cumsum(-1) - probs < top_p
        last = (in_nucleus.sum(-1, keepdim=True) - 1).clamp(min=0)
        edge, prob = values.gather(-1, last), probs.gather(-1, last)
        above = torch.where(values > edge, probs, 0.0).sum(-1, keepdim=True)
        return _above_edge(logits, edge, prob, above, top_p) & keep
    if top_p == 1.0:
        return None
    # The half of the vocabulary that holds the edge is kept, and halved again: nothing but the last
    # few tokens is ever put in order.
    probs = half = logits.softmax(-1)
    before = torch.zeros_like(probs[..., :1])  # probability of the halves above
    while (size := half.shape[-1]) > LEAST_HALF:
        upper = half.topk(-(-size // 2), sorted=False).values
        lower = half.topk(size // 2, largest=False, sorted=False).values
        after = before + upper.sum(-1, keepdim=True)
        is_upper = after >= top_p
        half = torch.where(is_upper, upper, F.pad(lower, (0, size % 2)))
        before = torch.where(is_upper, before, after)
    half = half.sort(-1, descending=True).values
    last = (before + half.cumsum(-1) - half < top_p).sum(-1, keepdim=True) - 1
    edge = half.gather(-1, last.clamp(min=0)).clamp(min=torch.finfo(half.dtype).tiny)
    above = torch.where(probs > edge, probs, 0.0).sum(-1, keepdim=True)
    return _above_edge(probs, edge, edge, above, top_p)


def _above_edge(x: Tensor, edge: Tensor, prob: Tensor, above: Tensor, top_p: float) -> Tensor:
    """Return the tokens above the nucleus's edge, and of those at it as many as have room.

    ``x``, (batch, vocab), is compared with ``edge``; ``prob`` is the probability of a token at the
    edge and ``above`` that of all above it, (batch, 1) each.
    """
    ties = x == edge
    room = ((top_p - above) / prob).ceil()  # at least 1
    return (x > edge) | (ties & (ties.cumsum(-1, dtype=torch.int32) <= room.clamp(min=1.0)))
