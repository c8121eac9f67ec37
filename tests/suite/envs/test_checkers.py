"""The official checkers and Gymnasium's own wrappers on the raw environments."""

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from tokengym.envs import (
    PadTokenRewards,
    Prompt,
    PromptError,
    TokenGenerationEnv,
)

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "legality": {"min_new_tokens": 2, "forbidden_token_ids": (4,), "stop_strings": ("c",)},
    "truncated": {"horizon": "truncated", "prompt_sampling": "epoch"},
}


@pytest.fixture
def registered(tokenizer: Any) -> Any:
    """Register the raw environment for the time of a test, so that it has a spec."""
    id = "tokengym-tests/Raw-v0"
    gymnasium.register(
        id=id,
        entry_point="tokengym.envs:TokenGenerationEnv",
        vector_entry_point="tokengym.envs:TokenGenerationVectorEnv",
        kwargs={"tokenizer": tokenizer, "prompts": ["a b", "c"], "max_new_tokens": 4},
    )
    yield id
    del gymnasium.registry[id]


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("check", [check_env, sb3_check_env])
def test_official_checkers(registered, check, name, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(gymnasium.make(registered, **SETTINGS[name]).unwrapped)


@pytest.mark.parametrize("render_mode", ["ansi", "human", "html"])
def test_checkers_render(registered, render_mode, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(registered, render_mode=render_mode).unwrapped
        check_env(env)
        sb3_check_env(env, skip_render_check=False)


def test_torch_single(make_env):
    env = gymnasium.wrappers.NumpyToTorch(make_env())
    observation, info = env.reset(seed=0, options={"prompt": Prompt("a b")})
    assert observation["input_ids"].dtype == torch.int64
    assert (info["prompt"], info["action_mask"].tolist()) == ("a b", [1] * 8)
    info["action_mask"][:] = 0
    env.step(torch.tensor(3))
    observation, reward, terminated, _, info = env.step(torch.tensor(1))
    assert (reward, terminated) == (0.0, True)
    assert (info["response"], info["finish_reason"]) == ("a", "eos")
    assert info["action_mask"].tolist() == [1] * 8
    assert info["token_rewards"].dtype == torch.float32
    assert env.reset(options={"prompt_id": 1})[1]["prompt"] == "c"
    with pytest.raises(PromptError, match=r"unreadable.*tokengym\.envs\.Prompt"):
        env.reset(options={"prompt": "a b"})


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_torch_batch(mode, make_envs):
    envs = gymnasium.wrappers.vector.NumpyToTorch(make_envs(autoreset_mode=mode))
    observations, infos = envs.reset(seed=0, options={"prompt": Prompt("c")})
    assert observations["input_ids"].shape == (3, 7)
    assert infos["prompt"].tolist() == ["c"] * 3
    infos["action_mask"][:] = 0  # the environment's own mask is not touched
    observations, rewards, terminated, _, infos = envs.step(torch.tensor([3, 1, 1]))
    assert isinstance(rewards, torch.Tensor)
    assert terminated.tolist() == [False, True, True]
    ended = infos.get("final_info", infos)
    assert ended["response_ids"].tolist() == [None, (1,), (1,)]
    assert ended["_response_ids"].tolist() == [False, True, True]
    assert ended["token_rewards"].dtype == torch.float32
    assert infos["action_mask"].tolist() == [[1] * 8] * 3
    prompts = [Prompt("e"), make_envs().find_prompt([3, 4]), Prompt("c")]
    for options in ({"prompts": prompts}, {"prompt_ids": [4, 0, 1]}):
        assert envs.reset(options=options)[1]["prompt"].tolist() == ["e", "a b", "c"]
    assert len(set(make_envs().reset(options={"group_size": 3})[1]["prompt_id"].tolist())) == 1


def test_async_copies_play_the_same_episodes(tokenizer, make_envs):
    def build() -> Any:
        return PadTokenRewards(
            TokenGenerationEnv(tokenizer=tokenizer, prompts=["a b", "c"], max_new_tokens=4)
        )

    envs = make_envs(num_envs=2, prompts=["a b", "c"])
    asynchronous = AsyncVectorEnv([build, build], context="spawn")
    try:
        assert data_equivalence(envs.reset(seed=3)[0], asynchronous.reset(seed=3)[0])
        for actions in ([3, 1], [4, 5], [1, 1]):
            left, right = envs.step(np.array(actions)), asynchronous.step(np.array(actions))
            assert data_equivalence(left[0], right[0])
            assert left[2].tolist() == right[2].tolist()
    finally:
        asynchronous.close()
