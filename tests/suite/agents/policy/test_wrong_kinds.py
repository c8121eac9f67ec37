"""Settings of a learner and its policy of another kind than the accepted ones."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.suite.agents.conftest import make_model
from tokengym.agents import PPO


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "lora",
            {"r": 4},
            r"lora must be a peft.LoraConfig or None, got {'r': 4}; write lora=Lora",
        ),
        ("lora", True, r"lora must be a peft.LoraConfig or None, got True"),
        ("dtype", torch.bfloat16, r"dtype must be .* got torch.bfloat16"),
        ("dtype", ["float32"], r"dtype must be .* got \['float32'\]"),
        ("frozen_layers", None, r"frozen_layers must be >= 0, .* got None; pass a number"),
        ("frozen_layers", "1", r"frozen_layers must be >= 0, .* got '1'; pass a number"),
        ("gradient_checkpointing", "no", r"gradient_checkpointing must be True or False, got 'no'"),
        ("has_critic", False, r"has_critic=False in policy_kwargs has no effect, .* leave it out"),
    ],
)
def test_policy_setting_of_another_kind(
    make_envs: Callable[..., Any], name: str, value: Any, message: str
) -> None:
    kwargs = {"model": make_model(), name: value}
    with pytest.raises(ValueError, match=message):
        PPO("CausalLMPolicy", make_envs(), policy_kwargs=kwargs, device="cpu")


@pytest.mark.parametrize(
    "name", ["learning_rate", "clip_range", "clip_range_vf", "ent_coef", "kl_coef", "gamma"]
)
def test_numpy_numbers_are_numbers(make_ppo: Callable[..., PPO], name: str) -> None:
    """As a sweep over ``np.linspace`` passes them."""
    made = make_ppo(**{name: np.float64(0.5)})
    made.learn(made.n_envs)
    assert getattr(made.settings, name) == 0.5
