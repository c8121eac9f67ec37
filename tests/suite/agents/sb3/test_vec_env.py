"""Stock Stable-Baselines3 on our batches: its conventions, checked against its own DummyVecEnv."""

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.support.agents.vec_env import SETTINGS, single
from tokengym.agents.sb3 import GymVecEnv, NoEnvironment, as_vec_env
from tokengym.envs import PadTokenRewards

MODES = ("NextStep", "SameStep", "Disabled")


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(value[key]) for key in sorted(value)}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def trace(envs: Any, steps: int = 40) -> list[Any]:
    """Drive a VecEnv with fixed random actions and return all that it says."""
    rng = np.random.default_rng(0)
    envs.seed(5)
    seen = [plain(envs.reset()), plain(dict(enumerate(envs.reset_infos)))]
    for _ in range(steps):
        seen.append(plain(get_action_masks(envs)))
        observation, rewards, dones, infos = envs.step(rng.integers(0, 8, size=envs.num_envs))
        seen += [plain(observation), plain(rewards), plain(dones)]
        seen += [plain(info) for info in infos]
        seen += [plain(envs.reset_infos[row]) for row in np.flatnonzero(dones)]
    return seen


@pytest.mark.parametrize("horizon", ["terminated", "truncated"])
@pytest.mark.parametrize("mode", MODES)
def test_it_says_what_sb3_s_own_vec_env_says(make_envs, tokenizer, mode, horizon):
    expected = trace(DummyVecEnv([lambda: single(tokenizer, horizon=horizon)] * 3))
    assert any("terminal_observation" in item for item in expected if isinstance(item, dict))
    native = make_envs(num_envs=3, autoreset_mode=mode, horizon=horizon, **SETTINGS)
    assert trace(as_vec_env(native)) == expected
    copies = [lambda: PadTokenRewards(single(tokenizer, horizon=horizon))] * 3
    assert trace(as_vec_env(SyncVectorEnv(copies, autoreset_mode=mode))) == expected


def test_a_vec_env_stays_itself_and_an_env_becomes_one(tokenizer):
    envs = DummyVecEnv([lambda: single(tokenizer)])
    assert as_vec_env(envs) is envs
    assert as_vec_env(single(tokenizer)).num_envs == 1
    with pytest.raises(TypeError, match=r"envs.*gym.make_vec"):
        as_vec_env(3)  # type: ignore[arg-type]


def test_maskable_ppo_never_takes_a_forbidden_token(make_envs):
    envs = as_vec_env(make_envs(forbidden_token_ids=(0, 2, 7), min_new_tokens=2))
    assert is_masking_supported(envs)
    agent = MaskablePPO("MultiInputPolicy", envs, n_steps=8, batch_size=16, n_epochs=1, seed=0)
    agent.learn(64)
    observation: Any = envs.reset()
    for _ in range(30):
        actions, _ = agent.predict(observation, action_masks=get_action_masks(envs))
        assert not np.isin(actions, (0, 2, 7)).any()
        observation = envs.step(actions)[0]


def test_attributes_and_methods_reach_the_environments(make_envs, tokenizer):
    native = GymVecEnv(make_envs())
    assert native.get_attr("max_new_tokens") == [6] * 4
    assert native.has_attr("tokenizer")
    assert not native.has_attr("nothing_of_the_kind")
    with pytest.raises(ValueError, match=r"'note', got indices=\[1\]"):
        native.set_attr("note", 1, indices=[1])
    native.set_attr("note", 1)
    assert native.get_attr("note", indices=0) == [1]
    assert native.env_is_wrapped(Monitor) == [False] * 4

    copies = GymVecEnv(SyncVectorEnv([lambda: Monitor(single(tokenizer))] * 2))
    assert copies.env_is_wrapped(Monitor) == [True, True]
    copies.set_attr("note", 7, indices=[1])
    assert copies.get_attr("note", indices=[1]) == [7]
    copies.reset()
    assert copies.env_method("action_masks", indices=[0])[0].shape == (8,)
    copies.close()


def test_no_environment_has_a_shape_and_nothing_else():
    envs = NoEnvironment(num_envs=2, num_tokens=8, length=5)
    assert envs.observation_space["input_ids"].shape == (5,)  # type: ignore[index]
    assert envs.action_space.n == 8  # type: ignore[attr-defined]
    assert envs.get_attr("tokenizer") == [None, None]  # the agent's, where it is known
    assert not envs.has_attr("max_new_tokens")
    with pytest.raises(ValueError, match="give it set_env"):
        envs.step(np.zeros(2))
