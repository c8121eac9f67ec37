"""From logits to a token and its log-probability, the same in rollout, update and reference."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tokengym.base.errors import ActionError

BLOCK = 256
"""Tokens that `inverse_cdf` adds up at once."""


def shape_logits(
    logits: Tensor,
    *,
    temperature: float | Tensor,
    action_mask: Tensor | None,
    num_actions: int | None = None,
) -> Tensor:
    """Return the logits that tokens are drawn from.

    shaped_v = logits_v / temperature where allowed, else -inf

    Args:
        logits: (..., vocab), as the model gives them, any float type.
        temperature: > 0, a number or (); below 1 sharpens, above 1 flattens.
        action_mask: (..., vocab) bool, True where the token is allowed; None allows all.
        num_actions: Words of the environment, where the model's vocabulary may be padded.

    Returns:
        (..., vocab) float32, or float64 where the logits are.
    """
    if num_actions is not None and logits.shape[-1] > num_actions:
        logits = logits[..., :num_actions]
    shaped = logits if logits.dtype == torch.float64 else logits.float()
    if isinstance(temperature, Tensor) or temperature != 1.0:
        shaped = shaped / temperature
    return shaped if action_mask is None else shaped.masked_fill(~action_mask, -torch.inf)


def likeliest(logits: Tensor, *, top_k: int = 0, top_p: float = 1.0) -> Tensor | None:
    """Return the tokens kept by top-k and nucleus sampling, or None where all are kept.

    First the top_k likeliest; then, of what those are renormalised to, the fewest of the likeliest
    whose probabilities add up to top_p. As transformers' ``generate`` does it, but for ties: all
    that equal the last of the top_k are kept, as there; of those that tie on the edge of the
    nucleus the lower ids are, where ``generate`` leaves it to its sorting. Nothing looks at a
    value, so a captured step can do it.

    Args:
        logits: (batch, vocab), shaped.
        top_k: Number of tokens kept; 0 keeps all.
        top_p: Probability that the kept tokens have together; 1.0 keeps all.

    Returns:
        (batch, vocab) bool, at least one True per row.

    Source: Fan et al. 2018, arXiv:1805.04833; Holtzman et al. 2020, arXiv:1904.09751.
    """
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


class _Forbid(torch.autograd.Function):
    """Sets logits to -inf in place; what reads them gives them gradient 0 anyway."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, forbidden: Tensor, value: float) -> Tensor:
        ctx.mark_dirty(logits)
        if forbidden.dtype == torch.bool:
            return logits.masked_fill_(forbidden, value)
        return logits.index_fill_(-1, forbidden, value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


def forbid_(logits: Tensor, forbidden: Tensor, value: float = -torch.inf) -> Tensor:
    """Return logits, (n, vocab), with the forbidden ones at a value, in place.

    The operation that made them must not need them any more. Forbidden are (n or 1, vocab) bool, or
    (few,) int64 tokens in all rows.
    """
    return _Forbid.apply(logits, forbidden, value)


def packed(masks: Tensor) -> Tensor:
    """Return masks as bits: (n, vocab) bool -> (n, ceil(vocab / 8)) uint8, a byte's lowest first.

    Example:
        >>> packed(torch.tensor([[True, False, False, True, False, False, False, False, True]]))
        tensor([[9, 1]], dtype=torch.uint8)
    """
    padded = F.pad(masks, (0, -masks.shape[-1] % 8)).view(torch.uint8).unflatten(-1, (-1, 8))
    return (padded << _places(masks.device)).sum(-1, dtype=torch.uint8)


def unpacked(bits: Tensor, vocab_size: int, *, where: bool = True) -> Tensor:
    """Return what `packed` was given, or with ``where=False`` its opposite."""
    one = torch.ones((), dtype=torch.uint8, device=bits.device) << _places(bits.device)
    bits = bits.unsqueeze(-1) & one
    return (bits != 0 if where else bits == 0).flatten(-2)[..., :vocab_size]


def _places(device: torch.device) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)


