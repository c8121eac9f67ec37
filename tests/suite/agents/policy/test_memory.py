"""Frozen layers, recomputed blocks, and what each way of training takes in memory."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.agents.common import lora_config, make_model
from tests.support.agents.ppo import gradient
from tokengym.agents import PPO
from tokengym.agents.policy.memory import memory_by_role


@pytest.fixture
def build(make_envs: Callable[..., Any]) -> Callable[..., PPO]:
    def make(model: Any = None, *, value_network: Any = "trunk", **kwargs: Any) -> PPO:
        kwargs = {"model": make_model() if model is None else model, **kwargs}
        settings: Any = {"seed": 0, "device": "cpu", "value_network": value_network}
        return PPO("CausalLMPolicy", make_envs(), policy_kwargs=kwargs, **settings)

    return make


def gradients_by_name(agent: PPO) -> dict[str, torch.Tensor]:
    played = agent.collect()
    gradient(agent, agent.assign(played))
    return {n: p.grad.clone() for n, p in agent.policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_frozen_layers_stay_and_the_others_learn_as_ever(build, shape):
    whole, agent = build(make_model(shape)), build(make_model(shape), frozen_layers=1)
    full, partial = gradients_by_name(whole), gradients_by_name(agent)
    assert 0 < len(partial) < len(full)
    for name, found in partial.items():
        torch.testing.assert_close(found, full[name], atol=1e-6, rtol=1e-4)
    below = {n for n in full if any(part in n for part in (".wte.", ".wpe.", "embed_tokens"))}
    below |= {n for n in full if ".h.0." in n or ".layers.0." in n}
    assert full.keys() - partial.keys() == below
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.learn(10)
    after = agent.policy.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert moved <= partial.keys()


def test_static_decoding_takes_its_cache_and_the_merged_maps(build):
    """4 rows in a batch of 8, 2 layers of keys and values in float32, 3 linear maps in each."""
    agent = build(decoding="static", lora=lora_config("gpt2"))
    assert memory_by_role(agent.policy)["decoding"] == 0
    agent.learn(1, log_interval=None)
    room = agent.policy.max_length + -agent.policy.max_length % 8
    cache = 8 * 2 * 2 * room * 16 * 4
    trunk: Any = agent.policy.language_model.model.base_model
    maps = [
        m for block in trunk.h for m in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_proj)
    ]
    merged = sum(4 * m.base_layer.weight.numel() for m in maps)
    assert memory_by_role(agent.policy)["decoding"] == cache + merged
    assert agent.logger.name_to_value["rollout/captured"] is False  # on a CPU


def test_a_rollout_begins_without_gradients(build):
    agent = build()
    agent.learn(1)
    had = [parameter.grad is not None for parameter in agent.policy.trained_parameters()]
    agent.collect()
    assert all(had)
    assert all(parameter.grad is None for parameter in agent.policy.parameters())


def test_the_memory_of_captured_graphs_counts(build, monkeypatch):
    agent = build(decoding="static")
    agent.learn(1)
    before = memory_by_role(agent.policy)
    graph = SimpleNamespace(pool=lambda: (0, 7))
    agent.policy.decoders[0]._replayed._graphs["read"] = graph
    segments = [{"segment_pool_id": (0, n), "total_size": size} for n, size in ((0, 3), (7, 50))]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: [*segments, segments[1]])
    after = memory_by_role(agent.policy)
    assert after["decoding"] - before["decoding"] == after["total"] - before["total"] == 100


def test_the_reference_shares_what_is_frozen(build):
    agent = build(frozen_layers=1)
    sizes = memory_by_role(agent.policy)
    assert sizes["reference"] == sizes["policy"]  # a copy of what learns alone
    assert agent.policy.reference is not None
    texts = [[3, 4]], [[5, 6]]
    before = agent.policy.log_probs(*texts, reference=True)[0].tolist()
    agent.learn(20)
    assert agent.policy.log_probs(*texts, reference=True)[0].tolist() == before
    assert agent.policy.log_probs(*texts)[0].tolist() != before


def test_frozen_layers_survive_a_checkpoint(build, tmp_path):
    agent = build(frozen_layers=1, gradient_checkpointing=True).learn(10)
    agent.save(tmp_path / "run")
    loaded = PPO.load(tmp_path / "run", device="cpu")
    assert loaded.policy.language_model.recompute
    names = [n for n, p in loaded.policy.named_parameters() if p.requires_grad]
    assert names == [n for n, p in agent.policy.named_parameters() if p.requires_grad]
    assert memory_by_role(loaded.policy)["policy"] == memory_by_role(agent.policy)["policy"]


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
@pytest.mark.parametrize("lora", [False, True])
def test_recomputing_blocks_changes_no_gradient(build, shape, lora):
    adapters = {"lora": lora_config(shape)} if lora else {}
    plain = build(make_model(shape), **adapters)
    agent = build(make_model(shape), gradient_checkpointing=True, **adapters)
    expected, once = counted(plain)
    found, twice = counted(agent)
    assert expected.keys() == found.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-4)
    assert twice == 2 * once > 0  # forward, and again in the backward pass
    assert not any(module.training for module in agent.policy.modules())


def counted(agent: PPO) -> tuple[dict[str, torch.Tensor], int]:
    """Return the gradients, and how often the first block's norm was computed for them."""
    calls = []
    block = agent.policy.language_model.blocks()[0]
    norm = next(module for module in block.modules() if "Norm" in type(module).__name__)
    norm.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    return gradients_by_name(agent), sum(calls)


def test_memory_by_hand(build):
    full = build()
    weights = sum(p.numel() for p in make_model().parameters()) * 4
    sizes = memory_by_role(full.policy)
    assert sizes["policy"] == sizes["reference"] == weights
    assert sizes["value"] == 17 * 4
    assert sizes["optimizer"] == sizes["frozen"] == sizes["auxiliary"] == 0
    full.learn(1)
    steps = len(full.policy.trained_parameters()) * 4  # AdamW counts its steps per parameter
    assert memory_by_role(full.policy)["optimizer"] == 2 * (weights + 17 * 4) + steps

    lora = memory_by_role(build(lora=lora_config()).policy)
    assert lora["frozen"] == weights
    assert lora["reference"] == 0
    assert lora["policy"] < weights
    assert lora["total"] == sum(value for role, value in lora.items() if role != "total")
