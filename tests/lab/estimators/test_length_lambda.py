"""The lambda by length against numbers worked by hand."""

from typing import Any

import gymnasium as gym
import pytest
import torch

from tests.support.rounds import round_of
from tokengym.agents import PPO
from tokengym.agents.ppo import RoundInputs
from tokengym.agents.ppo.advantages import find_advantage
from tokengym.agents.ppo.settings import PPOSettings
from tokengym.envs import SettingsError
from tokengym.lab.estimators.length_lambda import lambda_of


def played(time: int, lengths: list[int], **settings: Any) -> RoundInputs:
    """Return responses with a score of 1 on the last token and values of 0.5 everywhere."""
    mask = torch.arange(time) < torch.tensor(lengths)[:, None]
    rewards = torch.zeros(len(lengths), time, dtype=torch.float64)
    rewards[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = 1.0
    values = torch.full_like(rewards, 0.5).masked_fill(~mask, 0.0)
    return round_of(rewards, mask, PPOSettings(**settings), values=values)


def test_lambda_rises_with_the_length():
    lengths = torch.tensor([1, 20, 25, 50, 100])
    assert lambda_of(lengths).tolist() == pytest.approx([0.0, 0.0, 0.2, 0.6, 0.8])


def test_advantages_decay_by_the_own_length_and_returns_are_whole():
    """Only the last step has an error, 1 - 0.5: k tokens before it is worth lambda^k of it."""
    found = find_advantage("gae-length")
    advantages, returns = found.estimate(played(50, [25, 50]))
    assert advantages[0, [24, 23, 22]].tolist() == pytest.approx([0.5, 0.5 * 0.2, 0.5 * 0.04])
    assert advantages[1, [49, 48, 47]].tolist() == pytest.approx([0.5, 0.5 * 0.6, 0.5 * 0.36])
    assert not advantages[0, 25:].any()
    assert returns[0, :25].tolist() == pytest.approx([1.0] * 25)
    of_short = find_advantage("gae-length").estimate(played(25, [25], gae_lambda_vf=0))
    assert of_short[1][0].tolist() == pytest.approx([0.5] * 24 + [1.0])


def test_it_trains_and_refuses_a_lambda_that_it_does_not_read():
    envs: Any = gym.make_vec("tokengym/MovieReview-v0", num_envs=4, max_new_tokens=24)
    agent = PPO("CausalLMPolicy", envs, advantage="gae-length", seed=0)
    agent.learn(1)
    assert agent.settings.gae_lambda is None
    with pytest.raises(SettingsError, match=r"gae_lambda.*advantage='gae-length'"):
        PPO("CausalLMPolicy", envs, advantage="gae-length", gae_lambda=0.5)
