"""What a classifier says about each token of a text, in the pass that scores it.

ABC reads one row of the last layer's attention. Full attention tensors cost (batch, heads, time,
time) in every layer and turn the fused kernels off. So a function is registered with transformers
as an attention implementation: it calls the SDPA one, and while `last_layer` is open it keeps the
last layer's queries and keys, from which the softmax of the one query row against all keys is
computed again: O(time), not O(time^2).

Each reading takes a padded batch and returns the logits and (batch, time) attributions of every
column; the response's part of them is the caller's to cut out. None keeps a gradient.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tokengym.base.registry import Registry
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.models.forward import Classifier, EncoderClassifier, Inputs


class Reading(NamedTuple):
    """What a reading returns."""

    logits: Tensor
    """(batch, classes), which make the score."""
    columns: Tensor | None = None
    """(batch, time) attributions of every column."""
    gap: Tensor | None = None
    """(batch,) by how much the attributions of a response miss what they should sum to."""


Read = Callable[[Classifier, Inputs], Reading]
READINGS: Registry[Read] = Registry("attribution", group="readings", error=ScorerError)
"""Function of each kind of attribution in `kinds`; a rule's package may bring its own."""


def register_reading(kind: str) -> Callable[[Read], Read]:
    """Make a function the reading of a kind of attribution: a decorator."""
    return lambda read: READINGS.register(kind, read)


def plain(classifier: Classifier, inputs: Inputs) -> Reading:
    """Return the logits alone."""
    with torch.no_grad():
        return Reading(classifier.logits(inputs.tokens, inputs.others, inputs.ends))


@register_reading("attention")
def attention(classifier: Classifier, inputs: Inputs) -> Reading:
    """Return the last layer's attention of the last token, averaged over heads: ABC's weights.

    alpha_t = mean_h softmax_t(scaling * q_h . k_ht),   q of the last token, k of all

    Of a model without a score per position, that of the token which it pools at: the first one of a
    bidirectional model.
    """
    if isinstance(classifier, EncoderClassifier):
        return Reading(*classifier.pooled_row(inputs))
    return in_one_pass(classifier, inputs, ["attention"])["attention"]


@register_reading("signed-attention")
def signed_attention(classifier: Classifier, inputs: Inputs) -> Reading:
    """Return attention times the direction of each value vector on the score, to first order.

    a_t = sum_h alpha_ht * (v_ht . dR/do_h): the graph begins at the last layer's attention output
    o, so one layer is differentiated.
    """
    return in_one_pass(classifier, inputs, ["signed-attention"])["signed-attention"]


@register_reading("prefix")
def prefix(classifier: Classifier, inputs: Inputs) -> Reading:
    """Return by how much each token moved the score: the differences of all positions' scores.

    A causal model's hidden state at a position knows the text up to there and no further, so its
    score there is the score of that prefix.
    """
    return in_one_pass(classifier, inputs, ["prefix"])["prefix"]


OF_ONE_PASS = frozenset({"attention", "signed-attention", "prefix"})
"""Kinds that one pass of a causal model gives together."""


def read(
    classifier: Classifier, inputs: Inputs, kinds: Sequence[str]
) -> tuple[Tensor, dict[str, Reading]]:
    """Return logits, and the readings of several kinds; those of `OF_ONE_PASS` from one pass."""
    if not kinds:
        return plain(classifier, inputs).logits, {}
    together = [kind for kind in kinds if kind in OF_ONE_PASS]
    joint = in_one_pass(classifier, inputs, together) if len(together) > 1 else {}
    alone = [kind for kind in kinds if kind not in joint]
    joint |= {kind: READINGS.find(kind)(classifier, inputs) for kind in alone}
    return joint[kinds[0]].logits, joint


def in_one_pass(classifier: Classifier, inputs: Inputs, kinds: Sequence[str]) -> dict[str, Reading]:
    """Return readings of `OF_ONE_PASS`, by kind, of a causal model that passes once."""
    is_signed, reads_all = "signed-attention" in kinds, "prefix" in kinds
    attends = is_signed or "attention" in kinds
    opened: AbstractContextManager[LastLayer | None] = nullcontext()
    if attends:
        opened = last_layer(classifier.model, begins_graph=is_signed)
    columns: dict[str, Tensor] = {}  # (batch, time) of each kind
    with torch.no_grad():
        with opened as layer:
            ends = None if reads_all else inputs.ends
            logits = classifier.logits(inputs.tokens, inputs.others, ends)
        rows = torch.arange(len(logits), device=logits.device)
        last = logits[rows, inputs.ends] if reads_all else logits  # (batch, classes)
        if layer is not None and is_signed:  # (batch, time, heads, width)
            (gradient,) = torch.autograd.grad(classifier.of_logits(last).sum(), layer.output)
    with torch.no_grad():
        if reads_all:  # from (batch, time, classes)
            mask = inputs.others["attention_mask"].bool()
            columns["prefix"] = _increments(classifier.of_logits(logits), mask)
        if layer is not None:
            weights = attention_row(
                layer.query, layer.key, layer.mask, inputs.ends, scaling=layer.scaling
            )
            columns["attention"] = weights.mean(dim=1)
            if is_signed:
                along = _directed(layer.value, gradient[rows, inputs.ends])
                columns["signed-attention"] = (weights * along).sum(dim=1)
    return {kind: Reading(last.detach(), columns[kind]) for kind in kinds}


