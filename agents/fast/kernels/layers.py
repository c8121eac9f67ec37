"""Operations between two products of a block, with gradients: norms, rotations and gates.

Each is one kernel forwards and one backwards, where torch writes five to ten tensors. Nothing but
the inputs is kept for the gradient: the norm of a row is computed again from the row, which is read
anyway.

x' = x + added;  normed = x' / rms(x') * weight          `added_and_normed`
turned = x cos + (-upper half of x, lower half) sin      `turned`
gated = act(gate) * up                                   `gated`
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokengym.agents.fast.kernels.launching import block_of, launch, operation, programs

FEWEST_PROGRAMS = 2**8
"""Programs among which the rows of a norm's gradient are shared out, a multiprocessor's worth at
least; each adds up its share of the weight's gradient."""


def added_and_normed(
    x: Tensor, added: Tensor | None, weight: Tensor, eps: float, above_one: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the sum of two tensors, (..., width), and the RMS norm of the sum in a precision.

    With ``above_one`` 1 is added to the weight, (width,), as Gemma does.
    """
    total, normed = _AddAndNorm.apply(x, added, weight, eps, above_one, dtype)
    return total, normed


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return heads, (rows, length, heads * width), turned by their place.

    Cosines and sines are (length, width) float32, the sines' lower half with its sign; both halves
    are equal but for it.
    """
    rotated: Tensor = _Turn.apply(x, cos, sin)
    return rotated


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """Return act(gate) * up, both of one shape; the activation is "silu" or "gelu"."""
    product: Tensor = _Gate.apply(gate, up, activation)
    return product


def signed(sin: Tensor) -> Tensor:
    """Return a table of sines, (n, width), in float32 and with the lower half's sign."""
    lower, upper = sin.float().chunk(2, -1)
    return torch.cat([-lower, upper], -1)


class _AddAndNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        added: Tensor | None,
        weight: Tensor,
        eps: float,
        above_one: bool,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # nobody reads the last sum
        x = x.contiguous()
        normed = torch.empty_like(x, dtype=dtype)
        if added is None:
            total = x.view_as(x)
            add_and_norm(normed, None, x, None, weight, eps, above_one)
        else:
            total = torch.empty_like(x)
            add_and_norm(normed, total, x, added.contiguous(), weight, eps, above_one)
        ctx.save_for_backward(total, weight)
        ctx.settings = eps, above_one, None if added is None else added.dtype
        return total, normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        passed, given = gradients
        total, weight = ctx.saved_tensors
        eps, above_one, added_dtype = ctx.settings
        assert given is not None
        slope, shares = torch.empty_like(total), None
        width = total.shape[-1]
        if ctx.needs_input_grad[2]:
            max_programs = max(FEWEST_PROGRAMS, 2**19 // block_of(width))
            programs = min(total.numel() // width, max_programs)
            shares = torch.empty(programs, width, dtype=torch.float32, device=total.device)
        passed = None if passed is None else passed.contiguous()
        norm_slope(slope, shares, total, weight, given.contiguous(), passed, eps, above_one)
        grad_added = None if added_dtype is None else slope.to(added_dtype)
        grad_weight = None if shares is None else shares.sum(0).to(weight.dtype)
        return slope, grad_added, grad_weight, None, None, None


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        turn(out, x.contiguous(), cos, sin, False)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (given,) = gradients
        slope = torch.empty_like(given, memory_format=torch.contiguous_format)
        turn(slope, given.contiguous(), *ctx.saved_tensors, True)
        return slope, None, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        out = torch.empty_like(gate)
        apply_gate(out, gate, up, activation)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        slopes = torch.empty_like(gate), torch.empty_like(up)
        gate_slope(*slopes, gradients[0].contiguous(), gate, up, ctx.activation)
        return *slopes, None


# --- the kernels as operations of torch, so that what they read and write can be counted ----------


@operation(mutates=("normed", "total"))
def add_and_norm(
    normed: Tensor,
    total: Tensor | None,
    x: Tensor,
    added: Tensor | None,
    weight: Tensor,
    eps: float,
    above_one: bool,
) -> None:
    """Write the sum of two tensors, perhaps into x itself, and its RMS norm of any float type.

    See `added_and_normed`; the total is None if nothing is added.
    """
    width = x.shape[-1]
    launch(
        _add_and_norm,
        (x.numel() // width,),
        x,
        *(normed, x if total is None else total, x, x if added is None else added),
        *(weight, width, eps),
        HAS_ADDED=added is not None,
        ABOVE_ONE=above_one,
        BLOCK=block_of(width, 2**16),
        num_warps=_warps(width),
    )


@operation(mutates=("slope", "shares"))
def norm_slope(
    slope: Tensor,
    shares: Tensor | None,
    x: Tensor,
    weight: Tensor,
    given: Tensor,
    passed: Tensor | None,
    eps: float,
    above_one: bool,
) -> None:
    """Write the gradient with respect to the states x of an RMS norm, and to its weight.

    n = x / rms(x);  dL / dx = (g w - n mean(g w n)) / rms(x) + dL / dx without the norm
    dL / dw = sum of g n, of which each row of the shares, (programs, width) float32, has a part

    Slope dL / dx, x, given g = dL / dnormed and passed dL / dx without the norm are (..., width).
    """
    width = x.shape[-1]
    rows = x.numel() // width
    launch(
        _norm_slope,
        (rows if shares is None else len(shares),),
        x,
        *(slope, x if shares is None else shares, x, weight, given),
        *(x if passed is None else passed, rows, width, eps),
        HAS_SHARES=shares is not None,
        HAS_PASSED=passed is not None,
        ABOVE_ONE=above_one,
        BLOCK=block_of(width, 2**16),
        num_warps=_warps(width),
    )


@operation(mutates=("out",))
def turn(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor, backwards: bool) -> None:
    """Write heads turned by their place, or back; see `turned`."""
    length, width = cos.shape
    heads = x.shape[-1] // width
    launch(
        _turn,
        (x.numel() // x.shape[-1],),
        x,
        *(out, x, cos, sin, length, heads),
        BACKWARDS=backwards,
        WIDTH=width,
        HEADS=block_of(heads),
        DIMS=block_of(width),
    )


@operation(mutates=("out",))
def apply_gate(out: Tensor, gate: Tensor, up: Tensor, activation: str) -> None:
    """Write act(gate) * up; ``out`` may be the gate itself."""
    block = 2**10
    launch(
        _apply_gate,
        (programs(gate.numel(), block),),
        gate,
        *(out, gate, up, gate.numel()),
        IS_GELU=activation == "gelu",
        BLOCK=block,
    )


@operation(mutates=("gate_slope", "up_slope"))
def gate_slope(
    gate_slope: Tensor, up_slope: Tensor, given: Tensor, gate: Tensor, up: Tensor, activation: str
) -> None:
    """Write the gradients with respect to gate and up, ``given`` that of act(gate) * up."""
    block = 2**10
    launch(
        _gate_slope,
        (programs(gate.numel(), block),),
        gate,
        *(gate_slope, up_slope, given, gate, up, gate.numel()),
        IS_GELU=activation == "gelu",
        BLOCK=block,
    )


def _warps(width: int) -> int:
    """Return the warps of a program that holds a row."""
    return 8 if width > 2**11 else 4 if width > 2**8 else 1


# --- the kernels ----------------------------------------------------------------------------------


@triton.jit
def _add_and_norm(  # type: ignore[no-untyped-def]
    normed, total, x, added, weight, width, eps,
    HAS_ADDED: tl.constexpr, ABOVE_ONE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    places = tl.arange(0, BLOCK)
    is_place = places < width
    cells = tl.program_id(0).to(tl.int64) * width + places
    states = tl.load(x + cells, mask=is_place, other=0.0)
    if HAS_ADDED:
        more = tl.load(added + cells, mask=is_place, other=0.0)
        states = (states.to(tl.float32) + more.to(tl.float32)).to(states.dtype)
        tl.store(total + cells, states, mask=is_place)
    wide = states.to(tl.float32)
    wide = wide * tl.rsqrt(tl.sum(wide * wide) / width + eps)
    scale = tl.load(weight + places, mask=is_place, other=0.0).to(tl.float32)
    if ABOVE_ONE:
        wide = wide * (1.0 + scale)
    else:
        wide = wide.to(states.dtype).to(tl.float32) * scale  # the model rounds in between
    tl.store(normed + cells, wide.to(normed.dtype.element_ty), mask=is_place)


@triton.jit
def _norm_slope(  # type: ignore[no-untyped-def]
    slope, shares, x, weight, given, passed, rows, width, eps,
    HAS_SHARES: tl.constexpr, HAS_PASSED: tl.constexpr, ABOVE_ONE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    is_place = places < width
    scale = tl.load(weight + places, mask=is_place, other=0.0).to(tl.float32)
    if ABOVE_ONE:
        scale += 1.0
    share = tl.zeros((BLOCK,), tl.float32)
    for row in range(program, rows, tl.num_programs(0)):
        cells = row * width + places
        normed = tl.load(x + cells, mask=is_place, other=0.0).to(tl.float32)
        factor = tl.rsqrt(tl.sum(normed * normed) / width + eps)
        normed = normed * factor
        g = tl.load(given + cells, mask=is_place, other=0.0).to(tl.float32)
        if HAS_SHARES:
            share += g * normed
        g = g * scale
        gradient = factor * (g - normed * (tl.sum(g * normed) / width))
        if HAS_PASSED:
            gradient += tl.load(passed + cells, mask=is_place, other=0.0).to(tl.float32)
        tl.store(slope + cells, gradient.to(slope.dtype.element_ty), mask=is_place)
    if HAS_SHARES:
        tl.store(shares + program * width + places, share, mask=is_place)


@triton.jit
def turned_heads(  # type: ignore[no-untyped-def]
    x, weight, heads, is_head, cos, sin, eps,
    WIDTH: tl.constexpr, DIMS: tl.constexpr, HAS_NORMS: tl.constexpr,
):  # fmt: skip
    """Return heads, (heads, DIMS), turned by their place: x cos + (-upper half, lower half) sin."""
    dims = tl.arange(0, DIMS)
    is_dim = dims < WIDTH
    partner = tl.where(dims < WIDTH // 2, dims + WIDTH // 2, dims - WIDTH // 2)
    mask = is_head[:, None] & is_dim[None, :]
    left = tl.load(x + heads[:, None] * WIDTH + dims[None, :], mask=mask, other=0.0)
    right = tl.load(x + heads[:, None] * WIDTH + partner[None, :], mask=mask, other=0.0)
    dtype = left.dtype
    left, right = left.to(tl.float32), right.to(tl.float32)
    if HAS_NORMS:
        factor = tl.rsqrt(tl.sum(left * left, 1) / WIDTH + eps)[:, None]
        here = tl.load(weight + dims, mask=is_dim, other=0.0).to(tl.float32)[None, :]
        there = tl.load(weight + partner, mask=is_dim, other=0.0).to(tl.float32)[None, :]
        left = (left * factor).to(dtype).to(tl.float32) * here
        right = (right * factor).to(dtype).to(tl.float32) * there
    return (left * cos[None, :] + right * sin[None, :]).to(dtype)


@triton.jit
def _turn(  # type: ignore[no-untyped-def]
    out, x, cos, sin, length, num_heads,
    BACKWARDS: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    heads, dims = tl.arange(0, HEADS), tl.arange(0, DIMS)
    is_head, is_dim = heads < num_heads, dims < WIDTH
    table = (row % length) * WIDTH + dims
    cosine = tl.load(cos + table, mask=is_dim, other=0.0)
    sine = tl.load(sin + table, mask=is_dim, other=0.0)
    if BACKWARDS:
        sine = -sine
    row *= num_heads * WIDTH
    turned_cells = turned_heads(
        x + row, x, heads, is_head, cosine, sine, 0.0, WIDTH, DIMS, False
    )  # fmt: skip
    cells = heads[:, None] * WIDTH + dims[None, :]
    tl.store(out + row + cells, turned_cells, mask=is_head[:, None] & is_dim[None, :])


@triton.jit
def _steepness(x, IS_GELU: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return s and t with act(x) = x s(x) and s' = s (1 - s) t: of SiLU, or of GELU by tanh."""
    if IS_GELU:  # (1 + tanh z) / 2 is sigmoid(2 z)
        s = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
        t = 1.5957691216057308 * (1.0 + 0.134145 * x * x)
    else:
        s = tl.sigmoid(x)
        t = x * 0.0 + 1.0
    return s, t


@triton.jit
def _apply_gate(out, gate, up, count, IS_GELU: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(gate + places, mask=places < count, other=0.0).to(tl.float32)
    y = tl.load(up + places, mask=places < count, other=0.0).to(tl.float32)
    s, _ = _steepness(x, IS_GELU)
    tl.store(out + places, (x * s * y).to(out.dtype.element_ty), mask=places < count)


@triton.jit
def _gate_slope(  # type: ignore[no-untyped-def]
    gate_slope, up_slope, given, gate, up, count, IS_GELU: tl.constexpr, BLOCK: tl.constexpr
):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_place = places < count
    g = tl.load(given + places, mask=is_place, other=0.0).to(tl.float32)
    x = tl.load(gate + places, mask=is_place, other=0.0).to(tl.float32)
    y = tl.load(up + places, mask=is_place, other=0.0).to(tl.float32)
    s, t = _steepness(x, IS_GELU)
    dtype = gate_slope.dtype.element_ty
    tl.store(gate_slope + places, (g * y * s * (1.0 + x * (1.0 - s) * t)).to(dtype), mask=is_place)
    tl.store(up_slope + places, (g * x * s).to(dtype), mask=is_place)
