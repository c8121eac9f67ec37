"""Llama and Qwen2 one token at a time on a CPU, without the overhead of their modules.

As in `gpt2`, prompts and steps are the plain formulas on the model's own weights and a cache in
float32 that is allocated once. All queries of a group read its keys in one product, so that no key
or value is repeated, and the tables of the rotation are made once. In bfloat16, and
under oneDNN's products, one product makes query, key and value, another gate and up. Checked
against the model's own forward by test.

x = embedding[token]
x = x + W_o attention(turned W_q norm(x), turned W_k norm(x), W_v norm(x))
x = x + W_down (act(W_gate norm(x)) * W_up norm(x));  ...;  state = norm(x)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaModel, Qwen2Model

from tokengym.agents.fast.gpt2 import GPT2Stream, Map, has_gpt2_shape, linear_map, packs
from tokengym.agents.policy.door import Library
from tokengym.agents.policy.language_model import LanguageModel

ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary positions whose tables do not depend on the length of a text."""


@dataclass(frozen=True)
class LlamaLayer:
    """One block's parts."""

    norm_1: Map
    qkv: Map
    """(rows, width) -> (rows, (heads + 2 * key heads) * head width)."""
    out: Map
    norm_2: Map
    gate_and_up: Map
    activation: Map
    down: Map

    def finish_(self, x: Tensor, attended: Tensor) -> None:
        """Add to the states, in place, what they read and what the block makes of it.

        Args:
            x: (n, width), the states below the block.
            attended: (n, heads * head width), what the heads read.
        """
        x += self.out(attended)
        gate, up = self.gate_and_up(self.norm_2(x)).chunk(2, -1)
        x += self.down(self.activation(gate) * up)


def has_llama_shape(language_model: LanguageModel) -> bool:
    """Say whether the model is a plain Llama or Qwen2 on a CPU, adapters of plain LoRA allowed."""
    trunk: Any = language_model.model.base_model
    if language_model.autocasts or type(trunk) not in (LlamaModel, Qwen2Model):
        return False
    rotation = getattr(trunk.config, "rope_parameters", None) or {}
    layers = set(getattr(trunk.config, "layer_types", None) or ["full_attention"])
    if rotation.get("rope_type", "default") not in ROTATIONS or layers != {"full_attention"}:
        return False
    words = trunk.embed_tokens
    if type(words) is not nn.Embedding or words.weight.device.type != "cpu":
        return False
    if words.weight.dtype not in (torch.float32, torch.bfloat16):
        return False
    return all(
        _is_plain(m) for block in trunk.layers for group in linear_maps(block) for m in group
    )


