"""Rollouts decode with adapters merged into a copy, refreshed after every update."""

from typing import Any

import pytest
import torch
from peft import LoraConfig

from tests.suite.agents.conftest import lora_config, make_model
from tests.suite.agents.fast.test_static import played, policy_of
from tokengym.agents.errors import ModelError
from tokengym.agents.fast.captured import CapturedSampler
from tokengym.agents.fast.merged import MergedModel, decoding_model
from tokengym.agents.policy.language_model import LanguageModel

IDS = torch.tensor([[3, 4, 5, 6, 7], [2, 7, 1, 0, 3]])


def adapted(shape: str) -> LanguageModel:
    model = LanguageModel(make_model(shape, scale=2.0), lora_config(shape)).eval()
    learn(model, 0)
    return model


def learn(model: Any, seed: int) -> None:
    """Move what is trained, in place, as an optimiser does."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_a_merged_copy_equals_the_model_with_its_adapters(shape):
    model = adapted(shape)
    merged = MergedModel(model)
    before = model.hidden(IDS).clone()
    assert not [name for name, _ in merged.language_model.named_parameters() if "lora" in name]
    own = {parameter.data_ptr() for parameter in merged.language_model.parameters()}
    shared = own & {parameter.data_ptr() for parameter in model.parameters()}
    adapters = sum("lora_A" in name for name, _ in model.named_parameters())
    assert len(own) - len(shared) == adapters  # one weight per linear map that has them
    for seed in (1, 2):
        torch.testing.assert_close(
            merged.language_model.hidden(IDS), model.hidden(IDS), atol=1e-5, rtol=1e-5
        )
        learn(model, seed)
        assert not torch.allclose(merged.language_model.hidden(IDS), model.hidden(IDS), atol=1e-2)
        merged.refresh()
    assert own == {parameter.data_ptr() for parameter in merged.language_model.parameters()}
    assert not torch.allclose(model.hidden(IDS), before, atol=1e-2)
    with model.adapters.disable_adapter():  # the reference: weights are never folded in place
        reference = LanguageModel(make_model(shape, scale=2.0)).eval()
        torch.testing.assert_close(model.hidden(IDS), reference.hidden(IDS), atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_a_copy_in_bfloat16_equals_the_merged_weights_rounded(shape):
    model = adapted(shape)
    merged = MergedModel(model, torch.bfloat16)
    exact = MergedModel(model).language_model
    found = dict(merged.language_model.model.named_parameters())
    for name, parameter in exact.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.bfloat16(), atol=0, rtol=0)
    assert all(parameter.dtype == torch.bfloat16 for parameter in found.values())
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_a_model_without_adapters_is_not_copied():
    model = LanguageModel(make_model())
    assert decoding_model(model, None) == (model, None)
    assert decoding_model(model, torch.float32) == (model, None)


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
@pytest.mark.parametrize("settings", [{}, {"mask_top_p": 0.8}])
def test_a_rollout_with_merged_adapters_is_the_rollout(shape, settings):
    policies = []
    for decoding in ("dynamic", "static"):
        model = make_model(shape, scale=2.0)
        torch.manual_seed(0)  # of the adapters
        policy = policy_of(model, decoding=decoding, lora=lora_config(shape), **settings)
        learn(policy.language_model, 0)
        policies.append(policy)
    for seed in range(3):
        players = [policy.sampler(torch.Generator().manual_seed(seed)) for policy in policies]
        assert isinstance(players[1], CapturedSampler)
        rounds = [played(p, "shared", deterministic=False, seed=seed) for p in players]
        for dynamic, static in zip(*rounds, strict=True):
            torch.testing.assert_close(static, dynamic, atol=1e-5, rtol=1e-5)
        for policy in policies:
            learn(policy.language_model, seed + 1)


def test_adapters_that_cannot_be_merged_are_refused_before_the_first_rollout():
    dora = LoraConfig(r=2, target_modules=["q_proj"], use_dora=True)
    with pytest.raises(ModelError, match="decoding='dynamic'"):
        policy_of(make_model("llama"), decoding="static", lora=dora)
    assert policy_of(make_model("llama"), lora=dora).sampler() is not None
