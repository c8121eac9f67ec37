"""Figures of tokens, their gradient, and the choice of a token, by kernels.

The plain forms are `tokengym.agents.policy.head.token_figures` and `tokengym.agents.policy.
sampling.draw`. cuBLAS makes the logits of a part of the vocabulary; a kernel then reads them once,
where the plain form makes a pass for every operation. Three things keep the traffic low:

- The parts are of the vocabulary, not of the tokens: the gradient of a part of the head is one
  product over all tokens, written once, instead of a sum in memory over chunks of tokens.
- A softmax needs no pass of its own: sums of exp(z - m) are rescaled whenever the largest logit m
  so far rises, so that all figures come out of the one pass that makes the normaliser.
- Masks are read as bits and applied in registers, and so is the temperature.

Passes over the float32 logits of policy and reference, with the gradient: 4 written by products, 4
read by kernels, 1.5 for the slope in bfloat16.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokengym.agents.fast.kernels.launching import block_of, launch, operation, programs
from tokengym.agents.policy.head import LOWEST, Request, could_be_sampled, head_as_read, product
from tokengym.agents.policy.sampling import MAX_LOGITS

ALIGNED = 128
"""Parts of the vocabulary are multiples of this many words, as products like them."""
WORDS_PER_PROGRAM = 2**13
"""Words of a row that one program of a draw adds up. Whatever the number of rows, so that a row's
sums are the same in every batch."""
WARPS = 8
"""Warps of the programs that read a row's words: with 4, their registers let fewer run at once."""
LOWEST_LOGIT = tl.constexpr(LOWEST)


def token_figures(
    states: Tensor, weight: Tensor, asked: Request, *, max_logits: int | None = None
) -> tuple[Tensor, ...]:
    """Return what `tokengym.agents.policy.head.token_figures` returns."""
    parts = vocabulary_parts(len(states), asked.num_actions, max_logits or MAX_LOGITS)
    kl, log_probs, entropy = _TokenFigures.apply(states, weight, asked, parts)
    computed = ([kl] if asked.reference else []) + [log_probs]
    return tuple(computed + ([entropy] if asked.with_entropy else []))