def _increments(scores: Tensor, mask: Tensor) -> Tensor:
    """Return by how much each place moved the score, (batch, time), of those of all places."""
    scores = scores.masked_fill(~mask, 0.0)  # before the first token there is no text: 0
    before = torch.nn.functional.pad(scores[:, :-1], (1, 0))  # (batch, time), one to the right
    return (scores - before).masked_fill(~mask, 0.0)


def _directed(value: Tensor, direction: Tensor) -> Tensor:
    """Return what one unit of each head's attention to each token would add to the score.

    Args:
        value: (batch, key_heads, time, width).
        direction: (batch, heads, width) dR/do of the last position.

    Returns:
        (batch, heads, time).
    """
    batch, key_heads, time, width = value.shape
    # Grouped heads: several heads of queries, -1, share one of keys and values.
    direction = direction.float().view(batch, key_heads, -1, width)
    along = torch.einsum("bkgd,bktd->bkgt", direction, value.float())
    return along.reshape(batch, -1, time)


IMPLEMENTATION = "tokengym_last_row"
"""The name under which transformers knows the attention function."""


@dataclass
class LastLayer:
    """Queries, keys, values and output of a model's last attention, from one forward pass."""

    index: int
    """Number of the layer."""
    begins_graph: bool
    """Whether the output is a leaf of the graph: nothing before it is differentiated."""
    was_seen: bool = False
    """Whether the pass came by; what follows is there from then on."""
    query: Tensor = field(init=False)
    """(batch, heads, time, width)."""
    key: Tensor = field(init=False)
    """(batch, key_heads, time, width)."""
    value: Tensor = field(init=False)
    """(batch, key_heads, time, width)."""
    mask: Tensor | None = field(init=False)
    """As for `attention_row`."""
    scaling: float = field(init=False)
    """Factor on the dot products."""
    output: Tensor = field(init=False)
    """(batch, time, heads, width) each head's mixture of values."""


_LAYER: ContextVar[LastLayer | None] = ContextVar("tokengym_last_layer", default=None)


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
    chosen = chosen.view(batch, key.shape[1], groups, width)  # heads of a group are neighbours
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
    """Call SDPA on (batch, heads, time, width); keep what `last_layer` asks for."""
    layer = _LAYER.get()
    # A module without a number is taken for the last one.
    if layer is not None and getattr(module, "layer_idx", None) not in (None, layer.index):
        layer = None
    if layer is not None:
        for extra in ("position_bias", "s_aux"):
            if kwargs.get(extra) is not None:
                raise ScorerError(
                    f"{type(module).__name__} adds {extra} to its attention, which the one-row "
                    "pass does not read; take credit 'uniform' or another reward model"
                )
    output, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    if layer is not None:
        layer.was_seen = True
        # References, not copies: they live until the reading has taken its one row of them.
        layer.query, layer.key, layer.value, layer.mask = query, key, value, attention_mask
        layer.scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        if layer.begins_graph:
            torch.set_grad_enabled(True)  # until the caller's torch.no_grad() ends
            output = output.detach().requires_grad_()
        layer.output = output
    return output, None


AttentionInterface.register(IMPLEMENTATION, _forward)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


@contextmanager
def last_layer(
    model: PreTrainedModel,
    *,
    begins_graph: bool = False,
) -> Iterator[LastLayer]:
    """Keep what a model's last layer reads during the forward pass made in this context.

    The model is switched to the implementation, which is plain SDPA outside this context.

    Args:
        model: Any model that takes its attention from transformers' interface.
        begins_graph: Whether the layer's output can be differentiated by, inside a caller's
            ``torch.no_grad()``.
    """
    if model.config._attn_implementation != IMPLEMENTATION:
        if not (getattr(model, "_supports_sdpa", False) and model._can_set_attn_implementation()):
            raise ScorerError(
                f"{type(model).__name__} does not take its attention from transformers' "
                "AttentionInterface, so its row cannot be read; take credit 'uniform' or another "
                "model"
            )
        model.set_attn_implementation(IMPLEMENTATION)
    layer = LastLayer(model.config.get_text_config().num_hidden_layers - 1, begins_graph)
    token = _LAYER.set(layer)
    try:
        yield layer
    finally:
        _LAYER.reset(token)
    if not layer.was_seen:
        raise ScorerError(
            f"{type(model).__name__} did not call its attention function in layer {layer.index}; "
            "take a credit that reads no attention, or another model"
        )
