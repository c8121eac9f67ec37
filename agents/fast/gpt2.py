"""GPT-2 one token at a time on a CPU, without the overhead of its modules.

Prompts and steps are the plain formulas on the model's own weights and a cache allocated once:
twice as fast for small models, whose time goes into modules, masks and growing caches. Attention
of one query is two batched products, faster than PyTorch's attention, and the cache is float32
even for bfloat16, where those products are five times slower. Checked against the model's own
forward by test. Under oneDNN's products weights are brought into its order once a round.

x = wte[token] + wpe[position]
x = x + W_o attention(W_qkv ln_1(x));  x = x + W_proj act(W_fc ln_2(x));  ...;  state = ln_f(x)
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Model
from transformers.activations import GELUTanh, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from tokengym.agents.fast.lora import has_plain_lora, merged_weight
from tokengym.agents.fast.products import MULTIPLES, has_onednn, packed_map
from tokengym.agents.policy.language_model import CausalLM
from tokengym.agents.policy.settings import Products
from tokengym.agents.policy.streams import READ_NOTES, last_position
from tokengym.base.settings import check_memory

Map = Callable[[Tensor], Tensor]
COMPACT_BELOW = 0.75
"""Finished rows are taken out of the batch when less than this share of it is still being written:
copying the cache for each one costs more than computing a few finished rows."""
LEAST_PACKED = 2**15
"""Fewest float32 weights that are packed: a call of oneDNN takes ten microseconds longer."""
SMALL_HEAD = 2**19
"""Most weights of a head that a CPU reads faster from a copy, (width, vocabulary): 1.1 times as
fast for 32 rows, twice for 8. A larger one it reads more slowly."""


class Layer:
    """One block's parts."""

    def __init__(self, block: Any, products: Products) -> None:
        attention, mlp = block.attn, block.mlp
        maps = attention.c_attn, attention.c_proj, mlp.c_fc, mlp.c_proj
        qkv, out, (weight, bias), down = (  # (in, out) and (out,), as GPT-2 has them
            (m.weight if isinstance(m, Conv1D) else merged_weight(m), m.bias) for m in maps
        )
        self.norm_1, self.norm_2 = _norm(block.ln_1), _norm(block.ln_2)
        self.qkv, self.out, self.down = (linear_map(*m, products) for m in (qkv, out, down))
        # Of the scores, float64; a number would become such a tensor at every step.
        self.scale = block.ln_1.weight.new_tensor(attention.scaling, dtype=torch.float64)
        act = activation(mlp)
        if act is not mlp.act and packs(mlp.c_fc.weight, products):  # oneDNN knows the tanh GELU
            self.up = packed_map(weight.t(), bias, activation=("gelu", "tanh"))
        else:
            rise = linear_map(weight, bias, products)
            self.up = lambda x: act(rise(x))

    def finish_(self, x: Tensor, attended: Tensor) -> None:
        """Add to states, (n, width) in place, what heads read and the block makes of it."""
        x += self.out(attended)
        x += self.down(self.up(self.norm_2(x)))


class Cache:
    """One layer's keys and values, with views of them that are made once: each takes some time."""

    def __init__(self, both: Tensor) -> None:
        self.both = both  # (2, rows, heads, capacity, head width)
        self.columns = both.unbind(3)  # (2, rows, heads, head width) each
        self.keys, self.values = both.flatten(1, 2)  # (rows * heads, capacity, head width) each


def has_gpt2_shape(language_model: CausalLM) -> bool:
    """Say whether the model is a plain GPT-2 on a CPU, or one with plain LoRA in float32."""
    trunk: Any = language_model.model.base_model
    if language_model.autocasts or type(trunk) is not GPT2Model:
        return False
    if trunk.config.add_cross_attention or trunk.device.type != "cpu":
        return False
    blocks: Any = trunk.h
    return all(isinstance(part, nn.Embedding) for part in (trunk.wte, trunk.wpe)) and all(
        isinstance(m, Conv1D)
        # In bfloat16 the sum with the adapters would be rounded.
        or (has_plain_lora(m, Conv1D) and m.base_layer.weight.dtype == torch.float32)
        for b in blocks
        for m in (b.attn.c_attn, b.attn.c_proj, b.mlp.c_fc, b.mlp.c_proj)
    )


