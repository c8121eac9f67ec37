"""Texts read by captured passes, with the gradient that the model's own passes give."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from tests.suite.agents.conftest import lora_config, make_model
from tests.suite.agents.fast.test_static import FAMILIES, NOT_STATIC, model_of
from tests.support.tapes import Tape, record_tapes
from tokengym.agents import PPO
from tokengym.agents.fast.replayed import Replayed
from tokengym.agents.fast.updates import CapturedTrunk
from tokengym.agents.policy.language_model import LanguageModel
from tokengym.agents.policy.sequences import Sequences
from tokengym.base.errors import SettingsError


def texts(*lengths: int, seed: int = 0) -> Sequences:
    """Return texts of these lengths, half of each a response."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(2, 60, (n,), generator=generator).tolist() for n in lengths]
    halves = [n // 2 for n in lengths]
    return Sequences.from_ids(
        [text[:n] for text, n in zip(ids, halves, strict=True)],
        [text[n:] for text, n in zip(ids, halves, strict=True)],
    )


def gradients(model: LanguageModel, *batches: Sequences) -> list[Tensor | None]:
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
    for _ in range(3):
        expected = gradients(plain, *batches)
        assert_same(gradients(captured, *batches), expected)
        with torch.no_grad():
            for model in (plain, captured):
                for weight in model.parameters():
                    weight.mul_(1.1)
    # Texts of 8 tokens to read, and of 19; the third batch has the shape of the first.
    assert {key[:2] for key in trunk.shapes} == {(8, 8), (8, 20)}


@pytest.mark.parametrize("value_network", ["own", "trunk", None])
@pytest.mark.parametrize("shape", ["gpt2", "llama", "gpt2, lora", "llama, lora"])
@pytest.mark.parametrize("is_taped", [False, True])
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
            n_minibatches=2,
            micro_batch_size=1,
            **settings,
        )
        agent.learn(60)
        weights.append(dict(agent.policy.named_parameters()))
        trunk = agent.policy.language_model.captured_trunk
        assert (trunk is not None and len(trunk.shapes) > 0) is (updates == "captured")
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=2e-5, rtol=2e-4)


class _Launches(TorchDispatchMode):
    """Counts operations that write something, and what is replayed as one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count, self._is_replaying = 0, False
        replay = Tape.replay

        def replayed(tape: Tape) -> None:
            self.count += 1
            self._is_replaying = True
            replay(tape)
            self._is_replaying = False

        monkeypatch.setattr(Tape, "replay", replayed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        writes = not func.is_view and not func.overloadpacket.__name__.startswith("empty")
        self.count += writes and not self._is_replaying
        return func(*args, **(kwargs or {}))


def launches(updates: str, num_layers: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the launches for the gradient of a loss of texts, once their shape is captured."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=num_layers,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    model = LanguageModel(LlamaForCausalLM(config)).eval()
    if updates == "captured":
        model.captured_trunk = CapturedTrunk(model)
    gradients(model, texts(9, 6))
    with monkeypatch.context() as patch, _Launches(patch) as counted:
        gradients(model, texts(9, 6))
    return counted.count


def test_captured_passes_are_launched_at_once_whatever_the_depth(monkeypatch):
    plain = [launches("plain", layers, monkeypatch) for layers in (2, 6)]
    assert plain[1] > plain[0] + 4 * 60  # a Llama's block is at least so many operations
    with monkeypatch.context() as patch:
        patch.setattr(Replayed, "__call__", Replayed.__call__)
        record_tapes(patch)
        patch.setattr(Tape, "check", lambda tape, function: None)
        captured = [launches("captured", layers, patch) for layers in (2, 6)]
    assert captured[1] == captured[0] < 60


def test_the_graphs_are_few_whatever_the_texts(monkeypatch):
    """Rows of 2^n or 3 * 2^n, and of lengths no more than eight to a doubling."""
    record_tapes(monkeypatch)
    model = model_of("gpt2")
    model.captured_trunk = trunk = CapturedTrunk(model)
    generator = torch.Generator().manual_seed(0)
    for seed in range(40):
        rows = int(torch.randint(1, 13, (), generator=generator))
        lengths = torch.randint(17, 33, (rows,), generator=generator).tolist()
        gradients(model, texts(*lengths, seed=seed))
    # 16 to 32 tokens are read; the longest of one text in two is above 30.
    assert {rows for rows, _, _ in trunk.shapes} == {8, 12}
    assert {length for _, length, _ in trunk.shapes} <= {16, 18, 20, 22, 24, 26, 28, 30, 32}


def test_texts_between_a_forward_and_its_backward_pass_are_read_plainly():
    plain, captured = model_of("llama"), model_of("llama")
    captured.captured_trunk = trunk = CapturedTrunk(captured)
    first, second = texts(9, 6), texts(9, 8, seed=1)

    def of_both(model: LanguageModel) -> list[Tensor | None]:
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


def test_what_captured_passes_are_not_for_is_refused(make_ppo):
    with pytest.raises(SettingsError, match=r"captured.*gradient_checkpointing.*leave one"):
        PPO(
            "CausalLMPolicy",
            "tokengym/MovieReview-v0",
            policy_kwargs={"updates": "captured", "gradient_checkpointing": True},
        )
    with pytest.raises(SettingsError, match=r"updates.*'graphs'"):
        PPO("CausalLMPolicy", "tokengym/MovieReview-v0", policy_kwargs={"updates": "graphs"})
