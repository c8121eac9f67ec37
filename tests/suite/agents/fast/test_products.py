"""Products by oneDNN are torch's, up to rounding, wherever a policy multiplies."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tests.support.agents.common import make_model
from tests.support.agents.static import policy_of
from tests.support.agents.streams import left_padded
from tokengym.agents import PPO
from tokengym.agents.errors import ModelError
from tokengym.agents.fast import gpt2, products
from tokengym.agents.fast.products import use_products
from tokengym.agents.policy.language_model import CausalLM
from tokengym.agents.policy.sequences import Sequences
from tokengym.agents.policy.settings import Products
from tokengym.agents.policy.streams import make_stream
from tokengym.agents.saving import products_here
from tokengym.base.errors import SettingsError

pytestmark = pytest.mark.skipif(not products.has_onednn(), reason="torch without oneDNN")
LIBRARIES: tuple[Products, ...] = ("torch", "onednn")


@pytest.fixture
def multiplications(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Send products of every size through oneDNN; return who multiplied, call by call."""
    calls: list[str] = []

    def noted(name: str, function: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            calls.append(name)
            return function(*given, **named)

        return call

    monkeypatch.setattr(products, "LEAST", 0)
    monkeypatch.setattr(gpt2, "LEAST_PACKED", 0)
    monkeypatch.setattr(products, "multiplied", noted("multiplied", products.multiplied))
    monkeypatch.setattr(gpt2, "packed_map", noted("packed", products.packed_map))
    return calls


# --- the maps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@pytest.mark.parametrize("shape", [(5, 7, 6), (35, 6)])
def test_a_map_and_its_gradients_are_the_product_s(multiplications, kind, shape):
    torch.manual_seed(0)
    module: Any = nn.Linear(6, 9) if kind is nn.Linear else Conv1D(9, 6)
    nn.init.normal_(module.bias)
    x = torch.randn(shape, requires_grad=True)
    slope = torch.randn(*shape[:-1], 9)
    weight: Tensor = module.weight.detach().double()
    weight = weight if kind is Conv1D else weight.t()
    use_products(module, "onednn")

    y = module(x)
    y.backward(slope)

    exact = x.detach().double() @ weight + module.bias.detach().double()
    rows, slopes = x.detach().double().reshape(-1, 6), slope.double().reshape(-1, 9)
    d_weight = rows.t() @ slopes if kind is Conv1D else slopes.t() @ rows
    for found, expected in (
        (y, exact),
        (x.grad, slope.double() @ weight.t()),
        (module.weight.grad, d_weight),
        (module.bias.grad, slopes.sum(0)),
    ):
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    assert multiplications == ["multiplied"] * 3
    with torch.no_grad():
        torch.testing.assert_close(module(x), y)


def test_only_the_gradients_that_are_wanted_are_computed(multiplications):
    module = nn.Linear(6, 9, bias=False).requires_grad_(False)
    use_products(module, "onednn")
    x = torch.randn(4, 6, requires_grad=True)
    module(x).sum().backward()
    assert module.weight.grad is None
    assert multiplications == ["multiplied"] * 2


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_other_precisions_and_small_products_stay_torch_s(kind):
    module: Any = nn.Linear(6, 9) if kind is nn.Linear else Conv1D(9, 6)
    plain = copy.deepcopy(module)
    use_products(module, "onednn")
    x = torch.randn(2, 4, 6)
    assert torch.equal(module(x), plain(x))  # fewer multiplications than LEAST
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "LEAST", 0)
        assert torch.equal(module.double()(x.double()), plain.double()(x.double()))
        module.float(), plain.float()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(module(x), plain(x))
        low = module.bfloat16(), plain.bfloat16()
        assert torch.equal(low[0](x.bfloat16()), low[1](x.bfloat16()))


def test_a_copy_reads_weights_of_its_own_and_modules_keep_their_class(multiplications):
    module = nn.Linear(6, 9)
    use_products(module, "onednn")
    twin = copy.deepcopy(module)
    x = torch.randn(4, 6)
    before = module(x)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    assert type(twin) is nn.Linear
    torch.testing.assert_close(twin(x), before)
    assert not module(x).any()
    module.weight = nn.Parameter(torch.ones(9, 6))
    torch.testing.assert_close(module(x), x.sum(-1, keepdim=True).expand(4, 9))
    assert set(module.state_dict()) == {"weight", "bias"}
    use_products(module, "torch")
    assert "forward" not in vars(module)
    count = len(multiplications)
    module(x)
    assert len(multiplications) == count


