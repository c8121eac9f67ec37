"""Faults seen in other text environments, one regression test each, single and batched."""

import random
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from tokengym.envs import PadTokenRewards, SettingsError, episodes_from_infos

PAD, EOS, UNK, A, B, C, D, E = range(8)
Make = Callable[..., Any]


@pytest.mark.parametrize("horizon", ["terminated", "truncated"])
@pytest.mark.parametrize("last", [EOS, A, C], ids=["eos", "length", "stop"])
def test_terminated_and_truncated_are_never_set_together(make_env, make_envs, horizon, last):
    """EOS or a stop string in the last column is an end, and not also a cut."""
    cut = horizon == "truncated" and last == A
    settings = {"horizon": horizon, "max_new_tokens": 2, "stop_strings": ["c"]}
    env = make_env(**settings)
    env.reset()
    env.step(B)
    assert env.step(last)[2:4] == (not cut, cut)
    for mode in AutoresetMode:
        envs = make_envs(autoreset_mode=mode, **settings)
        envs.reset()
        envs.step(np.full(3, B))
        flags = [flag.tolist() for flag in envs.step(np.full(3, last))[2:4]]
        assert flags == [[not cut] * 3, [cut] * 3]


def test_a_seed_stays_in_the_environment(make_env, make_envs):
    def global_state() -> list[Any]:
        return [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = global_state()
    drawn = []
    for build in (make_env, make_envs):
        for sampling in ("uniform", "epoch", "sequential"):
            env = build(prompt_sampling=sampling)
            drawn.append(np.asarray(env.reset(seed=7)[1]["prompt_id"]).tolist())
            env.action_space.seed(7)
            env.step(env.action_space.sample())
            env.reset()
    assert global_state() == before
    random.seed(2)
    np.random.seed(2)
    torch.manual_seed(2)
    again = [
        np.asarray(build(prompt_sampling=sampling).reset(seed=7)[1]["prompt_id"]).tolist()
        for build in (make_env, make_envs)
        for sampling in ("uniform", "epoch", "sequential")
    ]
    assert again == drawn


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_last_observation_survives_autoreset(make_envs, mode):
    envs = make_envs(autoreset_mode=mode)
    envs.reset(options={"prompt": "a b"})
    observations, *_, infos = envs.step(np.array([EOS, A, A]))
    ended = observations["input_ids"][0]
    if mode is AutoresetMode.SAME_STEP:
        ended = infos["final_obs"][0]["input_ids"]
    kept = [PAD, A, B, EOS, PAD, PAD, PAD]
    assert ended.tolist() == kept
    assert episodes_from_infos(infos)[0].response_ids == (EOS,)
    if mode is not AutoresetMode.DISABLED:
        envs.step(np.array([A, A, A]))
        assert ended.tolist() == kept  # the next episode does not write over it


def test_wrappers_show_what_the_environment_holds(make_env, make_envs):
    """Nothing is copied into a wrapper that could go stale there, or be set there in vain."""
    base = make_env(min_new_tokens=1)
    env = gymnasium.wrappers.RecordEpisodeStatistics(PadTokenRewards(base))
    env.reset(seed=3)
    masks = env.get_wrapper_attr("action_masks")
    assert not masks()[EOS]
    env.step(A)
    state = env.get_wrapper_attr("get_state")()
    assert masks()[EOS]
    env.reset(seed=4)
    assert (masks()[EOS], env.unwrapped.np_random_seed) == (False, 4)
    base.set_state(state)
    assert (masks()[EOS], env.unwrapped.np_random_seed) == (True, 3)
    for name in ("max_new_tokens", "max_prompt_tokens", "tokenizer", "prompts", "settings"):
        assert env.get_wrapper_attr(name) is getattr(base, name)
        with pytest.raises(AttributeError):
            env.set_wrapper_attr(name, None)
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(make_envs())
    for name in ("max_new_tokens", "tokenizer", "prompts"):
        with pytest.raises(AttributeError):
            setattr(envs.unwrapped, name, None)


@pytest.mark.parametrize("which", ["make_env", "make_envs"])
def test_misspelt_options_are_refused(which, request):
    build = request.getfixturevalue(which)
    with pytest.raises(TypeError, match=r"'max_new_token'.*max_new_tokens"):
        build(max_new_token=3)
    env = build()
    with pytest.raises(SettingsError, match=r"reset.*'promptid'"):
        env.reset(options={"promptid": 3})
    with pytest.raises(TypeError, match="argument 'sead'"):
        env.reset(sead=3)
