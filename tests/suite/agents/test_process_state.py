"""What a process's torch is set to is in no number, or is refused in one line before work."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.support.agents.common import lora_config, make_model, single_env
from tests.support.agents.model_objects import PAIRS
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import DPO, PPO
from tokengym.agents.rollouts.playing import collect
from tokengym.agents.sb3 import as_vec_env
from tokengym.envs import SettingsError


@pytest.fixture(autouse=True)
def default_dtype() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


def made() -> PreTrainedModel:
    """Return a model of float32, whatever the process makes, as a file of one would be."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    model = make_model()
    torch.set_default_dtype(default)
    return model


def by_ppo(**settings: Any) -> dict[str, Any]:
    """Return an agent's weights after two updates, and the tokens that it then plays."""
    kwargs = {"model": made(), **settings.pop("kwargs", {})}
    envs = as_vec_env(single_env())
    agent = PPO("CausalLMPolicy", envs, policy_kwargs=kwargs, seed=0, **settings).learn(12)
    played = collect(agent, single_env(), 2, seed=1)
    return {**agent.policy.state_dict(), "played": [episode.response_ids for episode in played]}


def by_dpo() -> dict[str, Any]:
    how: Any = {"learning_rate": 1e-2, "max_steps": 2, "lora": lora_config()}
    agent = DPO(made(), PAIRS, tokenizer=make_tokenizer(), **how)
    agent.train()
    return dict(agent.policy.state_dict())


TRAININGS: dict[str, Any] = {
    "ppo": by_ppo,
    "adapters": lambda: by_ppo(kwargs={"lora": lora_config()}),
    "every term": partial(by_ppo, kl_estimator="exact", ent_coef=0.01, loss_mean="sequence"),
    "constant": partial(by_ppo, loss_mean="constant", advantage="reinforce++"),
    "dpo": by_dpo,
}


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_is_in_no_number(training, dtype):
    expected = TRAININGS[training]()
    torch.set_default_dtype(dtype)
    found = TRAININGS[training]()
    assert torch.get_default_dtype() == dtype
    assert found.pop("played", None) == expected.pop("played", None)
    for name, weight in expected.items():
        assert weight.dtype == found[name].dtype, name
        assert weight.equal(found[name]), name


STATES: dict[str, tuple[Any, str]] = {
    "inference": (torch.inference_mode, "inference_mode"),
    "no grad": (torch.no_grad, "gradients are off"),
    "grad off": (lambda: torch.set_grad_enabled(False), "gradients are off"),
    "autocast": (lambda: torch.autocast("cpu", torch.bfloat16), "autocast.*bf16-mixed"),
}


@pytest.mark.parametrize("training", ["ppo", "dpo"])
@pytest.mark.parametrize("state", STATES)
def test_a_context_that_takes_gradients_is_refused_in_one_line(training, state):
    enter, match = STATES[state]
    context: AbstractContextManager[Any] = enter()
    with context, pytest.raises(SettingsError, match=rf"^an agent cannot learn .*{match}"):
        TRAININGS[training]()
    assert torch.is_grad_enabled()


def test_weights_that_were_made_for_inference_are_refused():
    with torch.inference_mode():
        envs = as_vec_env(single_env())
        agent = PPO("CausalLMPolicy", envs, policy_kwargs={"model": make_model()}, seed=0)
    with pytest.raises(SettingsError, match="made within"):
        agent.learn(6)