def test_adapters_stand_on_maps_by_onednn(multiplications):
    model = make_model("llama").requires_grad_(False)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    adapted.eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    ids = torch.randint(8, (2, 5))
    expected = adapted(ids).logits
    use_products(model, "onednn")
    found = adapted(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    found.sum().backward()
    assert multiplications


# --- a policy -------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_rows_that_leave_a_stream_by_eights_change_nothing(multiplications, shape):
    """24 rows, of which 9, then 3, continue: the batch has 24, 16 and 8 rows."""
    model = CausalLM(make_model(shape)).eval()
    model.use_products("onednn")
    stream: Any = make_stream(model, 16)
    texts = [torch.randint(8, (1 + row % 4,)).tolist() for row in range(24)]
    states = stream.start(*left_padded(texts))
    sizes = []
    for rows in (None, torch.arange(1, 19, 2), torch.tensor([0, 4, 8]), torch.tensor([1])):
        if rows is not None:
            stream.keep(rows)
            texts = [texts[row] for row in rows.tolist()]
        for _ in range(2):
            tokens = torch.randint(8, (len(texts),))
            for text, token in zip(texts, tokens.tolist(), strict=True):
                text.append(token)
            states = stream.step(tokens)
            for text, state in zip(texts, states, strict=True):
                whole = model.hidden(torch.tensor([text]))[0, -1]
                torch.testing.assert_close(state, whole, atol=2e-5, rtol=1e-4)
        sizes.append(len(stream._positions))
    assert sizes == [24, 16, 8, 8]
    assert "packed" in multiplications


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
@pytest.mark.parametrize("value_network", ["trunk", "own"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_both_libraries_evaluate_and_update_alike(
    multiplications, monkeypatch, shape, value_network, is_chunked
):
    if is_chunked:  # the head is read by `token_figures`, in three chunks
        monkeypatch.setattr("tokengym.agents.policy.models.chunk_size", lambda _: 8)
    sequences = Sequences.from_ids([[3, 4], [5], [2, 2, 6]], [[4] * 6, [3, 7, 1], [5] * 9])
    results = []
    for chosen in LIBRARIES:
        multiplications.clear()
        settings: Any = {"value_network": value_network, "temperature": 0.7}
        policy = policy_of(make_model(shape), products=chosen, **settings)
        with torch.no_grad():  # away from the reference
            for parameter in policy.language_model.parameters():
                parameter.mul_(1.1)
        figures = policy.evaluate(sequences, with_entropy=True, with_kl=True)
        sums = figures.log_probs, figures.entropy, figures.kl, figures.values
        torch.stack([w * x.square().sum() for w, x in enumerate(sums, 1)]).sum().backward()
        scored = (
            policy.token_stats(sequences, name="log_probs"),
            policy.token_stats(sequences, name="kl"),
        )
        gradients = [p.grad for p in policy.trained_parameters() if p.grad is not None]
        assert bool(multiplications) == (chosen == "onednn")
        results.append([*sums, *scored, *gradients])
    assert len(results[0]) == len(results[1]) > 20
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, atol=2e-5, rtol=1e-4)


def test_a_saved_agent_keeps_its_library_where_it_is(make_envs, tmp_path, monkeypatch):
    envs, kwargs = make_envs(), {"model": make_model(), "products": "onednn"}
    agent = PPO("CausalLMPolicy", envs, policy_kwargs=kwargs, seed=0, device="cpu")
    agent.save(tmp_path / "agent")
    for has_onednn, expected in ((True, "onednn"), (False, "torch")):
        monkeypatch.setattr("tokengym.agents.fast.has_onednn", lambda here=has_onednn: here)
        loaded = PPO.load(tmp_path / "agent", env=make_envs(), device="cpu")
        assert loaded.policy.language_model.products == expected


# --- the choice -----------------------------------------------------------------------------------


def test_a_build_without_onednn_and_another_device_say_so(monkeypatch):
    policy = policy_of(make_model(), products="onednn")
    with pytest.raises(SettingsError, match=r"products='onednn'.*got device='meta'"):
        policy.to("meta")
    monkeypatch.setattr(products, "has_onednn", lambda: False)
    with pytest.raises(ModelError, match=r"products='onednn'.*oneDNN"):
        policy_of(make_model(), products="onednn")


def test_an_agent_trained_with_onednn_goes_to_another_device(caplog):
    assert products_here("onednn", Path("agent"), "cpu") == "onednn"
    assert products_here("onednn", Path("agent"), "meta") == "torch"
    assert "agent was trained with oneDNN's products, which are not here" in caplog.text
