"""Tiny models of each family, and what both kinds of cache are asked."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from tests.support.agents.common import VOCABULARY, WithinPolicy
from tokengym.agents.policy.language_model import CausalLM
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.rollouts.playing import Sampler

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}


GROUPED = SHAPE | {"num_key_value_heads": 2}


OPT = {k: v for k, v in SHAPE.items() if k != "intermediate_size"}


GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}


WINDOW = {"sliding_window": 5}  # shorter than the prompts


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT2 | {"bos_token_id": 1, "eos_token_id": 1}),
    "gpt-neox": ("GPTNeoX", SHAPE),
    "opt": ("OPT", OPT | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "llama": ("Llama", GROUPED),
    "mistral": ("Mistral", GROUPED | WINDOW),
    "qwen2": ("Qwen2", GROUPED),
    "qwen2, windows": (
        "Qwen2",
        GROUPED | WINDOW | {"use_sliding_window": True, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", GROUPED | {"head_dim": 8}),
    "gemma": ("Gemma", GROUPED | {"head_dim": 8}),
    "gemma2": ("Gemma2", GROUPED | WINDOW | {"head_dim": 8}),
    "gemma3": ("Gemma3Text", GROUPED | WINDOW | {"head_dim": 8, "sliding_window_pattern": 2}),
    "bloom": ("Bloom", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "gpt-neo": (
        "GPTNeo",
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "bos_token_id": 1,
            "eos_token_id": 1,
        },
    ),
}


NOT_STATIC = ("bloom", "gpt-neo")


def model_of(family: str) -> CausalLM:
    name, settings = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**settings)
        model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(3)  # so that errors would show
    return CausalLM(model).eval()


LENGTH, NUM_ROWS, NUM_STEPS = 24, 21, 16


LEAVING = {3: 2, 5: 9, 9: 6, 12: 3}  # step -> how many rows end before it


def policy_of(
    model: Any, *, num_actions: int = VOCABULARY, mask_top_p: float | None = None, **settings: Any
) -> CausalLMPolicy:
    space = spaces.Dict(
        {
            "input_ids": spaces.Box(0, num_actions - 1, (LENGTH,), np.int64),
            "attention_mask": spaces.MultiBinary(LENGTH),
        }
    )
    kind = CausalLMPolicy if mask_top_p is None else WithinPolicy
    policy = kind(space, spaces.Discrete(num_actions), lambda _: 0.0, model=model, **settings)
    if isinstance(policy, WithinPolicy) and mask_top_p is not None:
        policy.sample_within_itself(mask_top_p)
    if policy.critic is not None:  # it starts at zero
        policy.critic.head.weight.data.fill_(0.1)
    return policy


def observation(seed: int) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(seed)
    ids = np.zeros((NUM_ROWS, LENGTH), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(rng.integers(1, 8, NUM_ROWS)):
        ids[row, 8 - length : 8], mask[row, 8 - length : 8] = rng.integers(0, 8, length), 1
    return {"input_ids": ids, "attention_mask": mask}


def masks_of(kind: str, rng: np.random.Generator) -> NDArray[np.bool_] | None:
    if kind == "none":
        return None
    allowed = np.ones((NUM_ROWS if kind == "rows" else 1, VOCABULARY), dtype=bool)
    allowed[np.arange(len(allowed)), rng.integers(0, VOCABULARY, len(allowed))] = False
    return np.broadcast_to(allowed, (NUM_ROWS, VOCABULARY))


def played(
    player: Sampler, masks: str, *, deterministic: bool, seed: int
) -> Iterator[tuple[Tensor | None, ...]]:
    rng = np.random.default_rng(seed)
    seen = observation(seed)
    player.begin(seen)
    rows = np.arange(NUM_ROWS)
    for step in range(NUM_STEPS):
        rows = np.sort(rng.permutation(rows)[: len(rows) - LEAVING.get(step, 0)])
        allowed = masks_of(masks, rng)
        choice = player.act(rows, seen, allowed, deterministic=deterministic)
        tokens = torch.from_numpy(choice.actions)
        yield tokens, choice.log_probs, choice.values, choice.entropy, choice.allowed_tokens