def chosen_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return log softmax(logits)[token].

    Args:
        logits: (n, vocab) float32, shaped.
        tokens: (n,) int64.

    Returns:
        (n,) float32, nats.
    """
    return -F.cross_entropy(logits, tokens, reduction="none")


def inverse_cdf(probs: Tensor, uniforms: Tensor, *, looks: bool = True) -> Tensor:
    """Return the token at which the cumulated probability passes the uniform number.

    token = min {v : p_0 + ... + p_v > u * (p_0 + ... + p_{vocab-1})}

    Some twenty times faster than ``torch.multinomial``. A token of probability 0 is never returned.
    Probabilities are (batch, vocab), each row's sum > 0; numbers, in [0, 1), and tokens (batch,).

    Example:
        >>> inverse_cdf(torch.tensor([[0.25, 0.0, 0.75]] * 3), torch.tensor([0.0, 0.2, 0.25]))
        tensor([0, 0, 2])
    """
    thresholds = uniforms.unsqueeze(-1)  # (batch, 1)
    if probs.shape[-1] <= 16 * BLOCK:
        cumulated = probs.cumsum(-1)  # (batch, vocab)
        # "right": of equal sums the last counts, so that tokens of probability 0 are stepped over.
        tokens = torch.searchsorted(cumulated, thresholds * cumulated[:, -1:], right=True)
    else:
        tokens = _in_two_stages(probs, thresholds)
    # Rounding may carry u * total up to total (one past the end), and a parallel cumsum may rise by
    # one rounding error over a token of probability 0: both then take the likeliest token.
    tokens = tokens.clamp_(max=probs.shape[-1] - 1)
    is_possible = probs.gather(-1, tokens) > 0
    if not looks or not is_possible.all():
        tokens = torch.where(is_possible, tokens, probs.argmax(-1, True))
    return tokens.squeeze(-1)


def _in_two_stages(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Find first the block of tokens, then the token in it; sums are faster than running sums.

    As rounding has it, a token, (batch, 1), is one past the vocabulary's end or of probability 0.
    """
    vocab = probs.shape[-1]
    whole = vocab - vocab % BLOCK
    sums = probs[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)  # (batch, blocks)
    if whole < vocab:
        sums = torch.cat([sums, probs[:, whole:].sum(-1, keepdim=True)], dim=1)
    cumulated = sums.cumsum(-1)
    thresholds = uniforms * cumulated[:, -1:]
    block = torch.searchsorted(cumulated, thresholds, right=True).clamp_(max=sums.shape[1] - 1)
    before = (cumulated.gather(1, block) - sums.gather(1, block)).clamp_(min=0.0)
    places = block * BLOCK + torch.arange(BLOCK, device=probs.device)  # (batch, BLOCK)
    inside = probs.gather(1, places.clamp(max=vocab - 1)).masked_fill_(places >= vocab, 0.0)
    within = torch.searchsorted(inside.cumsum(-1), thresholds - before, right=True)
    return block * BLOCK + within.clamp_(max=BLOCK - 1)


class RowDraws:
    """Uniform numbers of rows that each have a seed: a row's are the same in any batch.

    Args:
        seeds: (rows,) lists of non-negative integers, of one round.
    """

    def __init__(self, seeds: Sequence[Sequence[int]]) -> None:
        self._rows = [np.random.default_rng(seed) for seed in seeds]

    def next(self) -> Tensor:
        """Return each row's next number, (rows,) float32 in [0, 1)."""
        return torch.tensor([row.random(dtype=np.float32) for row in self._rows])


Draws: TypeAlias = torch.Generator | RowDraws
"""Where a sampler's uniform numbers come from."""


def row_uniforms(rows: int, draws: Draws, share: tuple[int, int] = (0, 1)) -> Tensor:
    """Return a uniform number for each row of this process, (rows,) in [0, 1).

    The share is this process's number, and how many there are, whose generators have one state:
    each takes its rows' numbers from those of all rows, so that these are the same however the rows
    are shared out. Rows with seeds of their own have nothing to share.
    """
    if isinstance(draws, RowDraws):
        return draws.next()
    # On the CPU, whatever computes the logits: a seed gives the same numbers on every device.
    number, count = share
    drawn = torch.rand(rows * count, generator=draws, dtype=torch.float32)
    return drawn[number * rows : (number + 1) * rows]


