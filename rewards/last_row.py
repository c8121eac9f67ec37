"""One row of the last layer's attention, in the same pass as the score.

Full attention tensors cost (batch, heads, time, time) in every layer and turn the fused kernels
off. ABC reads one row of one layer. The function here is registered with transformers as an
attention implementation: it calls the SDPA one, and while `record_row` is open it recomputes, in
the last layer, the softmax of the one query row against all keys: O(time), not O(time^2).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tokengym.rewards.errors import ScorerError

IMPLEMENTATION = "tokengym_last_row"
"""The name under which transformers knows the attention function."""


class RowRecorder:
    """Takes down the attention of one query position per sequence.

    Args:
        positions: (batch,) int64, the query whose row is wanted in each sequence.
        last_layer: Index of the layer whose row is wanted.
    """

    def __init__(self, positions: Tensor, last_layer: int) -> None:
        self.positions = positions
        self.last_layer = last_layer
        self.row: Tensor | None = None
        """(batch, time) float32: head mean of the row, 0 where masked; None before the pass."""

    def take(
        self, layer: int | None, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float
    ) -> None:
        """Compute the row if this is the last layer."""
        if layer is None or layer == self.last_layer:
            row = attention_row(query, key, mask, self.positions, scaling=scaling)
            self.row = row.mean(dim=1)


_RECORDER: ContextVar[RowRecorder | None] = ContextVar("tokengym_row_recorder", default=None)


def attention_row(
    query: Tensor, key: Tensor, mask: Tensor | None, positions: Tensor, *, scaling: float
) -> Tensor:
    """Return one row of causal attention per sequence and head.

    a_j = softmax_j(scaling * q_p . k_j + mask_pj),   p = positions;  j <= p without a mask

    Args:
        query: (batch, heads, time, width).
        key: (batch, key_heads, time, width); heads is a multiple of key_heads (grouped heads).
        mask: (batch or 1, 1 or heads, time, time) bool (True keeps) or additive float, or None for
            plain causal attention.
        positions: (batch,) int64, the row of each sequence.
        scaling: Factor on the dot products.

    Returns:
        (batch, heads, time) float32, each row sums to 1.
    """
    batch, heads, time, width = query.shape
    groups = heads // key.shape[1]
    rows = torch.arange(batch, device=query.device)
    chosen = query[rows, :, positions].float()  # (batch, heads, width)
    chosen = chosen.view(batch, key.shape[1], groups, width)
    logits = scaling * torch.einsum("bkgd,bktd->bkgt", chosen, key.float())
    logits = logits.reshape(batch, heads, time)
    if mask is None:
        later = torch.arange(time, device=query.device) > positions[:, None]  # (batch, time)
        logits = logits.masked_fill(later[:, None], float("-inf"))
    else:
        row_mask = mask.expand(batch, -1, -1, -1)[rows, :, positions, :time]  # (batch, 1|heads, t)
        if row_mask.dtype == torch.bool:
            logits = logits.masked_fill(~row_mask, float("-inf"))
        else:
            logits = logits + row_mask
    return logits.softmax(dim=-1)


def _forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,  # transformers' own protocol: every architecture passes extras of its own
) -> tuple[Tensor, None]:
    """Call SDPA; while a recorder is open, let it read queries and keys."""
    recorder = _RECORDER.get()
    if recorder is not None:
        for extra in ("position_bias", "s_aux"):
            if kwargs.get(extra) is not None:
                raise ScorerError(
                    f"{type(module).__name__} adds {extra} to its attention, which the one-row "
                    "pass does not read; take credit 'uniform' or another reward model"
                )
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        recorder.take(getattr(module, "layer_idx", None), query, key, attention_mask, factor)
    output, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return output, None


AttentionInterface.register(IMPLEMENTATION, _forward)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


def enable(model: PreTrainedModel) -> None:
    """Switch a model to the implementation; outside `record_row` it is plain SDPA.

    Args:
        model: Any model that takes its attention from transformers' interface.

    Raises:
        ScorerError: if the architecture does not.
    """
    if model.config._attn_implementation == IMPLEMENTATION:
        return
    if not (getattr(model, "_supports_sdpa", False) and model._can_set_attn_implementation()):
        raise ScorerError(
            f"{type(model).__name__} does not take its attention from transformers' "
            "AttentionInterface, so its row cannot be read; take credit 'uniform' or another model"
        )
    model.set_attn_implementation(IMPLEMENTATION)


@contextmanager
def record_row(positions: Tensor, last_layer: int) -> Iterator[RowRecorder]:
    """Record the last layer's row during the forward pass made in this context.

    Args:
        positions: (batch,) int64, the query whose row is wanted in each sequence.
        last_layer: Index of the model's last layer.
    """
    recorder = RowRecorder(positions, last_layer)
    token = _RECORDER.set(recorder)
    try:
        yield recorder
    finally:
        _RECORDER.reset(token)
