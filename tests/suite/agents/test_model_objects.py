"""A model object stays as it is: what learns is a copy, so that two trainings begin alike."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification

import tokengym
from tests.support.agents.common import lora_config, make_model, single_env
from tests.support.agents.model_objects import PAIRS
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import DPO, PPO, SFT, ModelError
from tokengym.agents.sb3 import as_vec_env
from tokengym.rewards import RewardModel

TEXTS = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in PAIRS]
HOW: Any = {"learning_rate": 1e-2, "max_steps": 2, "per_device_train_batch_size": 2}


def by_ppo(model: Any, **settings: Any) -> Any:
    kwargs = {"model": model, **settings}
    agent = PPO("CausalLMPolicy", as_vec_env(single_env()), policy_kwargs=kwargs, seed=0)
    return agent.learn(12)


def by_dpo(model: Any, **settings: Any) -> Any:
    agent = DPO(model, PAIRS, tokenizer=make_tokenizer(), **HOW, **settings)
    agent.train()
    return agent


def by_sft(model: Any, **settings: Any) -> Any:
    agent = SFT(model, TEXTS, tokenizer=make_tokenizer(), **HOW, **settings)
    agent.train()
    return agent


LEARNERS = {"ppo": by_ppo, "dpo": by_dpo, "sft": by_sft}


def state(model: nn.Module) -> dict[str, tuple[torch.Tensor, bool]]:
    """Return copies of a model's weights by name, and whether each learns."""
    return {n: (w.detach().clone(), w.requires_grad) for n, w in model.named_parameters()}


def equal(left: Any, right: Any) -> bool:
    return left.keys() == right.keys() and all(
        left[name][0].equal(right[name][0]) and left[name][1] == right[name][1] for name in left
    )


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("shape", ["gpt2", "llama"])
@pytest.mark.parametrize("adapts", [False, True])
def test_two_trainings_from_one_object_are_one(learner, shape, adapts, caplog):
    model = make_model(shape)
    model.train()
    before, config = state(model), model.config.to_dict()
    kinds = [type(module) for module in model.modules()]
    settings = {"lora": lora_config(shape)} if adapts else {}
    agents = [LEARNERS[learner](model, **copy.deepcopy(settings)) for _ in range(2)]
    first, second = (state(agent.policy.language_model) for agent in agents)
    assert equal(first, second)
    if adapts:  # they start at 0
        assert any(weight.any() for name, (weight, _) in first.items() if "lora_B" in name)
    else:
        assert any(
            not first[f"model.{name}"][0].equal(weight) for name, (weight, _) in before.items()
        )
    assert equal(before, state(model))
    assert config == model.config.to_dict()
    assert kinds == [type(module) for module in model.modules()]
    assert model.training
    said = [each for each in caplog.messages if "a copy of the model object learns" in each]
    assert len(said) == 2  # one a training


def test_adapters_take_the_memory_of_the_object():
    model = make_model("llama")
    agent = by_ppo(model, lora=lora_config("llama"))
    of_policy = {weight.data_ptr() for weight in agent.policy.language_model.parameters()}
    assert of_policy >= {weight.data_ptr() for weight in model.parameters()}


def test_a_peft_model_is_not_moved_either(caplog):
    adapted: Any = get_peft_model(make_model("llama"), lora_config("llama"))
    before = state(adapted)
    first, second = (state(by_dpo(adapted).policy.language_model) for _ in range(2))
    assert equal(first, second)
    assert equal(before, state(adapted))
    assert sum("merged into a copy" in each for each in caplog.messages) == 2


def test_what_learns_is_in_the_copy_of_a_loaded_agent_too(tmp_path, caplog):
    agent = by_ppo(make_model())
    agent.save(tmp_path / "agent")
    caplog.clear()
    again = PPO.load(tmp_path / "agent", env=as_vec_env(single_env()), device="cpu")
    again.learn(12)
    # What was read from the folder is nobody else's, and is trained itself.
    assert not [each for each in caplog.messages if "copy" in each]


@pytest.mark.parametrize("lora", [False, True])
def test_the_same_object_as_reference_is_where_training_starts(lora):
    model = make_model()
    settings = {"lora": lora_config()} if lora else {}
    plain = by_dpo(model, **copy.deepcopy(settings))
    named = by_dpo(model, ref_model=model, **copy.deepcopy(settings))
    assert equal(*(state(one.policy.language_model) for one in (plain, named)))
    assert (named.policy.reference is None) == lora


def test_another_object_as_reference_stays_as_it_is():
    model, reference = make_model(), make_model(seed=1)
    before = state(reference)
    agent = by_dpo(model, ref_model=reference)
    assert equal(before, state(reference))
    assert agent.policy.reference is not None
    held = {w.data_ptr() for w in agent.policy.reference.parameters()}
    assert held == {w.data_ptr() for w in reference.parameters()}
    assert not any(w.requires_grad for w in agent.policy.reference.parameters())


def test_a_trunk_that_a_judge_has_frozen_is_refused_without_adapters(tmp_path):
    base = tmp_path / "base"
    model = make_model("llama")  # its head is untied, and would learn alone
    model.save_pretrained(base)
    judge: Any = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"])
    get_peft_model(judge, config).save_pretrained(tmp_path / "judge")
    make_tokenizer().save_pretrained(tmp_path / "judge")
    RewardModel.from_pretrained(tmp_path / "judge", backbone=model)
    kwargs: Any = {"model": model}
    with pytest.raises(ModelError, match=r"all but its head, is frozen.*lora=LoraConfig"):
        PPO("CausalLMPolicy", as_vec_env(single_env()), policy_kwargs=kwargs)
    with pytest.raises(ModelError, match="all but its head"):
        DPO(model, PAIRS, tokenizer=make_tokenizer())
    agent = PPO(
        "CausalLMPolicy",
        as_vec_env(single_env()),
        policy_kwargs={**kwargs, "lora": lora_config("llama")},
    )
    assert all("lora_" in name for name in agent.policy.learned if "language_model" in name)


@pytest.mark.parametrize("name", ["model", "reward_model", "encoder"])
def test_a_comparison_refuses_an_object_before_its_runs(name, tmp_path):
    given: Any = {name: make_model()}
    with pytest.raises(TypeError, match=rf"^{name} must be a folder.*GPT2LMHeadModel.*save_pret"):
        tokengym.compare(
            "TokenGeneration",
            rewards=["sparse"],
            out=tmp_path / "c",
            **given,
        )
    assert not (tmp_path / "c").exists()
