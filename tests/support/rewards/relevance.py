"""A tiny RoBERTa's configuration."""

from typing import Any

from transformers import RobertaConfig

from tests.support.rewards.common import WORDS

SIZES: Any = {"num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}


ROBERTA = RobertaConfig(
    vocab_size=len(WORDS),
    num_hidden_layers=1,
    max_position_embeddings=10,  # ids 0 to 2 are no positions of a text: 7 are left
    pad_token_id=2,
    **SIZES,
)
