"""Attributions by the gradient of a reward model's score: plain, integrated, and DeepLIFT's.

Each reads a padded batch as the readings of the suite do. None keeps a gradient.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokengym.lab.scorers.deeplift import deeplift
from tokengym.rewards import Reading
from tokengym.rewards.models import Classifier

GRADIENT_STEPS = 16
"""Points of integrated gradients' path; Gauss-Legendre, exact for polynomials of degree 31."""


def gradient(classifier: Classifier, inputs: Any) -> Reading:
    """Return embedding times gradient of the score, summed over the width."""
    embeddings = _embed(classifier, inputs)
    logits, slopes = _slopes(classifier, inputs, embeddings)
    return Reading(logits, (embeddings * slopes).sum(dim=-1))


def integrated_gradients(classifier: Classifier, inputs: Any) -> Reading:
    """Return gradients times embeddings along the line from a blank response to the given one.

    a_t = (e_t - b) . integral_0^1 dR/de_t (prompt, b + s (e - b)) ds;  sum_t a_t = R - R(blank)

    A blank token's embedding b is 0, or EOS's in models with RMSNorm: that divides by the length of
    what comes in, so that the score jumps at 0, where a sum over points misses it.
    """
    embeddings = _embed(classifier, inputs)
    response, blank = _blanked(classifier, inputs, embeddings)
    difference = embeddings - blank
    with torch.no_grad():
        logits = classifier.logits(inputs.tokens, inputs.others, inputs.ends)
    total = torch.zeros_like(embeddings)
    for node, weight in zip(*_gauss_legendre(GRADIENT_STEPS), strict=True):
        scale = torch.where(response, node, 1.0).to(embeddings.dtype)
        total += weight * _slopes(classifier, inputs, blank + scale * difference)[1]
    attributions = (difference * total).sum(dim=-1)
    with torch.no_grad():
        empty = classifier.logits({"inputs_embeds": blank}, inputs.others, inputs.ends)
        changed = classifier.of_logits(logits) - classifier.of_logits(empty)
    return Reading(logits, attributions, changed - attributions.sum(dim=1))


def rescaled(classifier: Classifier, inputs: Any) -> Reading:
    """Return DeepLIFT's shares of the change of score from a blank response; see that module.

    a_t = (e_t - b) . m_t;  sum_t a_t = R - R(blank), with the blank of `integrated_gradients`
    """
    embeddings = _embed(classifier, inputs)
    _, blank = _blanked(classifier, inputs, embeddings)
    others = {name: torch.cat([value, value]) for name, value in inputs.others.items()}

    read: list[Tensor] = []  # the logits of the texts, and of the blanks

    def score(doubled: Tensor) -> Tensor:
        ends = torch.cat([inputs.ends, inputs.ends])
        logits = classifier.logits({"inputs_embeds": doubled}, others, ends)
        read[:] = logits.detach().chunk(2)
        return classifier.of_logits(logits)

    trained = [weight for weight in classifier.model.parameters() if weight.requires_grad]
    try:
        for weight in trained:  # what has a gradient is taken for an input
            weight.requires_grad_(False)
        scores, base, multipliers = deeplift(score, embeddings, blank)
    finally:
        for weight in trained:
            weight.requires_grad_(True)
    attributions = ((embeddings - blank) * multipliers).sum(dim=-1)
    return Reading(read[0], attributions, scores - base - attributions.sum(dim=1))


def _blanked(classifier: Classifier, inputs: Any, embeddings: Tensor) -> tuple[Tensor, Tensor]:
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


def _embed(classifier: Classifier, inputs: Any) -> Tensor:
    """Return the token embeddings, (batch, time, width), without a graph."""
    with torch.no_grad():
        return classifier.model.get_input_embeddings()(inputs.tokens["input_ids"])


def _slopes(classifier: Classifier, inputs: Any, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of embedded texts and their gradients, (batch, time, width)."""
    leaf = embeddings.detach().requires_grad_()
    with torch.enable_grad():
        logits = classifier.logits({"inputs_embeds": leaf}, inputs.others, inputs.ends)
        (slopes,) = torch.autograd.grad(classifier.of_logits(logits).sum(), leaf)
    return logits.detach(), slopes
