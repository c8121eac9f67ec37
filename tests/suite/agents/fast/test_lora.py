"""Adapters merged into a copy for rollouts, or read by few products, are PEFT's modules."""

from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor

from tests.support.agents.common import lora_config, make_model
from tests.support.agents.static import played, policy_of
from tokengym.agents.errors import ModelError
from tokengym.agents.fast.captured import CapturedSampler
from tokengym.agents.fast.llama import all_maps, linear_maps
from tokengym.agents.fast.lora import MergedModel, adapters_of, decoding_model, outputs
from tokengym.agents.policy.language_model import CausalLM

IDS = torch.tensor([[3, 4, 5, 6, 7], [2, 7, 1, 0, 3]])


def adapted(shape: str) -> CausalLM:
    model = CausalLM(make_model(shape, scale=2.0), lora_config(shape)).eval()
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
        reference = CausalLM(make_model(shape, scale=2.0)).eval()
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
    model = CausalLM(make_model())
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


# --- by few products, with gradients --------------------------------------------------------------

SETTINGS: dict[str, dict[str, Any]] = {
    "all": {"target_modules": "all-linear"},
    "some": {"target_modules": ["k_proj", "down_proj"]},
    "ranks and scales": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 3, "up_proj": 1},
        "alpha_pattern": {"v_proj": 5, "down_proj": 7},
        "use_rslora": True,
    },
}


def trunk_of(dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """Return a trunk whose adapters have learned something."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = CausalLM(make_model("llama"), LoraConfig(r=2, **settings)).eval()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.1)
    trunk: Any = model.model.base_model
    for name, parameter in trunk.named_parameters():
        if "lora" not in name:
            parameter.data = parameter.data.to(dtype)
    return trunk


def of_block(trunk: Any, x: dict[int, Tensor], *, by_products: bool) -> list[Tensor]:
    """Return the outputs of a block's maps, and the gradients of a weighted sum of them."""
    groups = linear_maps(trunk.layers[1])
    factors = adapters_of(all_maps(trunk), next(iter(x.values())).dtype) if by_products else {}
    given: list[Tensor] = []
    for group in groups:
        of_group = x[group[0].in_features]
        given += outputs(group, of_group, factors) if by_products else [m(of_group) for m in group]
    assert len(given) == 7
    waves = [torch.arange(y.numel()).sin().view_as(y) for y in given]
    total: Any = sum((w * y.float()).sum() for w, y in zip(waves, given, strict=True))
    learning = [p for n, p in trunk.layers[1].named_parameters() if p.requires_grad]
    slopes = torch.autograd.grad(total, [*x.values(), *learning])
    return [y.detach() for y in (*given, *slopes)]


def inputs(trunk: Any, dtype: torch.dtype = torch.float32) -> dict[int, Tensor]:
    """Return states (2, 3, width) of each width that a map reads."""
    widths = {m.in_features for group in linear_maps(trunk.layers[1]) for m in group}
    return {
        width: torch.arange(6.0 * width).cos().view(2, 3, width).to(dtype).requires_grad_()
        for width in widths
    }


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_outputs_and_gradients_are_those_of_the_modules(settings):
    trunk = trunk_of(**settings)
    x = inputs(trunk)
    plain, few = (of_block(trunk, x, by_products=by) for by in (False, True))
    for one, other in zip(plain, few, strict=True):
        assert one.abs().max() > 1e-3  # a gradient that is 0 would show nothing
        torch.testing.assert_close(other, one, atol=2e-6, rtol=1e-5)


def test_one_map_by_hand():
    """W x + 2 B A x with W = 0: A x = (3, 7), B A x = 3 - 7, doubled."""
    trunk = trunk_of(target_modules=["o_proj"], lora_alpha=4)
    (module,) = linear_maps(trunk.layers[0])[1]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.lora_A["default"].weight[:, :2] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        module.lora_B["default"].weight[5] = torch.tensor([1.0, -1.0])
    x = torch.zeros(1, module.in_features)
    x[0, :2] = 1.0
    (y,) = outputs([module], x, adapters_of(all_maps(trunk), torch.float32))
    assert y[0, 5].item() == -8.0
    assert y.count_nonzero() == 1


def test_in_bfloat16_both_are_as_near_to_float32():
    exact, low = trunk_of(**SETTINGS["all"]), trunk_of(torch.bfloat16, **SETTINGS["all"])
    truth = of_block(exact, inputs(exact), by_products=False)
    x = inputs(low, torch.bfloat16)
    plain, few = (of_block(low, x, by_products=by) for by in (False, True))
    assert [y.dtype for y in plain] == [y.dtype for y in few]
    for right, one, other in zip(truth, plain, few, strict=True):
        gaps = [float((y.float() - right).norm() / right.norm()) for y in (one, other)]
        assert gaps[1] < max(1.3 * gaps[0], 1e-2), gaps


def test_adapters_that_are_off_or_of_another_kind_are_left_to_their_modules():
    trunk = trunk_of(**SETTINGS["all"])
    assert len(adapters_of(all_maps(trunk), torch.float32)) == 2 * 7
    module = trunk.layers[0].self_attn.q_proj
    module.enable_adapters(False)
    trunk.layers[0].mlp.up_proj.train()  # its dropout would be on
    factors = adapters_of(all_maps(trunk), torch.float32)
    assert len(factors) == 2 * 7 - 2
    x = torch.ones(1, module.in_features)
    torch.testing.assert_close(outputs([module], x, factors)[0], module.base_layer(x))
