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

from tokengym.agents.fast.gpt2 import GPT2Stream, Map, has_gpt2_shape, head_map, linear_map, packs
from tokengym.agents.fast.lora import factors_of, has_plain_lora
from tokengym.agents.policy.language_model import CausalLM
from tokengym.agents.policy.settings import Products
from tokengym.agents.policy.streams import last_position

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
        """See `gpt2.Layer.finish_`."""
        x += self.out(attended)
        gate, up = self.gate_and_up(self.norm_2(x)).chunk(2, -1)
        x += self.down(self.activation(gate) * up)


def has_llama_shape(language_model: CausalLM) -> bool:
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
    return all(type(m) is nn.Linear or has_plain_lora(m, nn.Linear) for m in all_maps(trunk))


class LlamaStream(GPT2Stream):
    """A `Stream` under a model that `has_llama_shape`; steps and rows are a `GPT2Stream`'s."""

    def __init__(self, language_model: CausalLM, capacity: int) -> None:
        self._model = language_model
        trunk: Any = language_model.model.base_model
        self._words = trunk.embed_tokens.weight
        self._norm = _norm(trunk.norm)
        self._layers = [_layer(block, language_model.products) for block in trunk.layers]
        attention = trunk.layers[0].self_attn
        self._width, self._scale = attention.head_dim, attention.scaling
        self._num_heads = trunk.config.num_attention_heads
        self._num_keys = trunk.config.num_key_value_heads
        self._capacity, self._last = capacity, last_position(language_model, capacity)
        places = torch.arange(capacity)[None]
        cos, sin = (table[0].float() for table in trunk.rotary_emb(self._words[:1], places))
        lower, upper = sin.chunk(2, -1)
        self._cos, self._sin = cos, torch.cat([-lower, upper], -1)  # (capacity, head width)
        self._head = head_map(language_model)

    def _embedded(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """See `GPT2Stream._embedded`; positions turn queries and keys."""
        del positions
        return F.embedding(tokens, self._words)

    def _heads(self, layer: Any, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """See `GPT2Stream._heads`; queries, without their scale, and keys are turned.

        turned = qk * cos + (-upper half of qk, lower half) * sin, with sin's sign in the table
        """
        # (n, (heads + 2 * key heads) * head width) -> (n, heads and key heads twice, head width)
        made = layer.qkv(layer.norm_1(x)).float().view(len(x), -1, self._width)
        queries_and_keys = made[:, : self._num_heads + self._num_keys]
        cos, sin = self._cos[places].unsqueeze(1), self._sin[places].unsqueeze(1)
        half = queries_and_keys.roll(self._width // 2, -1)
        turned = torch.addcmul(queries_and_keys * cos, half, sin)
        queries, keys = turned.split([self._num_heads, self._num_keys], 1)
        both = made[:, self._num_heads :].unflatten(1, (2, self._num_keys))
        both[:, 0] = keys
        return queries, both


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


def all_maps(trunk: Any) -> list[Any]:
    """Return the linear maps of all blocks."""
    return [m for block in trunk.layers for group in linear_maps(block) for m in group]


def _layer(block: Any, products: Products) -> LlamaLayer:
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


def side_by_side(modules: Sequence[Any], products: Products) -> Map:
    """Return x -> the outputs of linear maps of the same x, one after the other, adapters included.

    In float32, adapters are added to the weights, which torch's products read where they are else.
    Packed weights make one product; in bfloat16, where their sum with the adapters would be
    rounded, theirs is another.
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
    """Return A, (rank, in), and s B, (out, rank), of each adapter that is on, in float32."""
    return [(lower.float(), upper.float() * scale) for lower, upper, scale in factors_of(module)]


STREAMS = ((has_gpt2_shape, GPT2Stream), (has_llama_shape, LlamaStream))
"""Pairs: a predicate on the model, and the stream of models that pass it."""
