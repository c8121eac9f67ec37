"""A tiny judge and its template."""

# mypy: no-check-untyped-defs
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.support.rewards.common import WORDS, scale_weights

SIZE: dict[str, Any] = dict(vocab_size=len(WORDS), pad_token_id=0, bos_token_id=1, eos_token_id=1)


TEMPLATE = "{context} q {a} r {b} s"


def language_model(kind="gpt2"):
    torch.manual_seed(0)
    if kind == "gpt2":
        config = GPT2Config(**SIZE, n_embd=32, n_layer=2, n_head=4, n_positions=64)
        return scale_weights(GPT2LMHeadModel(config))
    config = LlamaConfig(
        **SIZE, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    return scale_weights(LlamaForCausalLM(config))
