"""The registered environments bring their model: an agent in one line."""

import gymnasium as gym
import pytest

import tokengym  # noqa: F401  (registers the environments)
from tokengym.agents import PPO, RandomAgent, collect


@pytest.mark.parametrize("task", ["MovieReview", "QuestionAnswer"])
def test_ppo_takes_the_bundled_model_and_learns(task):
    envs = gym.make_vec(f"tokengym/{task}-v0", num_envs=4, max_new_tokens=8)
    agent = PPO("CausalLMPolicy", envs, seed=0, device="cpu")
    assert agent.policy.num_actions == len(envs.unwrapped.tokenizer)  # type: ignore[attr-defined]
    agent.learn(40)
    assert agent.num_timesteps >= 40
    for player in (agent, RandomAgent(envs, seed=0)):
        for episode in collect(player, envs, 6, seed=0):
            assert abs(float(episode.token_rewards.sum()) - episode.score) < 1e-3


def test_ppo_learns_on_a_single_environment():
    env = gym.make("tokengym/MovieReview-v0", reward="abc", max_new_tokens=8)
    assert PPO("CausalLMPolicy", env, seed=0, device="cpu").learn(10).num_timesteps >= 10
