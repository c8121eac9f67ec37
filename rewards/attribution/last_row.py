"""One row of the last layer's attention, in the same pass as the score.

Full attention tensors cost (batch, heads, time, time) in every layer and turn the fused kernels
off. ABC reads one row of one layer. The function here is registered with transformers as an
attention implementation: it calls the SDPA one, and while `record_row` is open it recomputes, in
the last layer, the softmax of the one query row against all keys: O(time), not O(time^2).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

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

    def wants(self, layer: int | None) -> bool:
        """Return whether the layer is the one to look at; one without a number is taken."""
        return layer is None or layer == self.last_layer

    def take(self, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
        """Look at what the last layer's attention compares."""
        row = attention_row(query, key, mask, self.positions, scaling=scaling)
        self.row = row.mean(dim=1)

    def release(self, output: Tensor, value: Tensor) -> Tensor:
        """Return what the layer continues with in place of its attention's output.

        Args:
            output: (batch, time, heads, width) each head's mixture of values.
            value: (batch, key_heads, time, width) the values.
        """
        return output


class SignedRowRecorder(RowRecorder):
    """Takes down the row of every head, and opens the way for the gradient at its output.

    After ``score.sum().backward()``-like differentiation by `output`, `contributions` says what
    each position's value vector did to the score.
    """

    def __init__(self, positions: Tensor, last_layer: int) -> None:
        super().__init__(positions, last_layer)
        self.output: Tensor | None = None
        """(batch, time, heads, width) the last layer's attention output, a leaf of the graph."""
        self._heads: Tensor | None = None
        self._value: Tensor | None = None

    def take(self, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
        """Keep every head's row."""
        self._heads = attention_row(query, key, mask, self.positions, scaling=scaling)
        self.row = self._heads.mean(dim=1)

    def release(self, output: Tensor, value: Tensor) -> Tensor:
        """Begin the graph here: nothing before the last layer's output is differentiated."""
        torch.set_grad_enabled(True)  # until the caller's torch.no_grad() ends
        self._value = value
        self.output = output.detach().requires_grad_()
        return self.output

    def contributions(self, gradient: Tensor) -> Tensor:
        """Return alpha_ht * (v_ht . dR/do_h), summed over heads h, of every position t.

        Args:
            gradient: (batch, time, heads, width) dR/do, the gradient at `output`.

        Returns:
            (batch, time) float32, reward units, 0 where masked.
        """
        assert self._heads is not None
        assert self._value is not None
        batch, key_heads, time, width = self._value.shape
        rows = torch.arange(batch, device=gradient.device)
        direction = gradient[rows, self.positions].float()  # (batch, heads, width)
        direction = direction.view(batch, key_heads, -1, width)
        along = torch.einsum("bkgd,bktd->bkgt", direction, self._value.float())
        return (self._heads * along.reshape(batch, -1, time)).sum(dim=1)


class MatrixRecorder(RowRecorder):
    """Takes down every row of the last layer's attention, averaged over heads.

    Args:
        last_layer: Index of the layer.
    """

    def __init__(self, last_layer: int) -> None:
        super().__init__(torch.zeros(0, dtype=torch.int64), last_layer)
        self.matrix: Tensor | None = None
        """(batch, time, time) float32: head mean, query by key; None before the pass."""

    def take(self, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
        """Compute all rows."""
        self.matrix = mean_attention(query, key, mask, scaling=scaling)


Recorder = TypeVar("Recorder", bound=RowRecorder)

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


def mean_attention(query: Tensor, key: Tensor, mask: Tensor | None, *, scaling: float) -> Tensor:
    """Return causal attention averaged over heads, one head after the other.

    The sum over heads is all that is kept: (batch, time, time), never one matrix per head.

    Args:
        query: (batch, heads, time, width).
        key: (batch, key_heads, time, width); heads is a multiple of key_heads (grouped heads).
        mask: As for `attention_row`.
        scaling: Factor on the dot products.

    Returns:
        (batch, time, time) float32, query by key.
    """
    batch, heads, time, _ = query.shape
    groups = heads // key.shape[1]
    total = torch.zeros(batch, time, time, device=query.device)
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
    if recorder is not None and not recorder.wants(getattr(module, "layer_idx", None)):
        recorder = None
    if recorder is not None:
        for extra in ("position_bias", "s_aux"):
            if kwargs.get(extra) is not None:
                raise ScorerError(
                    f"{type(module).__name__} adds {extra} to its attention, which the one-row "
                    "pass does not read; take credit 'uniform' or another reward model"
                )
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        recorder.take(query, key, attention_mask, factor)
    output, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return output if recorder is None else recorder.release(output, value), None


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
def record(recorder: Recorder) -> Iterator[Recorder]:
    """Let a recorder look at the last layer during the forward pass made in this context."""
    token = _RECORDER.set(recorder)
    try:
        yield recorder
    finally:
        _RECORDER.reset(token)


def record_row(positions: Tensor, last_layer: int) -> AbstractContextManager[RowRecorder]:
    """Record the last layer's row during the forward pass made in this context.

    Args:
        positions: (batch,) int64, the query whose row is wanted in each sequence.
        last_layer: Index of the model's last layer.
    """
    return record(RowRecorder(positions, last_layer))
