"""Fills the table of docs/guide/gpu.md that says which training fits on which card.

    python -m docs.makers.build_memory

Nothing is loaded: the models are of their published shapes, without contents.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from tokengym.agents.policy.memory import GIB, Computing, Texts, memory_needed
from tokengym.lab.tables import fill, markdown_table

PAGE = Path(__file__).parents[1] / "guide" / "gpu.md"


def qwen(width: int, inner: int, layers: int, heads: int) -> Qwen2Config:
    """Return the shape of a Qwen2.5."""
    return Qwen2Config(
        vocab_size=151_936,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )


MODELS = {
    "0.5B, Qwen2.5": qwen(896, 4_864, 24, 14),
    "1.5B, Qwen2.5": qwen(1_536, 8_960, 28, 12),
    "3B, Qwen2.5": qwen(2_048, 11_008, 36, 16),
    "8B, Llama 3.1": LlamaConfig(
        vocab_size=128_256,
        hidden_size=4_096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    ),
}
TEXTS = Texts(rows=64, length=384, new_tokens=256, micro_batch_size=8)
RANK = 16
CARDS = (24, 48, 80, 140)
"""Memory of cards, GiB."""
SHARE = 0.92
"""Share of a card that training may need: the rest is CUDA's own, and what is left in pieces."""
WAYS: dict[str, Computing] = {
    "all, bf16-mixed": Computing(mixed=True),
    "all, bfloat16": Computing(),
    "LoRA, bfloat16": Computing(adapters="few", trains_head=False),
}


def needs(config: Any, how: Computing, *, own_critic: bool) -> float:
    """Return the GiB that training a model of a shape needs at its peak."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    maps = [m for m in model.base_model.layers.modules() if isinstance(m, torch.nn.Linear)]
    linear = sum(m.weight.numel() for m in maps)
    item = 4 if how.mixed else 2
    whole, trunk = (
        item * sum(p.numel() for p in m.parameters()) for m in (model, model.base_model)
    )
    if how.adapters:
        adapters = 4 * RANK * sum(sum(m.weight.shape) for m in maps)  # in float32
        weights = {"frozen": whole, "policy": adapters, "value": own_critic * adapters}
    else:
        weights = {"policy": whole, "reference": whole, "value": own_critic * trunk}
    return sum(memory_needed(config, weights, linear, TEXTS, how).values()) / GIB


def smallest_card(needed: float) -> str:
    """Return what is needed, and the smallest card that has it.

    Example:
        >>> smallest_card(14.2), smallest_card(131.0)
        ('14 (24)', '131 (none)')
    """
    card = next((str(size) for size in CARDS if needed <= SHARE * size), "none")
    return f"{needed:.0f} ({card})"


def table() -> str:
    """Return the table."""
    rows = []
    for name, config in MODELS.items():
        for way, how in WAYS.items():
            needed = (needs(config, how, own_critic=own) for own in (False, True))
            rows.append([name, way, *map(smallest_card, needed)])
    return markdown_table(["model", "weights that learn", "critic none or trunk", "own"], rows)


if __name__ == "__main__":
    fill(PAGE, {"memory": table()})
