"""Readings of a classifier at each position of a text, beside its score: one function per kind.

Each takes a padded batch and returns the logits and (batch, time) attributions of every column;
the response's part of them is the caller's to cut out. None keeps a gradient.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokengym.rewards.attribution import last_row
from tokengym.rewards.attribution.deeplift import deeplift as lifted
from tokengym.rewards.models.classifier import Classifier, EncoderClassifier, Inputs

GRADIENT_STEPS = 16
"""Points of integrated gradients' path; Gauss-Legendre, exact for polynomials of degree 31."""


class Reading(NamedTuple):
    """Return value of the functions of this module."""

    logits: Tensor
    """(batch, classes), which make the score."""
    columns: Tensor | None = None
    """(batch, time) attributions of every column."""
    gap: Tensor | None = None
    """(batch,) by how much the attributions of a response miss what they should sum to."""


Read = Callable[[Classifier, Inputs], Reading]
READINGS: dict[str | None, Read] = {}
"""Function of each kind of attribution in `kinds`; None: none."""


def register_reading(kind: str | None) -> Callable[[Read], Read]:
    """Make a function the reading of a kind of attribution: a decorator."""

    def decorate(read: Read) -> Read:
        READINGS[kind] = read
        return read

    return decorate


@register_reading(None)
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


@register_reading("gradient")
def gradient(classifier: Classifier, inputs: Inputs) -> Reading:
    """Return embedding times gradient of the score, summed over the width."""
    embeddings = _embed(classifier, inputs)
    logits, slopes = _slopes(classifier, inputs, embeddings)
    return Reading(logits, (embeddings * slopes).sum(dim=-1))


@register_reading("integrated-gradients")
def integrated_gradients(classifier: Classifier, inputs: Inputs) -> Reading:
    """Return gradients times embeddings along the line from a blank response to the given one.

    a_t = (e_t - b) . integral_0^1 dR/de_t (prompt, b + s (e - b)) ds;  sum_t a_t = R - R(blank)

    A blank token's embedding b is 0, or EOS's in models with RMSNorm: that divides by the length of
    what comes in, so that the score jumps at 0, where a sum over points misses it.
    """
    embeddings = _embed(classifier, inputs)
    response, blank = _blanked(classifier, inputs, embeddings)
    difference = embeddings - blank
    logits = plain(classifier, inputs).logits
    total = torch.zeros_like(embeddings)
    for node, weight in zip(*_gauss_legendre(GRADIENT_STEPS), strict=True):
        scale = torch.where(response, node, 1.0).to(embeddings.dtype)
        total += weight * _slopes(classifier, inputs, blank + scale * difference)[1]
    attributions = (difference * total).sum(dim=-1)
    with torch.no_grad():
        hidden = classifier.hidden({"inputs_embeds": blank}, inputs.others)
        changed = classifier.of_logits(logits) - classifier.end_scores(hidden, inputs.ends)
    return Reading(logits, attributions, changed - attributions.sum(dim=1))


@register_reading("deeplift")
def deeplift(classifier: Classifier, inputs: Inputs) -> Reading:
    """Return DeepLIFT's shares of the change of score from a blank response; see that module.

    a_t = (e_t - b) . m_t;  sum_t a_t = R - R(blank), with the blank of `integrated_gradients`
    """
    embeddings = _embed(classifier, inputs)
    _, blank = _blanked(classifier, inputs, embeddings)
    others = {name: torch.cat([value, value]) for name, value in inputs.others.items()}

    read: list[Tensor] = []  # the logits of the texts, and of the blanks

    def score(doubled: Tensor) -> Tensor:
        hidden = classifier.hidden({"inputs_embeds": doubled}, others)
        logits = classifier.end_logits(hidden, torch.cat([inputs.ends, inputs.ends]))
        read[:] = logits.detach().chunk(2)
        return classifier.of_logits(logits)

    trained = [weight for weight in classifier.model.parameters() if weight.requires_grad]
    try:
        for weight in trained:  # what has a gradient is taken for an input
            weight.requires_grad_(False)
        scores, base, multipliers = lifted(score, embeddings, blank)
    finally:
        for weight in trained:
            weight.requires_grad_(True)
    attributions = ((embeddings - blank) * multipliers).sum(dim=-1)
    return Reading(read[0], attributions, scores - base - attributions.sum(dim=1))


def _blanked(classifier: Classifier, inputs: Inputs, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Return (batch, time, 1) which columns are the response's, and embeddings with it blank."""
    columns = torch.arange(embeddings.shape[1], device=embeddings.device)
    response = (columns >= inputs.starts[:, None]) & (columns <= inputs.ends[:, None])
    response = response[..., None]
    return response, torch.where(response, _blank_embedding(classifier), embeddings)


def _blank_embedding(classifier: Classifier) -> Tensor:
    """Return what stands for no token in `integrated_gradients`, (width,)."""
    weight = classifier.model.get_input_embeddings().weight.detach()  # type: ignore[operator]
    if not any("RMSNorm" in type(module).__name__ for module in classifier.model.modules()):
        return torch.zeros_like(weight[0])
    eos = classifier.config.eos_token_id
    eos = eos[0] if isinstance(eos, list) else eos
    if eos is None or not weight[eos].any():  # padding, and so 0 again
        return weight.mean(dim=0)
    return weight[eos]


@lru_cache(maxsize=4)
def _gauss_legendre(points: int) -> tuple[list[float], list[float]]:
    """Return places in (0, 1) and weights that sum to 1."""
    places, weights = np.polynomial.legendre.leggauss(points)
    return ((places + 1) / 2).tolist(), (weights / 2).tolist()


def _embed(classifier: Classifier, inputs: Inputs) -> Tensor:
    """Return the token embeddings, (batch, time, width), without a graph."""
    with torch.no_grad():
        return classifier.model.get_input_embeddings()(inputs.tokens["input_ids"])


def _slopes(classifier: Classifier, inputs: Inputs, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of embedded texts and their gradients, (batch, time, width)."""
    leaf = embeddings.detach().requires_grad_()
    with torch.enable_grad():
        hidden = classifier.hidden({"inputs_embeds": leaf}, inputs.others)
        logits = classifier.end_logits(hidden, inputs.ends)
        (slopes,) = torch.autograd.grad(classifier.of_logits(logits).sum(), leaf)
    return logits.detach(), slopes
