"""Texts read by captured passes, with the gradient that the model's own passes give."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.agents.common import lora_config, make_model
from tests.support.agents.static import FAMILIES, NOT_STATIC, model_of
from tests.support.tapes import record_tapes
from tokengym.agents import PPO
from tokengym.agents.fast.replayed import Replayed
from tokengym.agents.fast.updates import CapturedTrunk
from tokengym.agents.policy.language_model import CausalLM
from tokengym.agents.policy.sequences import Sequences


def texts(*lengths: int, seed: int = 0) -> Sequences:
    """Return texts of these lengths, half of each a response."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(2, 60, (n,), generator=generator).tolist() for n in lengths]
    halves = [n // 2 for n in lengths]
    return Sequences.from_ids(
        [text[:n] for text, n in zip(ids, halves, strict=True)],
        [text[n:] for text, n in zip(ids, halves, strict=True)],
    )


def gradients(model: CausalLM, *batches: Sequences) -> list[Tensor | None]:
    """Return the weights' gradients of a function of texts, added up over batches."""
    model.zero_grad(set_to_none=True)
    for batch in batches:
        states = model.response_states(batch)
        places = torch.arange(states.numel()).view(states.shape)
        (states * (0.1 * places).sin()).sum().backward()
    return [weight.grad for weight in model.parameters()]


def assert_same(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    for one, other in zip(found, expected, strict=True):
        if other is None:
            assert one is None or not one.any()
        else:
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("is_taped", [False, True])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in NOT_STATIC])
def test_gradients_are_the_plain_ones_while_the_weights_move(family, is_taped, monkeypatch):
    if is_taped:
        record_tapes(monkeypatch)
    plain, captured = model_of(family), model_of(family)
    captured.captured_trunk = trunk = CapturedTrunk(captured)
    batches = texts(9, 6, 8), texts(20, 17), texts(9, 7, 8, 5, seed=1)
    for _ in range(2):
        expected = gradients(plain, *batches)
        assert_same(gradients(captured, *batches), expected)
        with torch.no_grad():
            for model in (plain, captured):
                for weight in model.parameters():
                    weight.mul_(1.1)
    # Texts of 8 tokens to read, and of 19; the third batch has the shape of the first.
    assert {key[:2] for key in trunk.shapes} == {(8, 8), (8, 20)}


SHAPES = ("gpt2", "llama", "gpt2, lora", "llama, lora")
TRAININGS = [(*both, True) for both in itertools.product(SHAPES, ("own", "trunk", None))]
TRAININGS += [("gpt2, lora", "own", False), ("llama", None, False)]


@pytest.mark.parametrize(("shape", "value_network", "is_taped"), TRAININGS)
def test_a_training_is_the_plain_one(make_envs, shape, value_network, is_taped, monkeypatch):
    if is_taped:
        record_tapes(monkeypatch)
    kind, _, adapts = shape.partition(", ")
    settings: Any = {"advantage": "loo", "group_size": 2}
    if value_network:
        settings = {"value_network": value_network}
    weights = []
    for updates in ("plain", "captured"):
        agent = PPO(
            "CausalLMPolicy",
            make_envs(),
            policy_kwargs={
                "model": make_model(kind, scale=2.0),
                "lora": lora_config(kind) if adapts else None,
                "updates": updates,
                "decoding": "dynamic",
            },
            seed=0,
            device="cpu",
            learning_rate=1e-3,
            n_epochs=1,
            n_minibatches=2,
            micro_batch_size=1,
            **settings,
        )
        agent.learn(48)
        weights.append(dict(agent.policy.named_parameters()))
        trunk = agent.policy.language_model.captured_trunk
        assert (trunk is not None and len(trunk.shapes) > 0) is (updates == "captured")
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=2e-5, rtol=2e-4)


def test_texts_between_a_forward_and_its_backward_pass_are_read_plainly():
    plain, captured = model_of("llama"), model_of("llama")
    captured.captured_trunk = trunk = CapturedTrunk(captured)
    first, second = texts(9, 6), texts(9, 8, seed=1)

    def of_both(model: CausalLM) -> list[Tensor | None]:
        model.zero_grad(set_to_none=True)
        one, other = model.response_states(first), model.response_states(second)
        (one.sin().sum() + (2 * other).cos().sum()).backward()
        return [weight.grad for weight in model.parameters()]

    assert_same(of_both(captured), of_both(plain))
    assert len(trunk.shapes) == 1
    unused = captured.response_states(first)
    del unused  # nobody will take its gradient
    assert_same(gradients(captured, second), gradients(plain, second))
    assert len(trunk.shapes) == 1  # of both


def test_a_gradient_is_taken_once_and_before_other_texts_are_read():
    model = model_of("llama")
    model.captured_trunk = CapturedTrunk(model)
    states = model.response_states(texts(9, 6))
    states.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="updates='plain'"):
        states.sum().backward()
    states = model.response_states(texts(9, 6))
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(states.sum(), list(model.model.parameters()))  # added past autograd


def test_weights_that_move_freeze_or_are_copied_are_captured_anew(monkeypatch):
    record_tapes(monkeypatch)
    plain, captured = model_of("llama"), model_of("llama")
    captured.captured_trunk = CapturedTrunk(captured)
    batch = texts(9, 6)
    assert_same(gradients(captured, batch), gradients(plain, batch))
    for change in (_replace, _freeze):
        for model in (plain, captured):
            change(model.blocks()[0])
        assert_same(gradients(captured, batch), gradients(plain, batch))
    twin = copy.deepcopy(captured)
    with torch.no_grad():
        for model in (plain, twin):
            for weight in model.parameters():
                weight.mul_(0.9)
    assert_same(gradients(twin, batch), gradients(plain, batch))
    assert twin.captured_trunk is not captured.captured_trunk


def _replace(block: Any) -> None:
    weight = block.mlp.up_proj.weight
    block.mlp.up_proj.weight = nn.Parameter(1.5 * weight.detach())


def _freeze(block: Any) -> None:
    block.mlp.up_proj.requires_grad_(False)


@pytest.mark.parametrize("family", NOT_STATIC)
def test_a_model_that_makes_its_masks_itself_is_read_plainly(family, caplog):
    plain, captured = model_of(family), model_of(family)
    captured.captured_trunk = trunk = CapturedTrunk(captured)
    batch = texts(9, 6)
    assert_same(gradients(captured, batch), gradients(plain, batch))
    assert not trunk.shapes
    assert caplog.text.count("updates are not captured, which is slower") == 1


def test_a_refused_capture_is_a_plain_call(monkeypatch, caplog):
    def refuse(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    record_tapes(monkeypatch)
    monkeypatch.setattr(Replayed, "_capture", refuse)
    plain, captured = model_of("llama"), model_of("llama")
    captured.captured_trunk = CapturedTrunk(captured)
    for batch in (texts(9, 6), texts(9, 6), texts(4, 3)):
        assert_same(gradients(captured, batch), gradients(plain, batch))
    assert "an update is not captured, which is slower: operation not permitted" in caplog.text
