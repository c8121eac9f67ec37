"""Products by oneDNN are torch's, up to rounding, wherever a policy multiplies."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from tokengym.agents import PPO
from tokengym.agents.errors import ModelError
from tokengym.agents.fast import gpt2, products
from tokengym.agents.fast.products import use_products
from tokengym.agents.policy.language_model import LanguageModel
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.policy.sequences import Sequences
from tokengym.agents.policy.settings import PolicySettings, Products
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


def model_of(shape: str) -> Any:
    torch.manual_seed(0)
    ids: Any = {"vocab_size": 8, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    if shape == "llama":
        sizes: Any = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
        heads: Any = {"num_attention_heads": 4, "num_key_value_heads": 2}
        return LlamaForCausalLM(LlamaConfig(**ids, **sizes, **heads))
    return GPT2LMHeadModel(GPT2Config(**ids, n_embd=24, n_layer=2, n_head=2, n_positions=64))


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
    model = model_of("llama").requires_grad_(False)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
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


def left_padded(lengths: list[int]) -> tuple[Tensor, Tensor]:
    mask = torch.stack([(torch.arange(4) >= 4 - n).long() for n in lengths])
    return torch.randint(8, (len(lengths), 4)) * mask, mask


@torch.no_grad()
@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_rows_that_leave_a_stream_by_eights_change_nothing(multiplications, shape):
    """24 rows, of which 9, then 3, continue: the batch has 24, 16 and 8 rows."""
    model = LanguageModel(model_of(shape)).eval()
    model.use_products("onednn")
    ids, mask = left_padded([1 + row % 4 for row in range(24)])
    stream: Any = make_stream(model, 16)
    texts = [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]
    states = stream.start(ids, mask)
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


def make_policy(make_envs: Any, shape: str, chosen: Products, **settings: Any) -> CausalLMPolicy:
    envs = make_envs(num_envs=4)
    return CausalLMPolicy(
        envs.single_observation_space,
        envs.single_action_space,
        lambda _: 1e-3,
        model=model_of(shape),
        products=chosen,
        **settings,
    )


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
@pytest.mark.parametrize("value_network", ["trunk", "own"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_both_libraries_evaluate_and_update_alike(
    make_envs, multiplications, monkeypatch, shape, value_network, is_chunked
):
    if is_chunked:  # the head is read by `token_figures`, in three chunks
        monkeypatch.setattr("tokengym.agents.policy.models.chunk_size", lambda _: 8)
    sequences = Sequences.from_ids([[3, 4], [5], [2, 2, 6]], [[4] * 6, [3, 7, 1], [5] * 9])
    results = []
    for chosen in LIBRARIES:
        multiplications.clear()
        policy = make_policy(make_envs, shape, chosen, value_network=value_network, temperature=0.7)
        with torch.no_grad():  # away from the reference
            for parameter in policy.language_model.parameters():
                parameter.mul_(1.1)
        figures = policy.evaluate(sequences, with_entropy=True, with_kl=True)
        sums = figures.log_probs, figures.entropy, figures.kl, figures.values
        torch.stack([w * x.square().sum() for w, x in enumerate(sums, 1)]).sum().backward()
        scored = policy.response_log_probs(sequences), policy.response_kl(sequences)
        gradients = [p.grad for p in policy.trained_parameters() if p.grad is not None]
        assert bool(multiplications) == (chosen == "onednn")
        results.append([*sums, *scored, *gradients])
    assert len(results[0]) == len(results[1]) > 20
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, atol=2e-5, rtol=1e-4)


def make_agent(make_envs: Any, chosen: str, **settings: Any) -> PPO:
    return PPO(
        "CausalLMPolicy",
        make_envs(num_envs=20, max_new_tokens=6),
        policy_kwargs={"model": model_of("gpt2"), "products": chosen},
        n_epochs=2,
        n_minibatches=2,
        seed=0,
        device="cpu",
        **settings,
    )


def test_both_libraries_train_alike(make_envs, multiplications):
    """Two rounds: the same samples, and weights equal up to what Adam makes of rounding."""
    weights, rollouts = [], []
    for chosen in LIBRARIES:
        agent = make_agent(make_envs, chosen)
        rollouts.append([e.response_ids for e in agent.collect().episodes])
        agent.learn(200)
        weights.append(torch.cat([p.detach().flatten() for p in agent.policy.parameters()]))
    assert rollouts[0] == rollouts[1]
    assert (weights[0] - weights[1]).abs().mean() < 1e-4 < (weights[0].abs().mean())


def test_a_resumed_run_is_the_uninterrupted_one_and_keeps_its_library(
    make_envs, multiplications, tmp_path, monkeypatch
):
    def weights(agent: PPO) -> Tensor:
        return torch.cat([p.detach().flatten() for p in agent.policy.parameters()])

    whole = make_agent(make_envs, "onednn")
    whole.learn(200)
    whole.learn(200, reset_num_timesteps=False)
    first = make_agent(make_envs, "onednn")
    first.learn(200)
    first.save(tmp_path / "half")
    second = PPO.load(tmp_path / "half", env=make_envs(num_envs=20, max_new_tokens=6))
    assert second.policy.language_model.products == "onednn"
    second.learn(200, reset_num_timesteps=False)
    assert torch.equal(weights(second), weights(whole))

    monkeypatch.setattr("tokengym.agents.fast.has_onednn", lambda: False)
    elsewhere = PPO.load(tmp_path / "half", env=make_envs(num_envs=20, max_new_tokens=6))
    assert elsewhere.policy.language_model.products == "torch"


# --- the choice -----------------------------------------------------------------------------------


def test_products_are_torch_s_unless_onednn_is_asked_for(make_envs):
    envs = make_envs(num_envs=4)
    policy = CausalLMPolicy(
        envs.single_observation_space,
        envs.single_action_space,
        lambda _: 1e-3,
        model=model_of("gpt2"),
    )
    assert policy.language_model.products == "torch"
    assert not any("forward" in vars(module) for module in policy.modules())


def test_a_build_without_onednn_says_so(make_envs, monkeypatch):
    monkeypatch.setattr(products, "has_onednn", lambda: False)
    with pytest.raises(ModelError, match=r"products='onednn'.*oneDNN"):
        make_policy(make_envs, "gpt2", "onednn")


def test_unknown_products_are_refused(make_envs):
    with pytest.raises(SettingsError, match=r"products.*'torch'.*'onednn'"):
        make_policy(make_envs, "gpt2", "mkl")  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"dtype": "bfloat16"}, {"precision": "bf16-mixed"}])
def test_onednn_is_refused_beside_bfloat16(settings):
    ((name, value),) = settings.items()
    with pytest.raises(SettingsError, match=rf"products='onednn'.*got {name}='{value}'"):
        PolicySettings(products="onednn", **settings)


def test_onednn_is_refused_on_another_device(make_envs):
    with pytest.raises(SettingsError, match=r"products='onednn'.*got device='meta'"):
        make_policy(make_envs, "gpt2", "onednn").to("meta")


def test_an_agent_trained_with_onednn_goes_to_another_device(caplog):
    assert products_here("onednn", Path("agent"), "cpu") == "onednn"
    assert products_here("onednn", Path("agent"), "meta") == "torch"
    assert "agent was trained with oneDNN's products, which are not here" in caplog.text
