"""A stock agent that never sees token rewards is told so once."""

import re
from typing import Any

import gymnasium as gym
import pytest
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import DQN
from stable_baselines3 import PPO as STOCK
from stable_baselines3.common.vec_env import DummyVecEnv

from tokengym.agents import HindsightReplayBuffer, HindsightRolloutBuffer
from tokengym.agents.sb3 import TokenFeatures, as_vec_env
from tokengym.rewards import stock

ID = "tokengym/MovieReview-v0"
READS: Any = {"features_extractor_class": TokenFeatures}
TOKENS = "never sees the token rewards"


@pytest.fixture(autouse=True)
def untold() -> None:
    stock._say_buffer.cache_clear()


def learn(kind: Any, env: Any, **settings: Any) -> None:
    sizes = {"n_steps": 8, "batch_size": 8} if kind is STOCK else {"buffer_size": 64}
    agent = kind("MultiInputPolicy", env, device="cpu", seed=0, **sizes | settings)
    for _ in range(2):
        agent.learn(16, reset_num_timesteps=False)


def batch(reward: str) -> Any:
    return as_vec_env(gym.make_vec(ID, num_envs=2, reward=reward, max_new_tokens=4))


ENVS: dict[str, Any] = {
    "one": lambda reward: gym.make(ID, reward=reward, max_new_tokens=4),
    "rows": lambda reward: DummyVecEnv(
        [lambda: gym.make(ID, reward=reward, max_new_tokens=4) for _ in range(2)]
    ),
    "batch": batch,
}


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize(
    ("kind", "reward", "is_told"),
    [(STOCK, "uniform", True), (STOCK, "sparse", False), (DQN, "uniform", True)],
)
def test_what_a_stock_agent_misses_is_said_once(caplog, env, kind, reward, is_told):
    learn(kind, ENVS[env](reward), policy_kwargs=READS)
    said = [record.getMessage() for record in caplog.records]
    assert sum(TOKENS in one for one in said) == is_told
    assert any("HindsightR" in one for one in said) == is_told


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (STOCK, {"rollout_buffer_class": HindsightRolloutBuffer}),
        (DQN, {"replay_buffer_class": HindsightReplayBuffer}),
    ],
)
@pytest.mark.parametrize("env", ENVS)
def test_an_agent_with_our_buffer_is_told_nothing(caplog, env, kind, settings):
    learn(kind, ENVS[env]("uniform"), policy_kwargs=READS, **settings)
    assert TOKENS not in caplog.text


@pytest.mark.parametrize(
    ("kind", "policy", "remedy"),
    [
        (MaskablePPO, "MultiInputPolicy", "pass rollout_buffer_class=.*Hindsight.*or take"),
        (RecurrentPPO, "MultiInputLstmPolicy", "uniform; take tokengym.PPO"),  # it takes no other
    ],
)
def test_sb3_contribs_buffers_are_none_of_ours(caplog, kind, policy, remedy):
    sizes: Any = {"n_steps": 8, "batch_size": 8, "policy_kwargs": READS, "device": "cpu"}
    kind(policy, batch("uniform"), **sizes).learn(16)
    (said,) = (one.getMessage() for one in caplog.records if TOKENS in one.getMessage())
    assert re.search(remedy, said)
