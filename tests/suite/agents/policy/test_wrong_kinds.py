"""Settings of a learner and its policy of another kind than the accepted ones."""

import gymnasium
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
            r"lora.*got {'r': 4}.*lora=LoraConfig",
        ),
        ("lora", True, r"lora.*got True"),
        ("dtype", torch.bfloat16, r"dtype.*got torch\.bfloat16"),
        ("dtype", ["float32"], r"dtype.*got \['float32'\]"),
        ("frozen_layers", None, "frozen_layers.*>= 0.*got None"),
        ("frozen_layers", "1", "frozen_layers.*>= 0.*got '1'"),
        ("gradient_checkpointing", "no", "gradient_checkpointing.*got 'no'"),
    ],
)
def test_policy_setting_of_another_kind(make_envs, name, value, message):
    kwargs = {"model": make_model(), name: value}
    with pytest.raises(ValueError, match=message):
        PPO("CausalLMPolicy", make_envs(), policy_kwargs=kwargs, device="cpu")


@pytest.mark.parametrize(
    "name", ["learning_rate", "clip_range", "clip_range_vf", "ent_coef", "kl_coef", "gamma"]
)
def test_numpy_numbers_are_numbers(make_ppo, name):
    """As a sweep over ``np.linspace`` passes them."""
    made = make_ppo(**{name: np.float64(0.5)})
    made.learn(made.n_envs)
    assert getattr(made.settings, name) == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy_kwargs": "smollm2"}, "policy_kwargs.*got 'smollm2'"),
        ({"seed": -1}, "seed.*>= 0.*got -1"),
        ({"seed": "x"}, "seed.*>= 0.*got 'x'"),
    ],
)
def test_argument_of_another_kind(make_envs, arguments, message):
    with pytest.raises(ValueError, match=message):
        PPO("CausalLMPolicy", make_envs(), device="cpu", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_timesteps": float("inf")}, "total_timesteps.*got inf"),
        ({"log_interval": 0}, "log_interval.*>= 1, got 0"),
        ({"log_interval": "x"}, "log_interval.*>= 1, got 'x'"),
    ],
)
def test_argument_of_learn_of_another_kind(make_ppo, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_ppo().learn(**{"total_timesteps": 4, **arguments})


def test_what_is_no_observation_is_named(make_ppo):
    made = make_ppo()
    with pytest.raises(ValueError, match=r"predict.*got array\(\[0"):
        made.predict(np.zeros(3))
    with pytest.raises(ValueError, match=r"attention_mask, got \{'input_ids'"):
        made.predict({"input_ids": np.zeros((2, 3), dtype=np.int64)})


def test_an_environment_that_does_not_fit_is_named(make_ppo, make_envs, tmp_path):
    made = make_ppo()
    made.save(tmp_path / "agent")
    other = gymnasium.make_vec("CartPole-v1", num_envs=2)
    with pytest.raises(ValueError, match=r"texts.*Box"):
        PPO.load(tmp_path / "agent", env=other)
    with pytest.raises(ValueError, match=r"\(3 != 4\)"):
        made.set_env(make_envs(num_envs=3))
