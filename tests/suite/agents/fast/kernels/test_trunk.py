"""Whole texts read by kernels give the states and gradients of the model's own forward."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig
from torch import Tensor

from tests.support.agents.common import make_model
from tests.support.agents.static import model_of
from tokengym.agents.policy.language_model import CausalLM
from tokengym.agents.policy.memory import Computing, Texts, memory_needed
from tokengym.agents.policy.sequences import Sequences

pytest.importorskip("triton", reason="Triton is not installed; it comes with torch for CUDA")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

from tests.support.agents.blocks import FUSED  # noqa: E402
from tokengym.agents.fast.kernels import trunk  # noqa: E402

ADAPTERS = LoraConfig(r=2, target_modules="all-linear")
IDS = (7 * torch.arange(10) % 64).view(2, 5)


def read_both_ways(model: CausalLM) -> list[dict[str, Tensor]]:
    """Return states, and the gradients of a weighted sum of them, plain and by kernels."""
    ids, results = IDS.to(DEVICE), []
    for kernels in (False, True):
        if kernels:
            with model.computing():
                states = trunk.hidden(model.model.base_model, ids)
        else:
            states = model.hidden(ids)
        learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
        waves = torch.arange(states.numel(), device=DEVICE).sin().view_as(states)
        slopes = torch.autograd.grad(
            (waves * states).sum(), [*learning.values()], allow_unused=True
        )
        found = zip(learning, slopes, strict=True)
        results.append({"states": states.detach()} | {n: x for n, x in found if x is not None})
    return results


def assert_near(plain: dict[str, Tensor], fused: dict[str, Tensor], near: float) -> None:
    """Compare by the size of what is compared."""
    assert plain.keys() == fused.keys()
    for name, one in plain.items():
        assert fused[name].dtype == one.dtype, name
        gap = (fused[name].float() - one.float()).norm() / one.float().norm()
        assert gap < near, f"{name}: {gap:.3g}"


@pytest.mark.parametrize("family", FUSED)
def test_states_and_gradients_are_those_of_the_models_own_forward(family):
    model = model_of(family).to(DEVICE)
    assert trunk.longest_text(model) >= 5
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.arange(len(parameter), device=DEVICE).cos()
    plain, fused = read_both_ways(model)
    assert_near(plain, fused, near=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "gemma"])
def test_adapters_learn_the_same(family, recompute):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = CausalLM(model_of(family).model, ADAPTERS).eval()
        for parameter in model.parameters():
            if parameter.requires_grad and not parameter.any():  # half of an adapter starts at zero
                parameter.data.normal_(std=0.1)
    model.to(DEVICE).recompute = recompute
    plain, fused = read_both_ways(model)
    assert len(plain) == 1 + 3 * 7 * 2  # of each block's maps, two matrices
    assert_near(plain, fused, near=1e-5)


@pytest.mark.parametrize("kind", ["bfloat16", "mixed"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma"])
def test_in_bfloat16_both_are_as_near_to_float32(family, kind):
    exact = model_of(family).to(DEVICE)
    model = copy.deepcopy(exact)
    if kind == "mixed":
        model.autocasts = True
    else:
        model.to(torch.bfloat16)
    truth, _ = read_both_ways(exact)
    plain, fused = read_both_ways(model)
    assert [x.dtype for x in plain.values()] == [x.dtype for x in fused.values()]
    for name, right in truth.items():
        gaps = [float((x[name].float() - right).norm() / right.norm()) for x in (plain, fused)]
        assert gaps[1] < max(1.3 * gaps[0], 5e-2), f"{name}: {gaps}"


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_what_the_gradient_keeps_is_what_the_memory_is_computed_by(kernels, mixed):
    """Of a block, by what three blocks keep more than one; attention's sums are beside it."""
    kept: list[int] = []
    for layers in (1, 3):
        config = transformers.Qwen2Config(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=4,
        )  # fmt: skip
        dtype = torch.float32 if mixed else torch.bfloat16
        made = transformers.Qwen2ForCausalLM._from_config(config, dtype=dtype)
        model = CausalLM(made).eval().to(DEVICE)
        model.autocasts = mixed
        stored = {p.data_ptr(): 0 for p in model.parameters()}
        held: list[Any] = []  # or another tensor would get the address of one that is gone

        def keep(tensor: Tensor, stored: Any = stored, held: Any = held) -> Tensor:
            storage = tensor.untyped_storage()
            held.append(storage)
            stored.setdefault(storage.data_ptr(), storage.nbytes())
            return tensor

        whole: Any = model.model.base_model
        ids = (7 * torch.arange(64) % 64).view(4, 16).to(DEVICE)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), model.computing():
            states = trunk.hidden(whole, ids) if kernels else whole(ids, use_cache=False)[0]
        assert states.requires_grad
        kept.append(sum(stored.values()))
    texts = Texts(rows=1, length=64, new_tokens=1, micro_batch_size=1)
    linear = 3 * (4 * 32 * 32 + 3 * 32 * 48)
    how = Computing(kernels=kernels, mixed=mixed)
    expected = memory_needed(config, {}, linear, texts, how)["activations"]
    assert (kept[1] - kept[0]) * 3 / 2 == pytest.approx(expected, rel=0.06)


def test_texts_that_kernels_do_not_read_are_left_to_the_models_own_forward(monkeypatch, caplog):
    assert trunk.longest_text(model_of("mistral").to(DEVICE)) == 5  # its window
    for family in ("gpt2", "gemma2"):
        assert trunk.longest_text(model_of(family).to(DEVICE)) == 0
    eager = model_of("llama").to(DEVICE)
    eager.model.set_attn_implementation("eager")
    assert trunk.longest_text(eager) == 0
    normed = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"])
    assert trunk.longest_text(CausalLM(model_of("llama").model, normed).to(DEVICE)) == 0
    monkeypatch.setattr(trunk, "hidden", lambda trunk, ids: torch.zeros(2, 9, 32, device=DEVICE))
    assert trunk.longest_text(model_of("llama").to(DEVICE)) == 0
    assert caplog.messages == ["texts are not read by kernels, which is slower: off by 1"]


def test_a_policy_reads_its_texts_by_kernels(make_ppo):
    policy, results = make_ppo(model=make_model("llama"), device=DEVICE).policy, []
    sequences = Sequences.from_ids([[3, 4], [5]], [[6, 7, 3], [4]], DEVICE)
    for kernels in ("plain", "triton"):
        policy.settings = dataclasses.replace(policy.settings, kernels=kernels)
        found = policy.evaluate(sequences, with_kl=True)
        results.append([found.log_probs, found.kl, found.values, policy.states(sequences)])
        assert (policy.language_model._max_fused is None) is (kernels == "plain")
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
