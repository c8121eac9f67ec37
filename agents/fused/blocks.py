"""One step of decoding of the Llama family in eight or nine kernels a block instead of forty.

x = embedding[token]
x = x + W_o attention(turned W_q norm(x), turned W_k norm(x), W_v norm(x))
x = x + W_down (act(W_gate norm(x)) * W_up norm(x));  ...;  state = norm(x)

Products are cuBLAS's; what stands between two of them is one kernel:

- the sum of the states with what a block adds, and the norm of it;
- all of attention: a program has one row and one head of keys, turns its new key and the queries
  that share it, writes key and value into the cache, which no other program reads, and attends;
- the gate.

Attention reads the columns from a row's first token (or the window's) to the present one, whose
number lies in the device's memory: so a captured graph reads no more of the cache than is full,
and needs no mask. The plain form is `StaticStream`, the model's own forward.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn
from transformers import GemmaModel, LlamaModel, MistralModel, Qwen2Model, Qwen3Model
from transformers.activations import GELUTanh, SiLUActivation
from transformers.cache_utils import get_layer_types_and_kwargs
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from tokengym.agents.decoding.cuda.static import StaticStream
from tokengym.agents.decoding.llama import ROTATIONS, linear_maps
from tokengym.agents.fused.launching import block_of, launch
from tokengym.agents.policy.language_model import LanguageModel

FAMILIES = (LlamaModel, MistralModel, Qwen2Model, Qwen3Model, GemmaModel)


@dataclass(frozen=True)
class Block:
    """One block's parts."""

    norm_1: Any
    queries_keys_values: list[nn.Linear]
    qkv: tuple[Tensor, Tensor | None]
    """Weight ((heads + 2 * key heads) * head width, width) and bias: copies, side by side."""
    head_norms: tuple[Tensor, Tensor] | None
    """Weights of the norms of queries and keys, (head width,) each."""
    out: nn.Linear
    norm_2: Any
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear
    scale: float
    """Of the attention scores."""
    window: int
    """Columns that attention looks back; 0: all."""

    def refresh(self) -> None:
        """Copy the weights as they are now."""
        weight, bias = self.qkv
        torch.cat([m.weight for m in self.queries_keys_values], out=weight)
        if bias is not None:
            torch.cat([m.bias for m in self.queries_keys_values], out=bias)


def has_fused_shape(language_model: LanguageModel) -> bool:
    """Say whether the model is one of the `FAMILIES`, as they usually are."""
    trunk: Any = language_model.model.base_model
    if language_model.autocasts or type(trunk) not in FAMILIES:
        return False
    rotation = getattr(trunk.config, "rope_parameters", None) or {}
    is_usual = rotation.get("rope_type", "default") in ROTATIONS
    is_usual &= rotation.get("partial_rotary_factor", 1.0) == 1.0
    is_usual &= all(
        _is_gelu(b.mlp) or isinstance(b.mlp.act_fn, SiLUActivation) for b in trunk.layers
    )
    maps = [m for block in trunk.layers for group in linear_maps(block) for m in group]
    return is_usual and all(type(m) is nn.Linear for m in maps)