def as_action_mask(
    masks: NDArray[np.generic],
    device: torch.device | str,
    rows: NDArray[np.integer] | None = None,
) -> Tensor | None:
    """Return action masks, (batch, vocab), as a bool tensor, or None if they forbid nothing.

    It is (active, vocab), of the rows wanted, or (1, vocab) where one was broadcast over the rows.
    """
    if masks.strides[0] == 0:  # one mask broadcast over the rows: look at it once
        masks = masks[:1]
    elif rows is not None:
        masks = masks[rows]
    allowed = masks.astype(bool)
    if allowed.all():
        return None
    for row in np.flatnonzero(~allowed.any(axis=-1)):
        raise ActionError(
            f"action_mask of row {row} allows none of the {masks.shape[1]} tokens; "
            "an environment must leave at least one, see forbidden_token_ids"
        )
    return torch.from_numpy(allowed).to(device)


def derived_seed(generator: torch.Generator) -> int:
    """Return a seed that depends on a generator's state, without drawing from it."""
    state = generator.get_state().numpy().tobytes()
    return int.from_bytes(sha256(state).digest()[:7], "little")


def draw(
    logits: Tensor, uniforms: Tensor | None, *, looks: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return one token per row, its log-probability, and the entropy it was drawn with, nats.

    Logits are (batch, vocab) float32, shaped; uniform numbers, in [0, 1), and results (batch,).
    None in place of numbers takes the likeliest tokens. With ``looks`` work is skipped by looking
    at values, which on a GPU means to wait for it, and which a captured step cannot; the results
    differ by rounding only.
    """
    probs = logits.softmax(-1)
    tokens = probs.argmax(-1) if uniforms is None else inverse_cdf(probs, uniforms, looks=looks)
    places = tokens.unsqueeze(-1)
    if not looks:
        log_probs = logits.gather(-1, places).squeeze(-1) - logits.logsumexp(-1)
        return tokens, log_probs, torch.special.entr(probs).sum(-1)
    chosen = probs.gather(-1, places).squeeze(-1)
    log_probs = chosen.log()
    if chosen.min().item() < 1e-30:  # near the end of float32's range, where a log is of few digits
        log_probs = chosen_log_probs(logits, tokens)
    # H = log Z - sum_v p_v * logit_v, and log Z = logit - log p of any token: one pass fewer over
    # the vocabulary than with its log-probabilities.
    log_normaliser = logits.gather(-1, places).squeeze(-1) - log_probs
    mean_logit = torch.linalg.vecdot(probs, logits)
    if not math.isfinite(mean_logit.sum().item()):  # 0 * -inf is nan: tokens are forbidden
        finite = logits.clamp(min=torch.finfo(logits.dtype).min)
        mean_logit = torch.linalg.vecdot(probs, finite)
    entropy = log_normaliser - mean_logit
    return tokens, log_probs, entropy.clamp(min=0.0)


MAX_LOGITS = 2**27
"""Most logits of a chunk, 512 MiB in float32."""
MAX_LOGITS_WITHOUT_GRADIENT = 2**24
"""The same where nothing is computed again for it, 64 MiB."""


def chunk_size(vocab_size: int) -> int:
    """Return how many tokens have their logits in memory at a time, fewer without gradients."""
    limit = MAX_LOGITS if torch.is_grad_enabled() else min(MAX_LOGITS, MAX_LOGITS_WITHOUT_GRADIENT)
    return max(1, limit // vocab_size)


def in_chunks(
    figures: Callable[..., tuple[Tensor, ...]], *inputs: Tensor, size: int
) -> tuple[Tensor, ...]:
    """Return the figures of many tokens, with the logits of one chunk in memory at a time.

    Each chunk's logits are computed again in the backward pass. The function takes inputs,
    (n, ...) each, to figures, (n,) each, token by token.
    """
    run: Callable[..., Any] = figures
    if torch.is_grad_enabled():
        run = partial(checkpoint, figures, use_reentrant=False, preserve_rng_state=False)
    chunks = zip(*(tensor.split(size) for tensor in inputs), strict=True)
    return tuple(map(torch.cat, zip(*(run(*chunk) for chunk in chunks), strict=True)))