def vocabulary_parts(num_tokens: int, num_actions: int, max_logits: int) -> list[slice]:
    """Return the words whose logits are in memory at a time."""
    size = max(1, max_logits // (ALIGNED * max(1, num_tokens))) * ALIGNED
    return [slice(i, min(i + size, num_actions)) for i in range(0, num_actions, size)]


class _Models:
    """The two heads' logits, and all that the kernels read beside them."""

    def __init__(self, states: Tensor, weight: Tensor, asked: Request) -> None:
        self._asked = asked
        self.read = head_as_read(states, weight)
        self._own = states
        self._reference = asked.reference and (asked.reference[0], head_as_read(*asked.reference))
        self._masks: tuple[Tensor | None, Tensor | None] = None, None
        if asked.masks is not None:
            masks, rows, times = asked.masks
            self._masks = masks.bits(rows, times)

    def part(self, words: slice) -> tuple[Any, ...]:
        """Return what both kernels take for some words."""
        scores = product(self._own, self.read[words])
        reference = None
        if self._reference:
            reference = product(self._reference[0], self._reference[1][words])
        inverse = 1.0 / self._asked.temperature
        return scores, reference, self._asked.tokens, *self._masks, words.start, inverse


class _TokenFigures(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, asked: Request, parts: list[slice]
    ) -> tuple[Tensor, ...]:
        models = _Models(states, weight, asked)
        num = len(states)
        # An online softmax: parts of the vocabulary pass by, and each token keeps seven running
        # figures, rescaled whenever a larger logit comes. No (n, vocab) is ever stored.
        sums = torch.zeros(num, 7, dtype=torch.float32, device=states.device)
        sums[:, 0] = sums[:, 4] = LOWEST
        for words in parts:
            read_words(sums, *models.part(words))
        largest, total, weighted, difference, ref_largest, ref_total, chosen = sums.unbind(1)
        normaliser = largest + total.log()
        ref_normaliser = ref_largest + ref_total.log()
        log_probs = chosen - normaliser
        entropy = normaliser - weighted / total
        kl = torch.zeros_like(entropy)
        if asked.reference:
            kl = difference / total - normaliser + ref_normaliser
        ctx.asked, ctx.parts = asked, parts
        ctx.save_for_backward(states, weight, log_probs, kl, entropy, normaliser, ref_normaliser)
        return kl, log_probs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, log_probs, *figures = ctx.saved_tensors
        asked: Request = ctx.asked
        needs_states, needs_weight, *_ = ctx.needs_input_grad
        models = _Models(states, weight, asked)
        given = states.to(models.read.dtype)
        slopes = [x.where(could_be_sampled(log_probs), 0.0) for x in gradients]
        per_token = torch.stack([*slopes, *figures], 1).contiguous()  # (n, 7)
        grad_states = (
            torch.zeros(states.shape, dtype=torch.float32, device=states.device)
            if needs_states
            else None
        )
        grad_weight = torch.empty_like(weight) if needs_weight else None
        for words in ctx.parts:
            part = models.part(words)
            slope = torch.empty_like(part[0], dtype=models.read.dtype)
            write_slope(slope, per_token, *part)
            if grad_states is not None:
                grad_states += product(slope, models.read[words].t())
            if grad_weight is not None:
                grad_weight[words] = product(slope.t(), given.t())
            del part, slope  # the largest tensors of an update, not to be there twice
        if grad_weight is not None:
            grad_weight[asked.num_actions :] = 0.0  # words that the head has and nobody samples
        grad_states = None if grad_states is None else grad_states.to(states.dtype)
        return grad_states, grad_weight, None, None


def draw(
    logits: Tensor, uniforms: Tensor | None, *, looks: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `tokengym.agents.policy.sampling.draw` returns; nothing looks at a value."""
    del looks
    rows = len(logits)
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    log_probs, entropy = torch.empty(2, rows, dtype=torch.float32, device=logits.device)
    draw_words(tokens, log_probs, entropy, logits, uniforms)
    return tokens, log_probs, entropy


# --- the kernels as operations of torch, so that what they read and write can be counted ----------


@operation(mutates=("sums",))
def read_words(
    sums: Tensor,
    scores: Tensor,
    reference: Tensor | None,
    tokens: Tensor,
    bits: Tensor | None,
    numbers: Tensor | None,
    first: int,
    inverse: float,
) -> None:
    """Add some words to the sums of their tokens' figures.

    - sums: (n, 7) float32: the largest logit m, S = sum of e = exp(z - m), sum of e z, sum of
      e (z - z'), the same m' and S' of the reference, and the token's own logit
    - scores, reference: (n, words) float32, as the heads give them
    - tokens: (n,) int64; first: number of the first word; inverse: 1 / temperature
    - bits: (masks, bytes) uint8, see `packed`; None allows all words
    - numbers: (n,) int64, the mask of each token
    """
    block = block_of(scores.shape[1], 2**12)
    launch(
        _read_words,
        (len(scores),),
        scores,
        sums,
        *_operands(scores, reference, tokens, bits, numbers, first, inverse),
        HAS_REFERENCE=reference is not None,
        HAS_BITS=bits is not None,
        BLOCK=block,
        num_warps=WARPS,
    )


@operation(mutates=("slope",))
def write_slope(
    slope: Tensor,
    per_token: Tensor,
    scores: Tensor,
    reference: Tensor | None,
    tokens: Tensor,
    bits: Tensor | None,
    numbers: Tensor | None,
    first: int,
    inverse: float,
) -> None:
    """Write the gradient with respect to the scores of some words.

    dL / dz_v = p_v (b (log p_v - log q_v - KL) - h (log p_v + H) - g) + [v = token] g

    The slope is (n, words) of any float type; per_token, (n, 7) float32, has b, g, h = dL / dKL,
    dL / dlog_prob, dL / dH; KL, H, and the normalisers of policy and reference. The rest is as in
    `read_words`.
    """
    block = block_of(scores.shape[1], 2**11)
    launch(
        _write_slope,
        (len(scores), programs(scores.shape[1], block)),
        scores,
        *(slope, per_token),
        *_operands(scores, reference, tokens, bits, numbers, first, inverse),
        HAS_REFERENCE=reference is not None,
        HAS_BITS=bits is not None,
        BLOCK=block,
        num_warps=WARPS,
    )


def _operands(
    scores: Tensor,
    reference: Tensor | None,
    tokens: Tensor,
    bits: Tensor | None,
    numbers: Tensor | None,
    first: int,
    inverse: float,
) -> tuple[Any, ...]:
    """Return what both kernels of some words read; a tensor that is absent has a stand-in."""
    return (
        *(scores, scores if reference is None else reference, tokens),
        *(scores if bits is None else bits, tokens if numbers is None else numbers),
        *(first, scores.shape[1], scores.stride(0), 0 if bits is None else bits.shape[1], inverse),
    )


@operation(mutates=("tokens", "log_probs", "entropy"))
def draw_words(
    tokens: Tensor, log_probs: Tensor, entropy: Tensor, logits: Tensor, uniforms: Tensor | None
) -> None:
    """Write what `tokengym.agents.policy.sampling.draw` returns of shaped logits in float32."""
    rows, count = logits.shape
    parts = programs(count, WORDS_PER_PROGRAM)
    sums = torch.empty(rows, parts, 3, dtype=torch.float32, device=logits.device)
    block = block_of(count, 2**12)
    launch(
        _sum_words,
        (rows, parts),
        logits,
        *(sums, logits, count, logits.stride(0)),
        PART=WORDS_PER_PROGRAM,
        BLOCK=block,
        num_warps=WARPS,
    )
    launch(
        _draw_words,
        (rows,),
        logits,
        *(tokens, log_probs, entropy, logits, logits if uniforms is None else uniforms, sums),
        *(count, logits.stride(0), parts),
        SAMPLES=uniforms is not None,
        PART=WORDS_PER_PROGRAM,
        PARTS=block_of(parts),
        BLOCK=block,
        num_warps=WARPS,
    )


# --- the kernels ----------------------------------------------------------------------------------


@triton.jit
def _allowed(bits, mask, words, is_word, HAS_BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    if HAS_BITS:
        byte = tl.load(bits + mask + words // 8, mask=is_word, other=0)
        is_word = is_word & (((byte >> (words % 8).to(tl.uint8)) & 1) != 0)
    return is_word


@triton.jit
def _read_words(  # type: ignore[no-untyped-def]
    sums, scores, reference, tokens, bits, numbers, first, count, stride, num_bytes, inverse,
    HAS_REFERENCE: tl.constexpr, HAS_BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    mask = tl.load(numbers + row) * num_bytes
    scores += row * stride
    reference += row * stride
    sums += row * 7
    largest, total = tl.load(sums), tl.load(sums + 1)
    weighted, difference = tl.load(sums + 2), tl.load(sums + 3)
    ref_largest, ref_total = tl.load(sums + 4), tl.load(sums + 5)
    for start in range(0, count, BLOCK):
        places = start + tl.arange(0, BLOCK)
        # Words are loaded whether allowed or not: a mask by word would make each load a scalar one.
        is_word = places < count
        allowed = _allowed(bits, mask, first + places, is_word, HAS_BITS)
        z = tl.load(scores + places, mask=is_word, other=0.0)
        z = tl.where(allowed, z, 0.0) * inverse
        before = largest
        largest = tl.maximum(before, tl.max(tl.where(allowed, z, LOWEST_LOGIT)))
        # What was added up under the old largest logit counts less under the new one.
        shrink = tl.exp(before - largest)
        e = tl.where(allowed, tl.exp(z - largest), 0.0)
        total = total * shrink + tl.sum(e)
        weighted = weighted * shrink + tl.sum(e * z)
        if HAS_REFERENCE:
            y = tl.load(reference + places, mask=is_word, other=0.0)
            y = tl.where(allowed, y, 0.0) * inverse
            difference = difference * shrink + tl.sum(e * (z - y))
            before = ref_largest
            ref_largest = tl.maximum(before, tl.max(tl.where(allowed, y, LOWEST_LOGIT)))
            rest = tl.sum(tl.where(allowed, tl.exp(y - ref_largest), 0.0))
            ref_total = ref_total * tl.exp(before - ref_largest) + rest
    tl.store(sums, largest)
    tl.store(sums + 1, total)
    tl.store(sums + 2, weighted)
    tl.store(sums + 3, difference)
    tl.store(sums + 4, ref_largest)
    tl.store(sums + 5, ref_total)
    word = tl.load(tokens + row)
    part_word = word - first
    if (part_word >= 0) & (part_word < count):
        is_allowed = _allowed(bits, mask, word, part_word >= 0, HAS_BITS)
        chosen = tl.load(scores + part_word) * inverse
        tl.store(sums + 6, tl.where(is_allowed, chosen, LOWEST_LOGIT))


@triton.jit
def _write_slope(  # type: ignore[no-untyped-def]
    slope, per_token, scores, reference, tokens, bits, numbers, first, count, stride, num_bytes,
    inverse, HAS_REFERENCE: tl.constexpr, HAS_BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    mask = tl.load(numbers + row) * num_bytes
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_word = places < count
    allowed = _allowed(bits, mask, first + places, is_word, HAS_BITS)
    per_token += row * 7
    b, g, h = tl.load(per_token), tl.load(per_token + 1), tl.load(per_token + 2)
    kl, entropy = tl.load(per_token + 3), tl.load(per_token + 4)
    z = tl.load(scores + row * stride + places, mask=is_word, other=0.0)
    z = tl.where(allowed, z, 0.0) * inverse
    log_p = z - tl.load(per_token + 5)
    inner = -h * (log_p + entropy) - g
    if HAS_REFERENCE:
        y = tl.load(reference + row * stride + places, mask=is_word, other=0.0)
        y = tl.where(allowed, y, 0.0) * inverse
        inner += b * (log_p - (y - tl.load(per_token + 6)) - kl)
    gradient = tl.where(allowed, tl.exp(log_p) * inner, 0.0)
    gradient += tl.where(first + places == tl.load(tokens + row), g, 0.0)
    # Rounded to the slope's type by the store; the product that reads it adds up in float32.
    tl.store(slope + row * count + places, gradient * inverse, mask=is_word)


@triton.jit
def _sum_words(  # type: ignore[no-untyped-def]
    sums, logits, count, stride, PART: tl.constexpr, BLOCK: tl.constexpr
):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    logits += row * stride
    end = tl.minimum((part + 1) * PART, count)
    largest, total, weighted = LOWEST_LOGIT + 0.0, 0.0, 0.0
    for start in range(part * PART, end, BLOCK):
        places = start + tl.arange(0, BLOCK)
        z = tl.load(logits + places, mask=places < end, other=-float("inf"))
        before = largest
        largest = tl.maximum(before, tl.max(z))
        shrink = tl.exp(before - largest)
        e = tl.exp(z - largest)
        total = total * shrink + tl.sum(e)
        weighted = weighted * shrink + tl.sum(tl.where(e != 0.0, e * z, 0.0))
    sums += (row * tl.num_programs(1) + part) * 3
    tl.store(sums, largest)
    tl.store(sums + 1, total)
    tl.store(sums + 2, weighted)


@triton.jit
def _draw_words(  # type: ignore[no-untyped-def]
    tokens, log_probs, entropy, logits, uniforms, sums, count, stride, num_parts,
    SAMPLES: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    parts = tl.arange(0, PARTS)
    is_part = parts < num_parts
    sums += (row * num_parts + parts) * 3
    largest_of = tl.load(sums, mask=is_part, other=LOWEST_LOGIT)
    largest = tl.max(largest_of)
    shrink = tl.exp(largest_of - largest)
    total_of = tl.load(sums + 1, mask=is_part, other=0.0) * shrink
    total = tl.sum(total_of)
    weighted = tl.sum(tl.load(sums + 2, mask=is_part, other=0.0) * shrink)
    # The part in which the sum passes the threshold, and then the word in it.
    threshold, passed = 0.0, 0.0
    if SAMPLES:
        threshold = tl.load(uniforms + row) * total
        holds = (tl.cumsum(total_of, 0) > threshold) & (total_of > 0.0)
    else:
        holds = is_part & (largest_of == largest)
    part = tl.min(tl.where(holds, parts, PARTS))
    # Rounding may carry the threshold past the end: the last word that is possible, then.
    part = tl.where(part == PARTS, tl.max(tl.where(total_of > 0.0, parts, 0)), part)
    if SAMPLES:
        passed = tl.sum(tl.where(parts < part, total_of, 0.0))
    token, last, start = count, 0, part * PART
    end = tl.minimum(start + PART, count)
    while (start < end) & (token == count):
        places = start + tl.arange(0, BLOCK)
        z = tl.load(logits + places, mask=places < end, other=-float("inf"))
        e = tl.exp(z - largest)
        if SAMPLES:
            is_past = (passed + tl.cumsum(e, 0) > threshold) & (e > 0.0)
        else:
            is_past = z == largest
        last = tl.maximum(last, tl.max(tl.where(e > 0.0, places, 0)))
        token = tl.min(tl.where(is_past, places, count))
        passed += tl.sum(e)
        start += BLOCK
    token = tl.where(token == count, last, token)
    chosen = tl.load(logits + token)
    log_total = largest + tl.log(total)
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(log_probs + row, chosen - log_total)
    tl.store(entropy + row, log_total - weighted / total)