class GPT2Stream:
    """A `Stream` under a model that `has_gpt2_shape`, with its weights of this moment."""

    appends = True
    _scale = 1.0  # of the scores, where queries come without it

    def __init__(self, language_model: CausalLM, capacity: int) -> None:
        self._model = language_model
        trunk: Any = language_model.model.base_model
        self._words, self._places = trunk.wte.weight, trunk.wpe.weight
        self._norm = _norm(trunk.ln_f)
        self._layers: list[Any] = [Layer(block, language_model.products) for block in trunk.h]
        self._num_heads: int = trunk.config.num_attention_heads
        self._num_keys, self._width = self._num_heads, self._words.shape[1] // self._num_heads
        self._capacity, self._last = capacity, last_position(language_model, capacity)
        self._head = head_map(language_model)

    def start(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See `Stream.start`."""
        # Prefill: all tokens of the prompts in one pass, padded on the left, so that the next token
        # of every row is written to one column. Positions count a row's own tokens.
        rows, width = input_ids.shape
        places = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        x = self._embedded(input_ids, places).flatten(0, 1)  # (rows * width, hidden)
        for note in READ_NOTES:
            note(rows)
        dtype = torch.float32
        column = 2 * rows * self._num_keys * self._width * len(self._layers) * dtype.itemsize
        check_memory("prompt and response tokens", self._capacity, bytes_each=column)
        shape = (2, rows, self._num_keys, self._capacity, self._width)
        self._caches = [Cache(x.new_empty(shape, dtype=dtype)) for _ in self._layers]
        self._positions = places[:, -1]
        self._column = width - 1  # of the last token read, or the furthest
        self._ends: Tensor | None = None  # (rows,) each row's; None where all are in one
        self._alive: Tensor | None = None  # rows of the batch that still write; None: all
        self._bias = None  # (rows, 1, 1, capacity), -inf on padding; None where there is none
        readable = None  # (rows, 1, width, width) bool, read by each token; None: all up to itself
        if not bool(attention_mask.all()):
            self._bias = x.new_zeros(rows, 1, 1, self._capacity, dtype=dtype)
            self._bias[:, 0, 0, :width].masked_fill_(attention_mask == 0, -torch.inf)
            itself = torch.eye(width, dtype=torch.bool, device=x.device)
            before = torch.ones_like(itself).tril()
            # Padding reads itself alone.
            readable = (attention_mask.bool()[:, None, None] & before) | itself
        for layer, cache in zip(self._layers, self._caches, strict=True):
            query, both = self._heads(layer, x, places.flatten())
            # (rows * width, 2, key heads, head width) -> (2, rows, key heads, width, head width)
            both = both.unflatten(0, (rows, width)).permute(2, 0, 3, 1, 4)
            cache.both[:, :, :, :width] = both
            keys, values = both.to(x.dtype)
            # Without a mask torch takes its own causal kernel, which is the faster one.
            attended = F.scaled_dot_product_attention(
                query.to(x.dtype).unflatten(0, (rows, width)).transpose(1, 2),
                keys,
                values,
                attn_mask=readable,
                is_causal=readable is None,
                scale=self._scale,
                enable_gqa=self._num_keys < self._num_heads,
            )
            layer.finish_(x, attended.transpose(1, 2).reshape(len(x), -1))
        return self._norm(x.view(rows, width, -1)[:, -1])

    def step(self, tokens: Tensor) -> Tensor:
        """See `Stream.step`."""
        rows, alive = len(self._positions), self._alive
        if alive is not None:  # dead rows read token 0
            tokens = tokens.new_zeros(rows).index_put((alive,), tokens)
        self._positions = (self._positions + 1).clamp(max=self._last)
        if self._ends is None:  # no replies came between: all rows write to one column
            self._column += 1
        else:
            assert self._bias is not None
            last = self._capacity - 1  # rows that have ended come to it while others are written
            self._column = min(self._column + 1, last)
            self._ends = (self._ends + 1).clamp(max=last)
            self._bias.scatter_(3, self._ends[:, None, None, None], 0.0)
            every = torch.arange(rows, device=tokens.device)
        now, seen = self._column, self._column + 1
        bias = None if self._bias is None else self._bias[:, 0, :, :seen]  # (rows, 1, seen)
        x = self._embedded(tokens, self._positions)  # (rows, hidden)
        zero = self._caches[0].both.new_zeros(1, 1, 1)
        for layer, cache in zip(self._layers, self._caches, strict=True):
            query, both = self._heads(layer, x, self._positions)
            if self._ends is None:
                cache.columns[now].copy_(both.transpose(0, 1))
            else:
                cache.both[:, every, :, self._ends] = both.to(cache.both.dtype)
            # Views of what is written so far, (rows * key heads, seen, head width): not copied.
            keys, values = cache.keys.narrow(1, 0, seen), cache.values.narrow(1, 0, seen)
            # Two batched products; all queries of a group read its keys in one.
            grouped = query.reshape(len(keys), -1, self._width).to(keys.dtype)
            if self._scale == 1.0:
                scores = torch.bmm(grouped, keys.transpose(1, 2))
            else:
                scores = torch.baddbmm(zero, grouped, keys.transpose(1, 2), alpha=self._scale)
            if bias is not None:
                scores = (scores.view(rows, -1, seen) + bias).view(scores.shape)
            attended = torch.bmm(scores.softmax(-1), values)
            layer.finish_(x, attended.to(x.dtype).reshape(rows, -1))
        states = self._norm(x)
        return states if alive is None else states[alive]

    def append(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """See `Stream.append`: the texts go on in columns of their own, without gaps."""
        # One pass for all new tokens: they are embedded as a flat list, (n, hidden), and put into
        # (rows, width) for the attention alone, where rows with fewer tokens have queries of 0.
        rows, width = len(self._positions), int(counts.max())
        alive = torch.arange(rows, device=tokens.device) if self._alive is None else self._alive
        if self._bias is None:
            self._bias = self._caches[0].both.new_zeros(rows, 1, 1, self._capacity)
        if self._ends is None:  # each row's last column; the bias hides what is past it
            self._ends = torch.full_like(self._positions, self._column)
            self._bias[..., self._column + 1 :] = -torch.inf
            for cache in self._caches:
                cache.both[:, :, :, self._column + 1 :] = 0.0  # nan is not hidden by a bias
        ends, bias = self._ends, self._bias
        of = alive.repeat_interleave(counts)  # the row of each token
        lasts = counts.cumsum(0)
        # 0, 1, ... within each row's tokens
        steps = torch.arange(len(tokens), device=tokens.device)
        steps = steps - (lasts - counts).repeat_interleave(counts)
        columns, places = ends[of] + 1 + steps, self._positions[of] + 1 + steps
        limits = ends[:, None] + 1 + torch.arange(width, device=tokens.device)
        bias[of, 0, 0, columns] = 0.0
        self._positions = self._positions.index_add(0, alive, counts)
        self._ends = ends.index_add(0, alive, counts)
        self._column = int(self._ends.max())
        seen = torch.arange(self._column + 1, device=tokens.device)
        readable = (bias[..., : len(seen)] == 0) & (seen <= limits[:, None, :, None])
        x = self._embedded(tokens, places)  # (n, hidden)
        for layer, cache in zip(self._layers, self._caches, strict=True):
            query, both = self._heads(layer, x, places)
            cache.both[:, of, :, columns] = both.to(cache.both.dtype)
            queries = query.new_zeros(rows, width, *query.shape[1:])
            queries[of, steps] = query * self._scale
            known, values = cache.both[..., : len(seen), :]
            attended = F.scaled_dot_product_attention(
                queries.transpose(1, 2).to(known.dtype),
                known,
                values,
                attn_mask=readable,
                scale=1.0,
                enable_gqa=True,
            )
            layer.finish_(x, attended.transpose(1, 2)[of, steps].flatten(1).to(x.dtype))
        return self._norm(x[lasts - 1])

    def logits(self, states: Tensor) -> Tensor:
        """See `Stream.logits`."""
        logits = self._head(states)
        return self._model.rescaled(logits) if self._model.is_rescaled else logits

    def keep(self, rows: Tensor) -> None:
        """See `Stream.keep`."""
        # Rows that have ended are at first only remembered: they are read on, and dropped together.
        alive = rows if self._alive is None else self._alive[rows]
        self._alive = alive
        rest = -len(alive) % MULTIPLES[self._model.products]
        if len(alive) + rest < COMPACT_BELOW * len(self._positions):
            if rest > 0:  # the last row once more, unread, for a number that is compiled already
                alive = torch.cat([alive, alive[-1:].expand(rest)])
            self._positions = self._positions[alive]
            self._ends = None if self._ends is None else self._ends[alive]
            self._caches = [Cache(cache.both[:, alive]) for cache in self._caches]
            self._bias = None if self._bias is None else self._bias[alive]
            self._alive = torch.arange(len(rows), device=rows.device) if rest > 0 else None

    def _heads(self, layer: Any, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a layer's heads make of states, (n, hidden), at places, (n,).

        Queries, (n, heads, head width); keys and values, (n, 2, key heads, head width).
        """
        qkv = layer.qkv(layer.norm_1(x)).view(len(x), 3, self._num_heads, -1)
        return qkv[:, 0] * layer.scale, qkv[:, 1:]

    def _embedded(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the states below the first block: (...) -> (..., hidden)."""
        return F.embedding(tokens, self._words) + F.embedding(positions, self._places)


def _norm(norm: nn.LayerNorm) -> Map:
    """Return a layer norm without its module's overhead."""
    weight, bias, shape, eps = norm.weight, norm.bias, norm.normalized_shape, norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


def activation(mlp: Any) -> Map:
    """Return a block's activation, twice as fast where it is the tanh GELU in float32.

    x (1 + tanh u) / 2 = x sigmoid(2 u),  u = sqrt(2 / pi) (x + .044715 x^3)
    """
    weight = mlp.c_fc.weight
    if type(mlp.act) not in (GELUTanh, NewGELUActivation) or weight.dtype != torch.float32:
        return mlp.act
    slope = weight.new_tensor(2.0 * math.sqrt(2.0 / math.pi))
    cubic = 0.044715 * slope.item()
    return lambda x: torch.addcmul(slope, x, x, value=cubic).mul_(x).sigmoid_().mul_(x)


def packs(weight: Tensor, products: Products) -> bool:
    """Say whether `linear_map` reorders the weights: where a CPU multiplies them by oneDNN.

    That is float32 where it is chosen, and bfloat16 where the CPU computes in it: there every
    product would first reorder its weights, which for a vocabulary of 50,257 takes a third of the
    time.
    """
    if weight.dtype == torch.float32:
        return products == "onednn" and weight.numel() >= LEAST_PACKED
    if weight.dtype != torch.bfloat16 or not has_onednn():
        return False
    operators: Any = torch.ops.mkldnn
    return bool(operators._is_mkldnn_bf16_supported())


def linear_map(weight: Tensor, bias: Tensor | None, products: Products = "torch") -> Map:
    """Return x -> x W + b, (rows, in) -> (rows, out), for many calls without gradient.

    W is (in, out); later changes of it may not count.
    """
    if packs(weight, products):
        return packed_map(weight.t(), bias)
    if bias is None:
        return lambda x: x @ weight
    return lambda x: torch.addmm(bias, x, weight)


def head_map(language_model: CausalLM) -> Map:
    """Return a model's head, (rows, hidden) -> (rows, vocab), for many calls without gradient."""
    head: Any = language_model.model.get_output_embeddings()
    if type(head) is nn.Linear:
        if packs(head.weight, language_model.products):
            return linear_map(head.weight.t(), head.bias, language_model.products)
        if head.weight.numel() <= SMALL_HEAD:
            return linear_map(head.weight.t().contiguous(), head.bias)
    return head
