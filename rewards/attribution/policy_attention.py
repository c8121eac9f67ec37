"""Attention of a language model's last layer between the tokens of finished responses."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokengym.envs.episode import Episode
from tokengym.rewards.attribution.last_row import last_layer
from tokengym.rewards.attribution.policy_reader import PolicyReader


def policy_attention(
    reader: PolicyReader, episodes: Sequence[Episode]
) -> list[NDArray[np.float64]]:
    """Return, per episode, the last layer's attention of its response's tokens to each other.

    It is recomputed in one pass over the finished text: what position t attends to does not
    depend on what follows it, so this is the attention of the generation, if the model is the
    one that generated. No logits are computed.

    Returns:
        Per episode (n, n): query by key, averaged over the last layer's heads; the rest of
        each row fell on the prompt.

    Raises:
        ScorerError: if the model's attention cannot be read.
    """
    result = [np.zeros((0, 0))] * len(episodes)
    for batch in reader.batches(episodes):
        with last_layer(reader.model) as layer:
            reader.model.base_model(**batch.tensors, use_cache=False)
        matrix = mean_attention(layer.query, layer.key, layer.mask, scaling=layer.scaling)
        table = matrix.cpu().numpy().astype(np.float64)
        for table_row, index in enumerate(batch.indices):
            start = len(episodes[index].prompt_ids)
            size = start + len(episodes[index].response_ids)
            result[index] = table[table_row, start:size, start:size]
    return result


def mean_attention(query: Tensor, key: Tensor, mask: Tensor | None, *, scaling: float) -> Tensor:
    """Return causal attention averaged over heads, one head after the other.

    The sum over heads is all that is kept: (batch, time, time), never one matrix per head.

    Args:
        query: (batch, heads, time, width).
        key: (batch, key_heads, time, width); heads is a multiple of key_heads (grouped heads).
        mask: (batch or 1, 1 or heads, time, time) bool (True keeps) or additive float, or None for
            plain causal attention.
        scaling: Factor on the dot products.

    Returns:
        (batch, time, time) float32, query by key.
    """
    batch, heads, time, _ = query.shape
    groups = heads // key.shape[1]
    total = torch.zeros(batch, time, time, dtype=torch.float32, device=query.device)
    later = torch.ones(time, time, dtype=torch.bool, device=query.device).triu(1)
    for head in range(heads):
        logits = scaling * query[:, head].float() @ key[:, head // groups].float().mT
        if mask is None:
            logits = logits.masked_fill(later, float("-inf"))
        else:
            head_mask = mask[:, head if mask.shape[1] > 1 else 0, :, :time]  # (batch | 1, t, t)
            if head_mask.dtype == torch.bool:
                logits = logits.masked_fill(~head_mask, float("-inf"))
            else:
                logits = logits + head_mask
        total += logits.softmax(dim=-1)
    return total / heads
