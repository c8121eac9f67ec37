"""One step of decoding of the Llama family in eight or nine kernels a block instead of forty.

x = embedding[token]
x = x + W_o attention(turned W_q norm(x), turned W_k norm(x), W_v norm(x))
x = x + W_down (act(W_gate norm(x)) * W_up norm(x));  ...;  state = norm(x)

Products are cuBLAS's; what stands between two of them is one kernel:

- the sum of the states with what a block adds, and the norm of it;
- all of attention: a program has one row and one head of keys, turns its new key and the queries
  that share it, writes key and value into the cache, which no other program reads, and attends;
- the gate.

Attention of few rows is split: several programs read a row's columns, and one more kernel joins
what they have read. Prompts are read as an update reads texts, see `trunk`.

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
from transformers import GemmaModel
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from tokengym.agents.fast.kernels.launching import block_of, launch, operation, programs
from tokengym.agents.fast.kernels.layers import add_and_norm, apply_gate, turned_heads
from tokengym.agents.fast.kernels.trunk import activation, has_llama_blocks, rotation, windows
from tokengym.agents.fast.kernels.trunk import hidden as trunk_hidden
from tokengym.agents.fast.llama import all_maps, linear_maps
from tokengym.agents.fast.static import StaticStream
from tokengym.agents.policy.language_model import CausalLM

LOWEST = tl.constexpr(-1e30)
SPLIT = 512
"""Columns of a row that one program of attention reads where there are few rows."""
MOST_SPLIT = 2**8
"""Rows times heads of keys from which there are programs enough without splitting columns."""


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
    """Scale of the attention scores."""
    window: int
    """Columns that attention looks back; 0: all."""

    def refresh(self) -> None:
        """Copy the weights as they are now."""
        weight, bias = self.qkv
        torch.cat([m.weight for m in self.queries_keys_values], out=weight)
        if bias is not None:
            torch.cat([m.bias for m in self.queries_keys_values], out=bias)


def has_fused_shape(language_model: CausalLM) -> bool:
    """Say whether the model's steps can be fused: plain linear maps between Llama's parts."""
    trunk: Any = language_model.model.base_model
    if language_model.autocasts or not has_llama_blocks(trunk):
        return False
    return all(type(m) is nn.Linear for m in all_maps(trunk))


class FusedStream(StaticStream):
    """A `StaticStream` under a model that `has_fused_shape`."""

    def __init__(self, language_model: CausalLM, capacity: int, *, rows: int) -> None:
        super().__init__(language_model, capacity, rows=rows)
        trunk: Any = language_model.model.base_model
        self._trunk, self._first = trunk, torch.zeros_like(self._positions[:, 0])
        self._blocks = [_block(*both) for both in zip(trunk.layers, windows(trunk), strict=True)]
        self._cos, self._sin = rotation(trunk, trunk.embed_tokens.weight[:1], self._columns)
        self._activation = activation(trunk)

    def start(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See `Stream.start`."""
        for block in self._blocks:
            block.refresh()
        self._first[: len(input_ids)] = (attention_mask == 0).sum(1)
        return super().start(input_ids, attention_mask)

    def read_prompts(
        self, input_ids: Tensor, attention_mask: Tensor, places: Tensor
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """See `StaticStream.read_prompts`."""
        # The prompts are moved to the left, where a token reads all before it and no mask is
        # needed, and their keys and values back to the right.
        width = input_ids.shape[1]
        if any(window and window < width for window in windows(self._trunk)):
            return super().read_prompts(input_ids, attention_mask, places)
        columns, padding = self._columns[:width], width - attention_mask.sum(1, keepdim=True)
        cache: list[tuple[Tensor, Tensor]] = []
        with self._model.computing():
            left = input_ids.gather(1, (columns + padding).clamp(max=width - 1))
            hidden = trunk_hidden(self._trunk, left, cache)
        rows = torch.arange(len(hidden), device=hidden.device)
        back = (columns - padding).clamp(min=0)[:, None, :, None]
        moved = [
            tuple(x.gather(2, back.expand(-1, x.shape[1], -1, x.shape[3])) for x in both)
            for both in cache
        ]
        return hidden[rows, width - 1 - padding[:, 0]], moved  # type: ignore[return-value]

    def read(self) -> None:
        """See `StaticStream.read`."""
        size = self.size
        x, added = self._trunk.embed_tokens(self.tokens[:size, 0]), None
        for block, layer in zip(self._blocks, self._layers, strict=True):
            normed = self._normed(x, added, block.norm_1)
            attended = self._attended(F.linear(normed, *block.qkv), block, layer)
            normed = self._normed(x, block.out(attended), block.norm_2)
            gate = block.gate(normed)
            apply_gate(gate, gate, block.up(normed), self._activation)
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
        add_and_norm(out, x, x, added, norm.weight, self._trunk.config.rms_norm_eps, is_gemma)
        return out

    def _attended(self, qkv: Tensor, block: Block, layer: Any) -> Tensor:
        """Return what the heads read, (rows, heads * head width), and write the cache."""
        width = layer.keys.shape[-1]
        out = qkv.new_empty(len(qkv), qkv.shape[1] - 2 * layer.keys.shape[1] * width)
        norms = block.head_norms or (None, None)
        tables = self._cos, self._sin
        position = self._positions, self._column, self._first
        settings = block.scale, self._trunk.config.rms_norm_eps, block.window
        attend(out, layer.keys, layer.values, qkv, *norms, *tables, *position, *settings)
        return out


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


def turns(width: int, itemsize: int) -> tuple[int, int]:
    """Return the columns of a turn of attention, and the turns that are loaded at a time.

    What is loaded has to fit into a multiprocessor's shared memory, 100 KiB on smaller cards, and
    a matrix unit takes 16 columns at least.
    """
    block = 64 if itemsize == 2 else 16
    return (block, 3) if width <= 128 else (max(16, block // 2), 2)


# --- the kernels as operations of torch -----------------------------------------------------------


@operation(mutates=("out", "keys", "values"))
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

    - out: (rows, heads * width), what the heads read
    - keys, values: (rows, key heads, room, width), the cache
    - qkv: (rows, (heads + 2 * key heads) * width)
    - query_norm, key_norm: (width,), weights of the norms; None has none
    - cos, sin: (room, width) float32 by position; the lower half's sign is in the sines
    - positions, column: (rows or more, 1) int64 of the tokens in their texts and in the cache
    - first: (rows or more,) int64, each text's first column
    - scale of the scores, eps of the norms, columns that are looked back (0: all)
    """
    rows, num_keys, room, width = keys.shape
    shared = out.shape[1] // (num_keys * width)
    parts = 1 if rows * num_keys >= MOST_SPLIT else programs(room, SPLIT)
    block, stages = turns(width, keys.itemsize)
    shape: dict[str, Any] = {
        "SHARED": shared,
        "KEYS": num_keys,
        "WIDTH": width,
        "GROUP": max(16, block_of(shared)),  # rows that a matrix unit takes at least
        "DIMS": max(16, block_of(width)),
    }
    pieces = sums = out
    if parts > 1:
        pieces = torch.empty(
            rows, num_keys, parts, shared * width, dtype=torch.float32, device=out.device
        )
        sums = torch.empty(
            rows, num_keys, parts, 2 * shared, dtype=torch.float32, device=out.device
        )
    launch(
        _attend,
        (rows, num_keys, parts),
        qkv,
        *(out, pieces, sums, keys, values, qkv),
        *(qkv if query_norm is None else query_norm, qkv if key_norm is None else key_norm),
        *(cos, sin, positions, column, first, scale, eps, window, room),
        HAS_NORMS=query_norm is not None,
        IS_SPLIT=parts > 1,
        SPLIT_SIZE=SPLIT,
        BLOCK=block,
        num_stages=stages,
        **shape,
    )
    if parts > 1:
        launch(
            _join,
            (rows, num_keys),
            qkv,
            *(out, pieces, sums, parts),
            **shape,
        )


# --- the kernels ----------------------------------------------------------------------------------


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    out, pieces, sums, keys, values, qkv, query_norm, key_norm, cos, sin, positions, column, first,
    scale, eps, window, room, SHARED: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
    HAS_NORMS: tl.constexpr, IS_SPLIT: tl.constexpr, SPLIT_SIZE: tl.constexpr,
    GROUP: tl.constexpr, DIMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, head, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    dims = tl.arange(0, DIMS)
    is_dim = dims < WIDTH
    position, now = tl.load(positions + row), tl.load(column + row)
    turn = tl.load(cos + position * WIDTH + dims, mask=is_dim, other=0.0)
    twist = tl.load(sin + position * WIDTH + dims, mask=is_dim, other=0.0)
    qkv += row * (SHARED + 2) * KEYS * WIDTH
    places = tl.arange(0, GROUP)
    queries = turned_heads(
        qkv, query_norm, head * SHARED + places, places < SHARED, turn, twist, eps,
        WIDTH, DIMS, HAS_NORMS,
    )  # fmt: skip
    # The one new key, in row 0 of as many rows as the queries have.
    key = turned_heads(
        qkv, key_norm, SHARED * KEYS + head + places, places < 1, turn, twist, eps,
        WIDTH, DIMS, HAS_NORMS,
    )  # fmt: skip
    key = tl.sum(key.to(tl.float32), 0)
    value = tl.load(qkv + ((SHARED + 1) * KEYS + head) * WIDTH + dims, mask=is_dim, other=0.0)
    keys += (row * KEYS + head) * room * WIDTH
    values += (row * KEYS + head) * room * WIDTH
    start, end = tl.load(first + row), now
    if window > 0:
        start = tl.maximum(start, now - window + 1)
    if IS_SPLIT:
        start = tl.maximum(start, part * SPLIT_SIZE)
        end = tl.minimum(now, (part + 1) * SPLIT_SIZE)
    # The new token is always seen: the first part's sums begin with it, so that no largest score of
    # all parts is -inf. Programs of other parts do not read its column.
    if part == 0:
        tl.store(keys + now * WIDTH + dims, key.to(value.dtype), mask=is_dim)
        tl.store(values + now * WIDTH + dims, value, mask=is_dim)
    largest = tl.sum(queries.to(tl.float32) * key[None, :], 1) * scale
    largest = tl.where(part == 0, largest, LOWEST)
    total = tl.full((GROUP,), 1.0, tl.float32)
    total = tl.where(part == 0, total, 0.0)
    read = tl.zeros((GROUP, DIMS), tl.float32) + value.to(tl.float32)[None, :]
    read = tl.where(part == 0, read, 0.0)
    largest, total, read = _read_columns(
        keys, values, queries, largest, total, read, start, end, scale, dims, WIDTH, BLOCK
    )
    cells = places[:, None] * WIDTH + dims[None, :]
    mask = (places < SHARED)[:, None] & is_dim[None, :]
    if IS_SPLIT:
        piece = (row * KEYS + head) * tl.num_programs(2) + part
        tl.store(pieces + piece * SHARED * WIDTH + cells, read, mask=mask)
        sums += piece * 2 * SHARED + places
        tl.store(sums, largest, mask=places < SHARED)
        tl.store(sums + SHARED, total, mask=places < SHARED)
    else:
        read = read / total[:, None]
        out += (row * KEYS + head) * SHARED * WIDTH
        tl.store(out + cells, read.to(value.dtype), mask=mask)


@triton.jit
def _read_columns(  # type: ignore[no-untyped-def]
    keys, values, queries, largest, total, read, start, end, scale, dims,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return largest scores, sums and what was read, with some columns of the cache added."""
    is_dim = dims < WIDTH
    for begin in range(start, end, BLOCK):
        columns = begin + tl.arange(0, BLOCK)
        seen = columns < end
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
    return largest, total, read


@triton.jit
def _join(  # type: ignore[no-untyped-def]
    out, pieces, sums, num_parts, SHARED: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
    GROUP: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64) * KEYS + tl.program_id(1)
    places, dims = tl.arange(0, GROUP), tl.arange(0, DIMS)
    is_query = places < SHARED
    cells = places[:, None] * WIDTH + dims[None, :]
    mask = is_query[:, None] & (dims < WIDTH)[None, :]
    largest = tl.full((GROUP,), LOWEST, tl.float32)
    total = tl.zeros((GROUP,), tl.float32)
    read = tl.zeros((GROUP, DIMS), tl.float32)
    for part in range(num_parts):
        piece = head * num_parts + part
        its_largest = tl.load(sums + piece * 2 * SHARED + places, mask=is_query, other=0.0)
        its_total = tl.load(sums + (piece * 2 + 1) * SHARED + places, mask=is_query, other=1.0)
        before = largest
        largest = tl.maximum(before, its_largest)
        shrink, weight = tl.exp(before - largest), tl.exp(its_largest - largest)
        total = total * shrink + its_total * weight
        its_read = tl.load(pieces + piece * SHARED * WIDTH + cells, mask=mask, other=0.0)
        read = read * shrink[:, None] + its_read * weight[:, None]
    read = read / total[:, None]
    tl.store(out + head * SHARED * WIDTH + cells, read.to(out.dtype.element_ty), mask=mask)
