"""Faults seen in other text environments, one regression test each, single and batched."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

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
    drawn = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        for build in (make_env, make_envs):
            for sampling in ("uniform", "epoch", "sequential"):
                before = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
                env = build(prompt_sampling=sampling)
                drawn.append(np.asarray(env.reset(seed=7)[1]["prompt_id"]).tolist())
                env.action_space.seed(7)
                env.step(env.action_space.sample())
                env.reset()
                after = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
                assert (before[:2], before[2].tolist()) == (after[:2], after[2].tolist())
    assert drawn[:6] == drawn[6:]
