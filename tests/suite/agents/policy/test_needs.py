"""The memory that training needs: against the peaks of one H200, by hand, and of an agent."""

from dataclasses import replace
from typing import Any

import pytest
from transformers import Qwen2Config

from tests.support.agents.common import lora_config, make_model
from tests.support.agents.static import FAMILIES, model_of, policy_of
from tokengym.agents import PPO
from tokengym.agents.policy.memory import (
    GIB,
    WORKSPACES,
    Computing,
    Texts,
    line_of_needs,
    memory_by_role,
    memory_needed,
    memory_to_train,
)

QWEN = Qwen2Config(
    vocab_size=151_936,
    hidden_size=896,
    intermediate_size=4_864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
BLOCK = 896 * (896 + 2 * 128) + 896 * 896 + 3 * 896 * 4_864
LINEAR = 24 * BLOCK
WEIGHTS = 2 * (LINEAR + 151_936 * 896 + 24 * (2 * 896 + 896 + 2 * 128) + 896)
"""Bytes in bfloat16: maps, tied embeddings, norms and biases."""
RANKS = 24 * 16 * (896 + 896 + 2 * (896 + 128) + 896 + 896 + 3 * (896 + 4_864))
"""Numbers of adapters of rank 16 of all linear maps."""
HELD_TWICE = 2**27 * 4 / GIB
"""Logits of a model that the gradient of the next part found still there when the peaks were taken:
a fault that was mended since, so that this is taken off them."""

MEASURED: dict[str, tuple[float, dict[str, int], dict[str, Any], int]] = {
    "exact KL": (17.66 - 2 * HELD_TWICE, {}, {}, 32),
    "k1": (16.57 - HELD_TWICE, {}, {"exact_kl": False}, 32),
    "micro-batch 16": (13.57 - 2 * HELD_TWICE, {}, {}, 16),
    "own value network": (22.33 - 2 * HELD_TWICE, {"value": WEIGHTS}, {}, 32),
    "own, micro-batch 16": (18.20 - 2 * HELD_TWICE, {"value": WEIGHTS}, {}, 16),
    "lora": (
        19.56 - 2 * HELD_TWICE,
        {"policy": 4 * RANKS, "frozen": WEIGHTS, "reference": 0},
        {"adapters": "peft", "trains_head": False},
        32,
    ),
}
"""Of docs/results/speed/gpu.txt: peak in GiB, what differs, rows of a part; 256 of 32 + 256."""


@pytest.mark.parametrize(("peak", "weights", "how", "rows"), MEASURED.values(), ids=MEASURED.keys())
def test_the_peaks_of_an_h200_are_met_within_a_twentieth(peak, weights, how, rows):
    held = {"policy": WEIGHTS, "reference": WEIGHTS} | weights
    texts = Texts(rows=256, length=288, new_tokens=256, micro_batch_size=rows)
    needed = memory_needed(QWEN, held, LINEAR, texts, Computing(**how))
    assert sum(needed.values()) / GIB == pytest.approx(peak, rel=0.02)


def test_a_tiny_round_by_hand():
    """One block of width 8, two heads of 4 of which one has keys, 16 inside, 10 words."""
    config = Qwen2Config(
        vocab_size=10, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    texts = Texts(rows=3, length=5, new_tokens=2, micro_batch_size=2)
    weights = {"policy": 100, "reference": 100, "value": 20, "auxiliary": 0}
    needed = memory_needed(config, weights, 560, texts, Computing())
    assert needed["gradients"] == 120
    assert needed["optimizer"] == 240
    assert needed["rollouts"] == 3 * 5 * 2 * 4 * 2
    assert needed["activations"] == 2 * 5 * 2 * (4 * 8 + 2 * 8 + 2 * 4 + 3 * 16)
    assert needed["logits"] == 40 * (4 + 4 + 2) + 10 * 8 * 2 + 3 * 2 * 8 * 2
    assert needed["other"] == 120 + WORKSPACES
    assert "auxiliary" not in needed
    mixed = memory_needed(config, weights, 560, texts, Computing(mixed=True, exact_kl=False))
    assert mixed["rollouts"] == needed["rollouts"] + 560 * 2 + 2 * 80
    assert mixed["activations"] == needed["activations"] + 10 * 2 * 2 * 8 + 560 * 2
    assert mixed["logits"] == 40 * (4 + 2) + 10 * 8 * 4
    few = memory_needed(config, weights, 560, texts, Computing(adapters="few", recomputed=True))
    assert few["rollouts"] == needed["rollouts"] + 560 * 2
    assert few["activations"] == needed["activations"] + 10 * 2 * 2 * 8


def test_the_line_names_the_largest_parts_first():
    needed = {"policy": 3.1 * GIB, "optimizer": 6.2 * GIB, "logits": 1e6}
    said = "training needs about 9.3 GiB of 139 GiB: Adam 6.2, weights 3.1"
    assert line_of_needs(needed, 139.4 * GIB) == said


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_says_its_widths(family):
    policy = policy_of(model_of(family).model)
    needed = memory_to_train(policy, Texts(rows=2, length=8, new_tokens=4, micro_batch_size=1))
    blocks = policy.language_model.blocks()
    width = policy.language_model.hidden_size
    assert needed["rollouts"] <= 2 * 2 * 8 * len(blocks) * width * 4  # as many keys as queries
    assert needed["rollouts"] >= 2 * 2 * 8 * len(blocks) * 8 * 4  # one head of eight


@pytest.mark.parametrize("with_lora", [False, True])
def test_an_agent_says_what_it_will_need(make_envs, with_lora):
    lora = lora_config("llama") if with_lora else None
    agent = PPO(
        "CausalLMPolicy", make_envs(), n_minibatches=2, seed=0, device="cpu",
        policy_kwargs={"model": make_model("llama"), "lora": lora},
    )  # fmt: skip
    held = memory_by_role(agent.policy)
    texts = Texts(rows=4, length=9, new_tokens=3, micro_batch_size=2)
    needed = memory_to_train(agent.policy, texts)
    assert needed["gradients"] == held["policy"] + held["value"]
    assert needed.get("frozen", 0) == held["frozen"]
    assert ("reference" in needed) is not with_lora
    fewer = memory_to_train(agent.policy, replace(texts, micro_batch_size=1))
    assert fewer["activations"] == needed["activations"] / 2
    assert agent.memory_line(24 * GIB).startswith("training needs about 0.4 GiB of 24 GiB: other")
