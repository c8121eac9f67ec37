"""One backbone carries policy, reference, value and reward model, each as adapters or none."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.suite.agents.played_devices import playing
from tests.support.agents.common import lora_config, make_model
from tests.support.rules import rule_of
from tests.support.words import WORDS
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import PPO, ModelError, collect
from tokengym.agents.policy.memory import memory_by_role
from tokengym.rewards import (
    Reward,
    RewardModel,
    RewardTraining,
    ScorerError,
    train_reward_model,
)
from tokengym.rewards.errors import RewardError

SHAPES = pytest.mark.parametrize("shape", ["gpt2", "llama"])


def pairs(num: int) -> list[dict[str, str]]:
    """Prefer "a" to "b", whatever stands around it."""
    around = [WORDS[3 + (5 * i + i // 3) % 5] for i in range(num)]
    return [{"prompt": "c d", "chosen": f" {w} a e", "rejected": f" {w} b e"} for w in around]


@pytest.fixture(scope="module")
def stored(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Any
) -> Callable[[str, bool], tuple[Path, Path]]:
    """Return what makes the folders of a language model and of a reward model trained on it."""
    base = tmp_path_factory.mktemp("stored")

    @functools.cache
    def make(shape: str, merge: bool) -> tuple[Path, Path]:
        folder = base / shape
        if not folder.exists():
            make_model(shape, scale=2.0).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        trained = train_reward_model(
            folder,
            pairs(16),
            output_dir=base / f"{shape}-rewards-{merge}",
            held_out=pairs(4),
            lora=lora_config(shape),
            merge=merge,
            training=RewardTraining(learning_rate=1e-2, epochs=2, batch_size=8, micro_batch_size=8),
        )
        return folder, trained.path

    return make


def load_backbone(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32")


def make_agent(envs: Any, backbone: PreTrainedModel, shape: str, **settings: Any) -> PPO:
    kwargs = {"model": backbone, "lora": lora_config(shape)}
    return PPO("CausalLMPolicy", envs, policy_kwargs=kwargs, seed=0, device="cpu", **settings)


@SHAPES
def test_scores_are_those_of_the_merged_model_and_stay(
    stored: Callable[..., Any], make_envs: Callable[..., Any], shape: str
):
    folder, adapters = stored(shape, False)
    _, merged = stored(shape, True)  # the same seed: the same training
    backbone = load_backbone(folder)
    scorer = RewardModel.from_pretrained(adapters, backbone=backbone)
    agent = make_agent(
        make_envs(reward=Reward(scorer, rule_of("sparse"))), backbone, shape, learning_rate=1e-2
    )
    episodes = collect(agent, make_envs(), 8, seed=0)
    expected = RewardModel.from_pretrained(merged, device="cpu").score(episodes).values
    torch.testing.assert_close(
        torch.from_numpy(scorer.score(episodes).values), torch.from_numpy(expected)
    )
    assert expected.std() > 1e-3
    before = scorer.score(episodes, attribution="attention")
    agent.learn(20)  # the policy moves on the same backbone
    after = scorer.score(episodes, attribution="attention")
    assert after.values.tolist() == before.values.tolist()
    assert [row.tolist() for row in after.attributions or ()] == [
        row.tolist() for row in before.attributions or ()
    ]
    (now,), (ref,) = (agent.policy.log_probs([[3]], [[4]], reference=r) for r in (False, True))
    assert now.tolist() != ref.tolist()


def test_a_given_backbone_stands_for_a_base_that_is_not_named(
    stored: Callable[..., Any], tmp_path: Path
):
    folder, adapters = stored("gpt2", False)
    shutil.copytree(adapters, tmp_path / "nameless")
    file = tmp_path / "nameless" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": None}))
    backbone = load_backbone(folder)
    scorer = RewardModel.from_pretrained(tmp_path / "nameless", backbone=backbone)
    assert scorer.model.num_parameters() > 0
    with pytest.raises(ScorerError, match="no base model"):
        RewardModel.from_pretrained(tmp_path / "nameless")


@SHAPES
def test_the_backbone_is_there_once(
    stored: Callable[..., Any], make_envs: Callable[..., Any], shape: str
):
    folder, adapters = stored(shape, False)
    backbone = load_backbone(folder)
    whole = sum(p.numel() * p.element_size() for p in backbone.parameters())
    scorer = RewardModel.from_pretrained(adapters, backbone=backbone)
    agent = make_agent(make_envs(reward=Reward(scorer, rule_of("sparse"))), backbone, shape)
    sizes = memory_by_role(agent.policy, scorer.model)
    head = 16 * 4
    assert sizes["frozen"] == whole
    assert sizes["reference"] == 0
    assert sizes["value"] == sizes["policy"] + head + 4  # adapters, and a head with its bias
    # adapters and the head; peft keeps the head that was there before beside the trained one
    assert sizes["reward_model"] == sizes["policy"] + 2 * head
    assert sizes["total"] < 2 * whole


def test_a_frozen_backbone_is_not_trained_by_mistake(
    stored: Callable[..., Any], make_envs: Callable[..., Any]
):
    folder, adapters = stored("gpt2", False)
    backbone = load_backbone(folder)
    RewardModel.from_pretrained(adapters, backbone=backbone)
    with pytest.raises(ModelError, match=r"frozen.*lora="):
        PPO("CausalLMPolicy", make_envs(), policy_kwargs={"model": backbone}, device="cpu")


def test_what_does_not_fit_is_refused(
    stored: Callable[..., Any], make_envs: Callable[..., Any], tmp_path: Path
):
    folder, adapters = stored("gpt2", False)
    with pytest.raises(ScorerError, match=r"adapter_config.json.*merge=False"):
        RewardModel.from_pretrained(folder, backbone=load_backbone(folder))
    with pytest.raises(ScorerError, match="do not fit LlamaForSequenceClassification"):
        RewardModel.from_pretrained(adapters, backbone=make_model("llama"))
    agent = make_agent(make_envs(), load_backbone(folder), "gpt2")
    taken = agent.policy.language_model.model
    with pytest.raises(ScorerError, match="adapters already"):
        RewardModel.from_pretrained(adapters, backbone=taken)
    from peft import get_peft_model

    headless = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    get_peft_model(make_model(), headless).save_pretrained(str(tmp_path / "headless"))
    with pytest.raises(ScorerError, match=r"score.weight.*SEQ_CLS"):
        RewardModel.from_pretrained(tmp_path / "headless", backbone=load_backbone(folder))
    with pytest.raises(RewardError, match=r"merge = False.*lora"):
        train_reward_model(folder, pairs(8), output_dir=tmp_path / "rm", merge=False)


@pytest.mark.parametrize("first", ["cpu", "cuda:1"])
def test_a_reward_model_follows_the_backbone_that_it_shares(
    first: str, make_envs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The policy's device moves the backbone; adapters and head of the rewards have to follow."""
    folder = tmp_path / "model"
    make_model(scale=2.0).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    training = RewardTraining(learning_rate=1e-2, epochs=1, batch_size=8, micro_batch_size=8)
    trained = train_reward_model(
        folder,
        pairs(8),
        output_dir=tmp_path / "rewards",
        held_out=pairs(4),
        lora=lora_config(),
        merge=False,
        training=training,
        device="cpu",
    )
    with playing(monkeypatch):
        backbone = load_backbone(folder)
        nn.Module.to(backbone, torch.device(first))
        scorer = RewardModel.from_pretrained(trained.path, backbone=backbone)
        envs = make_envs(reward=Reward(scorer, rule_of("uniform")))
        kwargs = {"model": backbone, "lora": lora_config()}
        PPO("CausalLMPolicy", envs, policy_kwargs=kwargs, seed=0, device="cuda:1").learn(8)
