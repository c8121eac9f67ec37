"""RLlib, which pins an older Gymnasium, trains on an environment."""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import ray
from gymnasium.wrappers import DtypeObservation, FilterObservation, FlattenObservation
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env

import tokengym  # noqa: F401  (registers the ids)

WIDTH, BATCH = 4, 32


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    yield
    ray.shutdown()


def made(_: Any) -> gym.Env:
    """Return an environment as RLlib takes it: flat and of float32."""
    env = gym.make("tokengym/MovieReview-v0", reward="abc", max_new_tokens=WIDTH)
    flat: gym.Env = FlattenObservation(FilterObservation(env, ["input_ids"]))
    return DtypeObservation(flat, np.float32)


def test_its_ppo_trains_on_whole_episodes() -> None:
    register_env("reviews", made)
    config = PPOConfig().environment("reviews").env_runners(num_env_runners=0)
    config = config.training(train_batch_size=BATCH, minibatch_size=BATCH // 2, num_epochs=1)
    played = config.build_algo().train()["env_runners"]
    assert played["num_env_steps_sampled"] == BATCH
    assert played["num_episodes"] >= BATCH // WIDTH
    assert np.isfinite(played["episode_return_mean"])