class FusedStream(StaticStream):
    """A `StaticStream` under a model that `has_fused_shape`."""

    def __init__(self, language_model: LanguageModel, capacity: int, *, rows: int) -> None:
        super().__init__(language_model, capacity, rows=rows)
        trunk: Any = language_model.model.base_model
        self._trunk, self._first = trunk, torch.zeros_like(self._positions[:, 0])
        layers = zip(*get_layer_types_and_kwargs(trunk.config), strict=True)
        windows = [settings.get("sliding_window") or 0 for _, settings in layers]
        self._blocks = [_block(*both) for both in zip(trunk.layers, windows, strict=True)]
        weight = trunk.embed_tokens.weight
        cos, sin = trunk.rotary_emb(weight[:1], self._columns[None])  # rounded as the model does
        lower, upper = sin[0].float().chunk(2, -1)
        self._cos, self._sin = cos[0].float().contiguous(), torch.cat([-lower, upper], -1)
        self._activates = "gelu" if _is_gelu(trunk.layers[0].mlp) else "silu"

    def start(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See `Stream.start`."""
        for block in self._blocks:
            block.refresh()
        self._first[: len(input_ids)] = (attention_mask == 0).sum(1)
        return super().start(input_ids, attention_mask)

    def read(self) -> None:
        """See `StaticStream.read`."""
        size = self.size
        x, added = self._trunk.embed_tokens(self.tokens[:size, 0]), None
        for block, layer in zip(self._blocks, self._layers, strict=True):
            normed = self._normed(x, added, block.norm_1)
            attended = self._attended(F.linear(normed, *block.qkv), block, layer)
            normed = self._normed(x, block.out(attended), block.norm_2)
            gate, up = block.gate(normed), block.up(normed)
            apply_gate(gate, up, self._activates)
            added = block.down(gate)
        self._normed(x, added, self._trunk.norm, self.states[:size])

    def per_row(self) -> list[Tensor]:
        """See `StaticStream.per_row`."""
        return [*super().per_row(), self._first]

    def tensors(self) -> list[Tensor]:
        """See `StaticStream.tensors`."""
        copied = [x for block in self._blocks for x in block.qkv if x is not None]
        return [*super().tensors(), *copied]

    def _normed(
        self, x: Tensor, added: Tensor | None, norm: Any, out: Tensor | None = None
    ) -> Tensor:
        """Return the norm of the states, (rows, width), to which something is added in place."""
        out = torch.empty_like(x) if out is None else out
        is_gemma = type(self._trunk) is GemmaModel
        add_and_norm(out, x, added, norm.weight, self._trunk.config.rms_norm_eps, is_gemma)
        return out

    def _attended(self, qkv: Tensor, block: Block, layer: Any) -> Tensor:
        """Return what the heads read, (rows, heads * head width), and write the cache."""
        width = layer.keys.shape[-1]
        out = qkv.new_empty(len(qkv), qkv.shape[1] - 2 * layer.keys.shape[1] * width)
        norms = block.head_norms or (None, None)
        tables = self._cos, self._sin
        place = self._positions, self._column, self._first
        settings = block.scale, self._trunk.config.rms_norm_eps, block.window
        attend(out, layer.keys, layer.values, qkv, *norms, *tables, *place, *settings)
        return out


def _is_gelu(mlp: Any) -> bool:
    return isinstance(mlp.act_fn, GELUTanh)


def _block(block: Any, window: int) -> Block:
    (*qkv,), (out,), (gate, up), (down,) = linear_maps(block)
    attention = block.self_attn
    weight = torch.cat([m.weight.detach() for m in qkv])
    bias = None if qkv[0].bias is None else torch.cat([m.bias.detach() for m in qkv])
    norms = None
    if isinstance(attention, Qwen3Attention):
        norms = attention.q_norm.weight, attention.k_norm.weight
    return Block(
        norm_1=block.input_layernorm,
        queries_keys_values=qkv,
        qkv=(weight, bias),
        head_norms=norms,
        out=out,
        norm_2=block.post_attention_layernorm,
        gate=gate,
        up=up,
        down=down,
        scale=attention.scaling,
        window=window,
    )


# --- the kernels as operations of torch -----------------------------------------------------------


@torch.library.custom_op("tokengym::add_and_norm", mutates_args=("out", "x"))
def add_and_norm(
    out: Tensor, x: Tensor, added: Tensor | None, weight: Tensor, eps: float, above_one: bool
) -> None:
    """Add to the states in place and write their RMS norm.

    Args:
        out: (rows, width).
        x: (rows, width), the states.
        added: (rows, width), or None.
        weight: (width,).
        eps: Added to the mean square.
        above_one: Whether 1 is added to the weights, as Gemma does.
    """
    rows, width = x.shape
    launch(
        _add_and_norm,
        (rows,),
        x,
        *(out, x, x if added is None else added, weight, width, eps),
        HAS_ADDED=added is not None,
        ABOVE_ONE=above_one,
        BLOCK=block_of(width, 2**16),
        num_warps=8 if width > 2**11 else 4,
    )


@torch.library.custom_op("tokengym::apply_gate", mutates_args=("gate",))
def apply_gate(gate: Tensor, up: Tensor, activation: str) -> None:
    """Write act(gate) * up over the gate, (rows, inner width)."""
    block = 2**10
    launch(
        _apply_gate,
        (triton.cdiv(gate.numel(), block),),
        gate,
        *(gate, up, gate.numel()),
        IS_GELU=activation == "gelu",
        BLOCK=block,
    )


@torch.library.custom_op("tokengym::attend", mutates_args=("out", "keys", "values"))
def attend(
    out: Tensor,
    keys: Tensor,
    values: Tensor,
    qkv: Tensor,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    column: Tensor,
    first: Tensor,
    scale: float,
    eps: float,
    window: int,
) -> None:
    """Turn queries and keys, write keys and values into the cache, and attend.

    Args:
        out: (rows, heads * width), what the heads read.
        keys: (rows, key heads, room, width), the cache.
        values: The same of the values.
        qkv: (rows, (heads + 2 * key heads) * width).
        query_norm: (width,), weight of the queries' norm; None has none.
        key_norm: The same of the keys.
        cos: (room, width) float32 by position.
        sin: The same, with the lower half's sign.
        positions: (rows or more, 1) int64 of the tokens in their texts.
        column: (1,) int64, where the tokens are in the cache.
        first: (rows or more,) int64, each text's first column.
        scale: Of the scores.
        eps: Of the norms.
        window: Columns that are looked back; 0: all.
    """
    rows, num_keys, room, width = keys.shape
    shared = out.shape[1] // (num_keys * width)
    launch(
        _attend,
        (rows, num_keys),
        qkv,
        *(out, keys, values, qkv),
        *(qkv if query_norm is None else query_norm, qkv if key_norm is None else key_norm),
        *(cos, sin, positions, column, first, scale, eps, window, room),
        SHARED=shared,
        KEYS=num_keys,
        WIDTH=width,
        HAS_NORMS=query_norm is not None,
        GROUP=max(16, block_of(shared)),  # rows that a matrix unit takes at least
        DIMS=max(16, block_of(width)),
        BLOCK=64 if keys.itemsize == 2 else 16,  # what fits into a multiprocessor
    )


# --- the kernels ----------------------------------------------------------------------------------


@triton.jit
def _add_and_norm(  # type: ignore[no-untyped-def]
    out, x, added, weight, width, eps,
    HAS_ADDED: tl.constexpr, ABOVE_ONE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    is_place = places < width
    states = tl.load(x + row * width + places, mask=is_place, other=0.0)
    if HAS_ADDED:
        more = tl.load(added + row * width + places, mask=is_place, other=0.0)
        states = (states.to(tl.float32) + more.to(tl.float32)).to(states.dtype)
        tl.store(x + row * width + places, states, mask=is_place)
    wide = states.to(tl.float32)
    wide = wide * tl.rsqrt(tl.sum(wide * wide) / width + eps)
    scale = tl.load(weight + places, mask=is_place, other=0.0).to(tl.float32)
    if ABOVE_ONE:
        wide = wide * (1.0 + scale)
    else:
        wide = wide.to(states.dtype).to(tl.float32) * scale  # the model rounds in between
    tl.store(out + row * width + places, wide.to(states.dtype), mask=is_place)


@triton.jit
def _apply_gate(gate, up, count, IS_GELU: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(gate + places, mask=places < count, other=0.0).to(tl.float32)
    y = tl.load(up + places, mask=places < count, other=0.0).to(tl.float32)
    if IS_GELU:  # x (1 + tanh z) / 2 is x sigmoid(2 z)
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    else:
        x = x * tl.sigmoid(x)
    tl.store(gate + places, (x * y).to(gate.dtype.element_ty), mask=places < count)


@triton.jit
def _turned(  # type: ignore[no-untyped-def]
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
def _attend(  # type: ignore[no-untyped-def]
    out, keys, values, qkv, query_norm, key_norm, cos, sin, positions, column, first, scale, eps,
    window, room, SHARED: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
    HAS_NORMS: tl.constexpr, GROUP: tl.constexpr, DIMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    dims = tl.arange(0, DIMS)
    is_dim = dims < WIDTH
    position, now = tl.load(positions + row), tl.load(column)
    turn = tl.load(cos + position * WIDTH + dims, mask=is_dim, other=0.0)
    twist = tl.load(sin + position * WIDTH + dims, mask=is_dim, other=0.0)
    qkv += row * (SHARED + 2) * KEYS * WIDTH
    places = tl.arange(0, GROUP)
    queries = _turned(
        qkv, query_norm, head * SHARED + places, places < SHARED, turn, twist, eps,
        WIDTH, DIMS, HAS_NORMS,
    )  # fmt: skip
    # The one new key, in row 0 of as many rows as the queries have.
    key = _turned(
        qkv, key_norm, SHARED * KEYS + head + places, places < 1, turn, twist, eps,
        WIDTH, DIMS, HAS_NORMS,
    )  # fmt: skip
    key = tl.sum(key.to(tl.float32), 0)
    value = tl.load(qkv + ((SHARED + 1) * KEYS + head) * WIDTH + dims, mask=is_dim, other=0.0)
    keys += (row * KEYS + head) * room * WIDTH
    values += (row * KEYS + head) * room * WIDTH
    tl.store(keys + now * WIDTH + dims, key.to(value.dtype), mask=is_dim)
    tl.store(values + now * WIDTH + dims, value, mask=is_dim)
    # The new token is always seen: with it the sums begin, and no largest score is -inf.
    largest = tl.sum(queries.to(tl.float32) * key[None, :], 1) * scale
    total = tl.full((GROUP,), 1.0, tl.float32)
    read = tl.zeros((GROUP, DIMS), tl.float32) + value.to(tl.float32)[None, :]
    start = tl.load(first + row)
    if window > 0:
        start = tl.maximum(start, now - window + 1)
    for begin in range(start, now, BLOCK):
        columns = begin + tl.arange(0, BLOCK)
        seen = columns < now
        cells = columns[:, None] * WIDTH + dims[None, :]
        mask = seen[:, None] & is_dim[None, :]
        known = tl.load(keys + cells, mask=mask, other=0.0)
        scores = tl.dot(queries, tl.trans(known), input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, -float("inf"))
        before = largest
        largest = tl.maximum(before, tl.max(scores, 1))
        shrink = tl.exp(before - largest)
        e = tl.exp(scores - largest[:, None])
        total = total * shrink + tl.sum(e, 1)
        known = tl.load(values + cells, mask=mask, other=0.0)
        read = read * shrink[:, None]
        read += tl.dot(e.to(known.dtype), known, input_precision="ieee")
    read = read / total[:, None]
    out += row * SHARED * KEYS * WIDTH + (head * SHARED + places)[:, None] * WIDTH + dims[None, :]
    mask = (places < SHARED)[:, None] & is_dim[None, :]
    tl.store(out, read.to(value.dtype), mask=mask)