class LlamaStream(GPT2Stream):
    """A `Stream` under a Llama or Qwen2; steps, rows and logits are a `GPT2Stream`'s.

    Args:
        language_model: A model that `has_llama_shape`; its weights are those of this moment.
        capacity: Most tokens of a text.
    """

    def __init__(self, language_model: LanguageModel, capacity: int) -> None:
        self._model = language_model
        trunk: Any = language_model.model.base_model
        self._words = trunk.embed_tokens.weight
        self._norm = _norm(trunk.norm)
        self._layers: list[Any] = [_layer(block, language_model.products) for block in trunk.layers]
        attention = trunk.layers[0].self_attn
        self._width: int = attention.head_dim
        self._scale: float = attention.scaling
        self._num_heads: int = trunk.config.num_attention_heads
        self._num_keys: int = trunk.config.num_key_value_heads
        self._capacity = capacity
        places = torch.arange(capacity)[None]
        cos, sin = (table[0].float() for table in trunk.rotary_emb(self._words[:1], places))
        lower, upper = sin.chunk(2, -1)
        self._cos, self._sin = cos, torch.cat([-lower, upper], -1)  # (capacity, head width)
        head = language_model.model.get_output_embeddings()
        self._head = head
        if type(head) is nn.Linear and packs(head.weight, language_model.products):
            self._head = linear_map(head.weight.t(), head.bias, language_model.products)

    def start(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See `Stream.start`."""
        rows, width = input_ids.shape
        places = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        x = F.embedding(input_ids, self._words).flatten(0, 1)  # (rows * width, hidden)
        heads = (self._num_keys, self._width)
        readable = self._begin(places, attention_mask, heads, torch.float32)
        for layer, cache in zip(self._layers, self._caches, strict=True):
            made = self._heads(layer.qkv(layer.norm_1(x)), places.flatten())
            queries, keys, values = (  # (rows, heads, width, head width) each
                part.unflatten(0, (rows, width)).transpose(1, 2) for part in made
            )
            cache.both[0, :, :, :width], cache.both[1, :, :, :width] = keys, values
            attended = F.scaled_dot_product_attention(
                queries.to(x.dtype),
                keys.to(x.dtype),
                values.to(x.dtype),
                attn_mask=readable,
                is_causal=readable is None,
                scale=self._scale,
                enable_gqa=True,
            )
            layer.finish_(x, attended.transpose(1, 2).reshape(len(x), -1))
        return self._norm(x.view(rows, width, -1)[:, -1])

    def _read(self, tokens: Tensor) -> Tensor:
        """Return the last hidden states of one more token per row of the batch."""
        ends = self._advance()
        rows, now, seen = len(tokens), self._column, self._column + 1
        bias = self._cos.new_zeros(1, 1, 1)
        if self._bias is not None:
            bias = self._bias[:, 0, :, :seen].repeat_interleave(self._num_keys, 0)
        every = torch.arange(rows)
        x = F.embedding(tokens, self._words)  # (rows, hidden)
        for layer, cache in zip(self._layers, self._caches, strict=True):
            queries, keys, values = self._heads(layer.qkv(layer.norm_1(x)), self._positions)
            if ends is None:
                cache.columns[now][0].copy_(keys)
                cache.columns[now][1].copy_(values)
            else:
                cache.both[0][every, :, ends], cache.both[1][every, :, ends] = keys, values
            grouped = queries.reshape(rows * self._num_keys, -1, self._width)
            known = cache.keys.narrow(1, 0, seen).transpose(1, 2)
            scores = torch.baddbmm(bias, grouped, known, alpha=self._scale)
            attended = torch.bmm(scores.softmax(-1), cache.values.narrow(1, 0, seen))
            layer.finish_(x, attended.to(x.dtype).view(rows, -1))
        return self._norm(x)

    def _scaled(self, layer: Any, x: Tensor, places: Tensor) -> Sequence[Tensor]:
        """See `GPT2Stream._scaled`."""
        queries, keys, values = self._heads(layer.qkv(layer.norm_1(x)), places)
        return queries * self._scale, keys, values

    def _embedded(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """See `GPT2Stream._embedded`; positions turn queries and keys."""
        del positions
        return F.embedding(tokens, self._words)

    def _heads(self, qkv: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys, turned by their places (n,), and values: (n, heads, head width).

        turned = qk * cos + (-upper half of qk, lower half) * sin, with sin's sign in the table
        """
        heads = qkv.float().view(len(qkv), -1, self._width)
        both, values = heads.split([self._num_heads + self._num_keys, self._num_keys], 1)
        cos, sin = self._cos[places].unsqueeze(1), self._sin[places].unsqueeze(1)
        turned = torch.addcmul(both * cos, both.roll(self._width // 2, -1), sin)
        queries, keys = turned.split([self._num_heads, self._num_keys], 1)
        return queries, keys, values


def _norm(norm: Any) -> Map:
    """Return an RMS norm without its module's overhead."""
    weight, eps = norm.weight, norm.variance_epsilon

    def normed(x: Tensor) -> Tensor:
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.square().mean(-1, True) + eps)).to(x.dtype)

    return normed


def linear_maps(block: Any) -> tuple[list[Any], ...]:
    """Return the linear maps that read the same states, group after group."""
    attention, mlp = block.self_attn, block.mlp
    return (
        [attention.q_proj, attention.k_proj, attention.v_proj],
        [attention.o_proj],
        [mlp.gate_proj, mlp.up_proj],
        [mlp.down_proj],
    )


def _layer(block: Any, products: Library) -> LlamaLayer:
    qkv, out, gate_and_up, down = (side_by_side(m, products) for m in linear_maps(block))
    return LlamaLayer(
        norm_1=_norm(block.input_layernorm),
        qkv=qkv,
        out=out,
        norm_2=_norm(block.post_attention_layernorm),
        gate_and_up=gate_and_up,
        activation=block.mlp.act_fn,
        down=down,
    )


def _is_plain(module: Any) -> bool:
    if type(module) is nn.Linear:
        return True
    from peft.tuners.lora import Linear

    return (
        type(module) is Linear
        and type(module.base_layer) is nn.Linear
        and not module.lora_variant
        and not module.merged
        and all(down.bias is None for down in module.lora_B.values())
    )


def side_by_side(modules: Sequence[Any], products: Library) -> Map:
    """Return x -> the outputs of linear maps of the same x, one after the other, adapters included.

    In float32, adapters are added to the weights, which torch's products read where they are else.
    Packed weights make one product; in bfloat16, where their sum with the adapters would be
    rounded, theirs is another.

    Args:
        modules: Linear maps that `has_llama_shape` takes.
        products: The library of float32 products.
    """
    bases = [m if type(m) is nn.Linear else m.base_layer for m in modules]
    bias = None if bases[0].bias is None else torch.cat([base.bias for base in bases])
    if bases[0].weight.dtype == torch.float32:
        weights = [base.weight for base in bases]
        for index, module in enumerate(modules):
            for lower, upper in _adapters(module):
                weights[index] = torch.addmm(weights[index], upper, lower)
        if packs(weights[0], products):
            return linear_map(torch.cat(weights).t(), bias, products)
        maps = [linear_map(w.t(), base.bias) for w, base in zip(weights, bases, strict=True)]
        return maps[0] if len(maps) == 1 else lambda x: torch.cat([of(x) for of in maps], -1)
    plain = linear_map(torch.cat([base.weight for base in bases]).t(), bias)
    rows = [len(base.weight) for base in bases]
    adapters = [
        (lower, F.pad(upper, (0, 0, sum(rows[:index]), sum(rows[index + 1 :]))))
        for index, module in enumerate(modules)
        for lower, upper in _adapters(module)
    ]
    if not adapters:
        return plain
    down = torch.cat([lower for lower, _ in adapters]).t()  # (in, ranks)
    up = torch.cat([upper for _, upper in adapters], 1).t()  # (ranks, out)
    return lambda x: (plain(x) + x.float() @ down @ up).to(x.dtype)


def _adapters(module: Any) -> list[tuple[Tensor, Tensor]]:
    """Return the two factors, (rank, in) and (out, rank), of each adapter of a map that is on."""
    if type(module) is nn.Linear or module.disable_adapters:
        return []
    return [
        (
            module.lora_A[name].weight.float(),
            module.lora_B[name].weight.float() * module.scaling[name],
        )
        for name in module.active_adapters
        if name in module.lora_A
    ]


STREAMS = ((has_gpt2_shape, GPT2Stream), (has_llama_shape, LlamaStream))
"""Pairs: a predicate on the model, and the stream of models that pass it."""
