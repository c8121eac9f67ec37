"""Environments are copied and sent to other processes, with every kind of normalisation."""

import copy
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import tokengym  # noqa: F401  (registers the ids)

COPIES: dict[str, Any] = {
    "copied": copy.deepcopy,
    "pickled": lambda envs: pickle.loads(pickle.dumps(envs)),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize(
    "normalize", [None, "batch", "running", "running:window=4", "batch:scale=false"]
)
def test_a_copy_plays_on_as_the_original_does(how, normalize):
    envs = gym.make_vec(
        "tokengym/MovieReview-v0",
        num_envs=2,
        reward="sparse",
        normalize=normalize,
        max_new_tokens=3,
    )
    envs.reset(seed=3)

    def play(one: Any) -> list[list[float]]:
        tokens = np.array([[7, 9], [30, 41], [12, 12], [7, 9], [50, 60], [61, 62], [5, 6]])
        return [one.step(actions)[1].tolist() for actions in tokens]

    play(envs)  # which moves running statistics
    again = COPIES[how](envs)
    paid = play(envs)
    assert np.any(paid)
    assert play(again) == paid
