"""Whole texts through a model of the Llama family, with gradients, by few kernels.

x = embedding[tokens]
x = x + W_o attention(turned W_q norm(x), turned W_k norm(x), W_v norm(x))
x = x + W_down (act(W_gate norm(x)) * W_up norm(x));  ...;  states = norm(x)

Linear maps are the model's own modules, those with adapters are read by `lora`, and attention is
torch's; what stands between them is in `layers`. Nothing of the model is replaced. The plain form
is its own forward.
"""

import logging
import sys
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GemmaModel, LlamaModel, MistralModel, Qwen2Model, Qwen3Model
from transformers.activations import GELUTanh, SiLUActivation
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from tokengym.agents.fast.kernels.layers import added_and_normed, gated, signed, turned
from tokengym.agents.fast.llama import ROTATIONS, all_maps, linear_maps
from tokengym.agents.fast.lora import Factors, adapters_of, outputs
from tokengym.agents.policy.language_model import CausalLM, full_precision
from tokengym.agents.policy.streams import layer_windows

logger = logging.getLogger(__name__)

FAMILIES = (LlamaModel, MistralModel, Qwen2Model, Qwen3Model, GemmaModel)


def has_llama_blocks(trunk: Any) -> bool:
    """Say whether a trunk is one of the `FAMILIES`, as they usually are."""
    if type(trunk) not in FAMILIES or trunk.dtype not in (torch.float32, torch.bfloat16):
        return False
    rotation = getattr(trunk.config, "rope_parameters", None) or {}
    is_usual = rotation.get("rope_type", "default") in ROTATIONS
    is_usual &= rotation.get("partial_rotary_factor", 1.0) == 1.0
    is_usual &= "weight" in trunk.norm._parameters  # an adapter of it would have it inside
    return is_usual and all(
        isinstance(block.mlp.act_fn, GELUTanh | SiLUActivation)
        and "weight" in block.input_layernorm._parameters
        and "weight" in block.post_attention_layernorm._parameters
        for block in trunk.layers
    )


def windows(trunk: Any) -> list[int]:
    """Return the columns that each layer's attention looks back; 0: all."""
    return [window or 0 for _, window in layer_windows(trunk.config)]


def activation(trunk: Any) -> str:
    """Return the name of the gates' activation, as `gated` takes it."""
    return "gelu" if isinstance(trunk.layers[0].mlp.act_fn, GELUTanh) else "silu"


def rotation(trunk: Any, near: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and signed sines of places, (n,) -> (n, width) each, as the model rounds them.

    ``near`` is a tensor of the precision that it rounds them to.
    """
    cos, sin = trunk.rotary_emb(near, places[None])
    return cos[0].float().contiguous(), signed(sin[0])


def longest_text(language_model: CausalLM) -> int:
    """Return the most tokens of a text that `hidden` reads as the model itself does; 0: none."""
    trunk: Any = language_model.model.base_model
    if not has_llama_blocks(trunk) or trunk.config._attn_implementation != "sdpa":
        return 0
    limit = min((window for window in windows(trunk) if window), default=sys.maxsize)
    gap = _gap(language_model, min(limit, 9))
    if not gap < (0.01 if language_model.is_float32 else 0.25):
        logger.warning("texts are not read by kernels, which is slower: off by %.3g", gap)
        return 0
    return limit


@torch.no_grad()
@full_precision()
def _gap(language_model: CausalLM, length: int) -> float:
    """Return how far the states of two texts are off, as a share of their size."""
    ids = 7 * torch.arange(2 * length, device=language_model.device).view(2, length)
    ids %= language_model.vocab_size
    expected = language_model.hidden(ids).float()
    with language_model.computing():
        fused = hidden(language_model.model.base_model, ids).float()
    return float((fused - expected).abs().max() / expected.abs().max())


def hidden(
    trunk: Any, input_ids: Tensor, cache: list[tuple[Tensor, Tensor]] | None = None
) -> Tensor:
    """Return the last hidden states, (batch, length, hidden), of a trunk that `has_llama_blocks`.

    A token reads those before it and itself. A cache is given each block's keys and values, (batch,
    key heads, length, width).
    """
    x, added = trunk.embed_tokens(input_ids), None
    tables = rotation(trunk, x, torch.arange(input_ids.shape[1], device=x.device))
    factors = adapters_of(all_maps(trunk), _computed(x))
    for block in trunk.layers:
        read: Any = _read
        if block.gradient_checkpointing and block.training:
            read = partial(block._gradient_checkpointing_func, _read)
        x, added = read(block, trunk, x, added, tables, factors, cache)
    return _normed(trunk, trunk.norm, x, added, x.dtype)[1]


def _read(
    block: Any,
    trunk: Any,
    x: Tensor,
    added: Tensor | None,
    tables: tuple[Tensor, Tensor],
    factors: Factors,
    cache: list[tuple[Tensor, Tensor]] | None,
) -> tuple[Tensor, Tensor]:
    """Return the states inside a block, and what is still to be added to them.

    States, and what the block below adds (None in the lowest), are (batch, length, hidden); for
    tables, factors and cache see `rotation`, `adapters_of` and `hidden`.
    """
    attention, dtype = block.self_attn, _computed(x)
    reading, out, widening, down = linear_maps(block)
    x, normed = _normed(trunk, block.input_layernorm, x, added, dtype)
    queries, keys, values = outputs(reading, normed, factors)
    if isinstance(attention, Qwen3Attention):
        queries, keys = (
            _normed(trunk, norm, made.unflatten(-1, (-1, attention.head_dim)), None, dtype)[1]
            for norm, made in ((attention.q_norm, queries), (attention.k_norm, keys))
        )
        queries, keys = queries.flatten(-2), keys.flatten(-2)
    queries, keys = (turned(made, *tables) for made in (queries, keys))
    queries, keys, values = (
        made.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for made in (queries, keys, values)
    )
    if cache is not None:
        cache.append((keys, values))
    if queries.dtype == torch.float32:
        # Of float32 and shared heads torch would write all scores, (batch, heads, length, length).
        shared = queries.shape[1] // keys.shape[1]
        keys, values = (made.repeat_interleave(shared, 1) for made in (keys, values))
    read = F.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, scale=attention.scaling, enable_gqa=True
    )
    (added,) = outputs(out, read.transpose(1, 2).flatten(-2), factors)
    x, normed = _normed(trunk, block.post_attention_layernorm, x, added, dtype)
    gate, up = outputs(widening, normed, factors)
    made = gated(gate, up, activation(trunk))
    return x, outputs(down, made, factors)[0]


def _computed(x: Tensor) -> torch.dtype:
    """Return the precision of products with the states."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _normed(
    trunk: Any, norm: Any, x: Tensor, added: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    is_gemma = type(trunk) is GemmaModel
    return added_and_normed(x, added, norm.weight, trunk.config.rms_norm_eps, is_gemma, dtype)
