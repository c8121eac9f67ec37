"""Readings of a classifier at each position of a text, beside its score: one function per kind.

Each takes a padded batch and returns the logits and (batch, time) attributions of every column;
the response's part of them is the caller's to cut out. None keeps a gradient.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tokengym.base.registry import Registry
from tokengym.rewards.attribution import last_row
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.models.classifier import Classifier, EncoderClassifier, Inputs


class Reading(NamedTuple):
    """Return value of the functions of this module."""

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
        hidden = classifier.hidden(inputs.tokens, inputs.others)
        return Reading(classifier.end_logits(hidden, inputs.ends))


@register_reading("attention")
def attention(classifier: Classifier, inputs: Inputs) -> Reading:
    """Return the last layer's attention of the last token, averaged over heads: ABC's weights.

    Of a bidirectional model, that of the first token, which it pools at.
    """
    if isinstance(classifier, EncoderClassifier):
        return Reading(*classifier.first_row(inputs))
    with torch.no_grad():
        with last_row.last_layer(classifier.model) as layer:
            hidden = classifier.hidden(inputs.tokens, inputs.others)
        logits = classifier.end_logits(hidden, inputs.ends)
        return Reading(logits, layer.row(inputs.ends).mean(dim=1))


@register_reading("signed-attention")
def signed_attention(classifier: Classifier, inputs: Inputs) -> Reading:
    """Return attention times the direction of each value vector on the score, to first order.

    a_t = sum_h alpha_ht * (v_ht . dR/do_h): the graph begins at the last layer's attention output
    o, so one layer is differentiated.
    """
    with torch.no_grad():
        with last_row.last_layer(classifier.model, begins_graph=True) as layer:
            hidden = classifier.hidden(inputs.tokens, inputs.others)
        logits = classifier.end_logits(hidden, inputs.ends)
        # (batch, time, heads, width)
        (gradient,) = torch.autograd.grad(classifier.of_logits(logits).sum(), layer.output)
    with torch.no_grad():
        batch, key_heads, time, width = layer.value.shape
        rows = torch.arange(batch, device=gradient.device)
        direction = gradient[rows, inputs.ends].float()  # (batch, heads, width)
        direction = direction.view(batch, key_heads, -1, width)
        along = torch.einsum("bkgd,bktd->bkgt", direction, layer.value.float())
        shares = layer.row(inputs.ends) * along.reshape(batch, -1, time)  # (batch, heads, time)
        return Reading(logits.detach(), shares.sum(dim=1))


@register_reading("prefix")
def prefix(classifier: Classifier, inputs: Inputs) -> Reading:
    """Return by how much each token moved the score: the differences of all positions' scores.

    A causal model's hidden state at a position knows the text up to there and no further, so its
    score there is the score of that prefix.
    """
    with torch.no_grad():
        hidden = classifier.hidden(inputs.tokens, inputs.others)
        logits = classifier.head(hidden)
        scores = classifier.of_logits(logits)  # (batch, time)
    kept = inputs.others["attention_mask"].bool()
    scores = scores.masked_fill(~kept, 0.0)  # before the first token there is no text: 0
    before = torch.nn.functional.pad(scores[:, :-1], (1, 0))
    rows = torch.arange(len(scores), device=scores.device)
    return Reading(logits[rows, inputs.ends], (scores - before).masked_fill(~kept, 0.0))
