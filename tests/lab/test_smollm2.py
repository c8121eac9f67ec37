"""SmolLM2 by name, the one real model of the tests; it is dequantised once, in this file."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from peft import LoraConfig

import tokengym  # noqa: F401
from tokengym.agents import PPO, SFT
from tokengym.agents.policy.language_model import load_causal_lm
from tokengym.base.device import preferred_device
from tokengym.base.errors import CheckpointError, PretrainedError
from tokengym.base.models import located
from tokengym.envs import Episode, bundled
from tokengym.rewards.models.loading import shared_backbone
from tokengym.rewards.registry import gold_scorer, load_scorer

try:
    located("smollm2")
except PretrainedError as error:
    pytest.skip(f"SKIPPED BY NAME: {error}", allow_module_level=True)

ID = "tokengym/MovieReview-v0"
LORA = {"lora": LoraConfig(r=4, lora_alpha=8)}


@pytest.fixture(scope="module")
def envs() -> Any:
    return gym.make_vec(
        ID, num_envs=2, bundle="smollm2-reviews", reward="abc-signed", max_new_tokens=3
    )


@pytest.fixture(scope="module")
def agent(envs: Any) -> PPO:
    return PPO("CausalLMPolicy", envs, policy_kwargs=LORA, seed=0, n_minibatches=1, n_epochs=1)


def test_the_judges_know_a_good_review(envs: Any) -> None:
    bundle, tokenizer = envs.unwrapped.bundle, envs.unwrapped.tokenizer
    prompt = envs.unwrapped.encoded_prompt(0)
    assert prompt.text == "I saw this film last night and"
    assert tokenizer.decode(prompt.ids).endswith(f"assistant\n{prompt.text}")
    said = [
        " loved every minute of it. Wonderful, moving and beautifully acted.",
        " it is about two brothers who run a garage.",
        " hated every minute of it. It is not good at all.",
    ]
    episodes = [
        Episode(
            prompt=prompt.text,
            prompt_ids=prompt.ids,
            response=text,
            response_ids=tokenizer(text)["input_ids"],
        )
        for text in said
    ]
    for judge in (load_scorer(bundle.reward_model, "reward_model"), gold_scorer(bundle)):
        assert judge is not None
        good, plain, bad = judge.bind(tokenizer).score(episodes).values
        assert good > plain > bad
        assert good > 0 > bad


def test_one_backbone_serves_all(envs: Any, agent: PPO) -> None:
    shared = {p.data_ptr() for p in shared_backbone("smollm2").parameters()}
    scorer: Any = load_scorer(bundled("smollm2-reviews").reward_model, "reward_model")
    policy = agent.policy.language_model.model
    for model in (scorer.model, policy):
        own = {
            name: p.numel() for name, p in model.named_parameters() if p.data_ptr() not in shared
        }
        assert sum(own.values()) < 1e6, own
        assert {"lora" in name or "score" in name for name in own} == {True}
    # Two policies adapt the same weights, each with adapters of its own.
    other = PPO("CausalLMPolicy", envs, policy_kwargs=LORA, seed=1)
    assert {p.data_ptr() for p in other.policy.parameters()} & shared
    backbone: Any = shared_backbone("smollm2")
    before = backbone.get_input_embeddings().weight.sum().item()
    played: Any = agent.collect()
    assert all(torch.isfinite(torch.tensor(e.score)) for e in played.episodes)
    agent.learn_from(played)
    assert backbone.get_input_embeddings().weight.sum().item() == before


def test_an_agent_is_stored_without_its_base(envs: Any, agent: PPO, tmp_path: Path) -> None:
    agent.save(tmp_path / "agent")
    size = sum(file.stat().st_size for file in (tmp_path / "agent").rglob("*") if file.is_file())
    # Adapters of policy and value, the optimiser's moments of both, and the tokenizer.
    assert size < 12e6
    base = json.loads((tmp_path / "agent" / "base.json").read_text())
    assert (base["model"], base["dtype"]) == ("smollm2", "float32")
    loaded = PPO.load(tmp_path / "agent", env=envs)
    played: Any = agent.collect()
    sequences = played.sequences(agent.device)
    for name in ("log_probs", "ref_log_probs"):
        found, expected = (
            each.policy.token_stats(sequences, None, name=name) for each in (loaded, agent)
        )
        torch.testing.assert_close(found, expected)
    loaded.save(tmp_path / "again")  # and so is one that was loaded
    assert json.loads((tmp_path / "again" / "base.json").read_text()) == base


def test_a_fine_tuned_agent_has_its_tokenizer_and_names_its_base(tmp_path: Path) -> None:
    rows = [{"prompt": "The film", "response": " is good."}]
    agent = SFT("smollm2", rows, lora=LORA["lora"], device="cpu")
    agent.save(tmp_path / "agent")
    files = {file.name for file in (tmp_path / "agent").rglob("*") if file.is_file()}
    assert {"base.json", "adapter_model.safetensors", "tokenizer.json"} <= files
    assert not any(name.startswith("model") for name in files)
    config = json.loads((tmp_path / "agent" / "adapter" / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]) == located("smollm2")
    loaded = SFT.load(tmp_path / "agent")
    assert loaded.tokenizer.get_vocab() == agent.tokenizer.get_vocab()
    assert loaded.tokenizer.chat_template == agent.tokenizer.chat_template
    agent.tokenizer.add_special_tokens({"pad_token": "<pad>"})  # its own from here on
    agent.save(tmp_path / "other")
    assert SFT.load(tmp_path / "other").tokenizer.pad_token == "<pad>"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "../other"}, r"'../other'"),
        ({"sha256": "0" * 64}, "adapters"),
        ({"code": "x.py"}, "code is unknown"),
    ],
)
def test_a_base_that_is_another(
    change: dict[str, str], message: str, agent: PPO, tmp_path: Path
) -> None:
    from tokengym.agents.saving import stored_models, write_policy

    write_policy(agent.policy, tmp_path, tmp_path)
    base = json.loads((tmp_path / "base.json").read_text())
    (tmp_path / "base.json").write_text(json.dumps({**base, **change}))
    with pytest.raises((CheckpointError, PretrainedError), match=message):
        stored_models(tmp_path)


def test_a_reward_model_reads_the_policys_weights_in_their_precision() -> None:
    with preferred_device("cpu", "float32"):
        scorer: Any = load_scorer(bundled("smollm2-reviews").reward_model, "reward_model")
    policy = load_causal_lm("smollm2", "float32", adapts=True)
    models: list[Any] = [scorer.model, policy]
    weights = [model.get_input_embeddings().weight for model in models]
    assert weights[0].dtype == torch.float32
    assert weights[0].data_ptr() == weights[1].data_ptr()
