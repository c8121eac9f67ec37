"""Tiny configurations of each architecture that ABC reads."""

from typing import Any

from transformers import GPT2Config, LlamaConfig, MistralConfig, OPTConfig, Qwen2Config

SIZE: dict[str, Any] = dict(
    vocab_size=40, num_labels=1, pad_token_id=0, bos_token_id=1, eos_token_id=1
)


SHAPE: dict[str, Any] = SIZE | dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64
)


GROUPED = SHAPE | dict(intermediate_size=64, num_key_value_heads=2)


CONFIGS = {
    "gpt2": lambda: GPT2Config(**SIZE, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "gpt2-scaled-by-layer": lambda: GPT2Config(
        **SIZE, n_embd=32, n_layer=3, n_head=4, scale_attn_by_inverse_layer_idx=True
    ),
    "llama": lambda: LlamaConfig(**GROUPED),
    "qwen2": lambda: Qwen2Config(**GROUPED),
    "opt": lambda: OPTConfig(**SHAPE, ffn_dim=64, word_embed_proj_dim=32),
    "mistral-sliding": lambda: MistralConfig(**GROUPED, sliding_window=6),
}
