"""What a policy, its settings and its models refuse, each by the name of what is wrong."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.support.agents.common import lora_config, make_model
from tokengym.agents import PPO, ModelError
from tokengym.agents.policy.language_model import CausalLM
from tokengym.agents.policy.settings import PolicySettings
from tokengym.base.errors import SettingsError
from tokengym.envs import TokenizerError


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 0.0}, "temperature.*> 0, got 0.0"),
        ({"top_k": -1}, "top_k.*>= 0, got -1"),
        ({"top_p": 0.0}, r"top_p.*\(0, 1\], got 0.0"),
        ({"dtype": torch.bfloat16}, r"dtype.*got torch\.bfloat16"),
        ({"dtype": ["float32"]}, r"dtype.*got \['float32'\]"),
        ({"frozen_layers": None}, "frozen_layers.*>= 0.*got None"),
        ({"frozen_layers": -1}, "frozen_layers.*>= 0.*got -1"),
        ({"frozen_layers": 1, "lora": lora_config()}, "frozen_layers.*lora.*got 1|got 1.*lora"),
        ({"gradient_checkpointing": "no"}, "gradient_checkpointing.*got 'no'"),
        ({"products": "mkl"}, "products.*'torch'.*'onednn'"),
        ({"products": "onednn", "dtype": "bfloat16"}, "products='onednn'.*dtype='bfloat16'"),
        ({"products": "onednn", "precision": "bf16-mixed"}, "products='onednn'.*'bf16-mixed'"),
    ],
)
def test_settings(settings, words):
    with pytest.raises(SettingsError, match=words):
        PolicySettings(**settings)


def gpt2(kind: Any = GPT2LMHeadModel, **sizes: int) -> Any:
    """Return a GPT-2 of a few weights."""
    usual: Any = {"vocab_size": 8, "n_embd": 8, "n_layer": 1, "n_head": 1}
    return kind(GPT2Config(**usual | sizes))


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"model": gpt2(vocab_size=5)}, TokenizerError, "5 tokens.*tokenizer 8"),
        ({"model": gpt2(n_positions=9)}, ModelError, r"9 tokens.*10"),
        ({"model": gpt2(GPT2Model)}, ModelError, "GPT2Model.*head"),
        ({"model": torch.nn.Linear(2, 2)}, TypeError, "model must"),
        ({"model": make_model(), "has_critic": False}, ValueError, "has_critic=False"),
        ({}, ModelError, r"policy_kwargs=dict\(model="),
        ({"model": make_model(), "frozen_layers": 2}, ModelError, "2 blocks.*got 2"),
        ({"model": make_model(), "lora": {"r": 4}}, ModelError, "lora.*{'r': 4}.*LoraConfig"),
        ({"model": make_model(), "lora": True}, ModelError, "lora.*got True"),
        ("smollm2", ValueError, "policy_kwargs.*got 'smollm2'"),
    ],
)
def test_models_and_how_they_are_taken(make_envs, kwargs, error, words):
    with pytest.raises(error, match=words):
        PPO("CausalLMPolicy", make_envs(), policy_kwargs=kwargs, device="cpu")


@pytest.mark.parametrize("name", ["transformer.wte.weight", "transformer.h.0.mlp.c_fc.weight"])
def test_a_weight_that_is_not_finite_is_named(name):
    model = gpt2()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1] = float("nan")
    with pytest.raises(ModelError, match=f"weight {name} of GPT2LMHeadModel is not finite"):
        CausalLM(model)


def test_models_that_make_logits_in_another_way():
    encodes = T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    with pytest.raises(ModelError, match=r"T5For.*encoder"):
        CausalLM(T5ForConditionalGeneration(encodes))
    model, forward = make_model(), GPT2LMHeadModel.forward

    def doubled(*inputs: Any, **named: Any) -> Any:
        output = forward(model, *inputs, **named)
        output.logits = 2.0 * output.logits
        return output

    model.forward = doubled
    with pytest.raises(ModelError, match="after the head"):
        CausalLM(model)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"total_timesteps": float("inf")}, "total_timesteps.*got inf"),
        ({"log_interval": 0}, "log_interval.*>= 1, got 0"),
        ({"callback": "x"}, "callback.*BaseCallback.*got 'x'"),
    ],
)
def test_arguments_of_learn(make_ppo, arguments, words):
    with pytest.raises(ValueError, match=words):
        make_ppo().learn(**{"total_timesteps": 4, **arguments})


def test_seeds_observations_and_environments(make_ppo, make_envs, tmp_path):
    with pytest.raises(ValueError, match=r"seed.*>= 0.*got -1"):
        PPO("CausalLMPolicy", make_envs(), device="cpu", seed=-1)
    made = make_ppo()
    with pytest.raises(ValueError, match=r"attention_mask, got \{'input_ids'"):
        made.predict({"input_ids": np.zeros((2, 3), dtype=np.int64)})
    made.save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"texts.*Box"):
        PPO.load(tmp_path / "agent", env=gymnasium.make_vec("CartPole-v1", num_envs=2))
    with pytest.raises(ValueError, match=r"with 4 rows, the environment has 3; .* num_envs=4"):
        made.set_env(make_envs(num_envs=3))
    new_tokens = made.env.get_attr("max_new_tokens")[0]
    longer = make_envs(num_envs=3, max_new_tokens=new_tokens + 2)
    with pytest.raises(ValueError, match="num_envs=4 and max_new_tokens=") as caught:
        PPO.load(tmp_path / "agent", env=longer)
    said = str(caught.value)
    assert f"make it with num_envs=4 and max_new_tokens={new_tokens}, where prompt and" in said
    starts = f"policy_kwargs=dict(model={str(tmp_path / 'agent')!r}) of a new agent starts from"
    assert starts in said
