"""Environments are copied and sent to other processes, with every normalisation and rule."""

import copy
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import tokengym
from tokengym.rewards.credits.words import SHIPPED

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


@tokengym.token_credit(gae_lambda=lambda beta: 0.25 * beta)
def of_a_user(paid: Any, response_mask: Any) -> Any:
    return paid[:, None] * response_mask / response_mask.sum(1, keepdim=True)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize(
    "rule", [*SHIPPED, of_a_user], ids=lambda rule: getattr(rule, "__name__", rule)
)
def test_a_copy_pays_by_the_same_rule(how, rule):
    env = gym.make("tokengym/MovieReview-v0", reward=rule, max_new_tokens=3)
    again = COPIES[how](env)

    def play(one: Any) -> list[list[float]]:
        one.reset(seed=3)
        infos = [one.step(token)[4] for token in (7, 30, 12)]
        return [info["token_rewards"].tolist() for info in infos if "token_rewards" in info]

    assert play(again) == play(env)
    lambdas = [one.get_wrapper_attr("reward").credit.gae_lambda for one in (env, again)]
    assert lambdas[0] == lambdas[1]
    assert rule is not of_a_user or lambdas[1] == 0.25
