"""Estimators by name, and learners without a critic: nothing of it is there."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.agents.common import per_token, target_reward
from tests.support.rounds import round_of
from tests.support.rules import rule_of
from tokengym.agents import PPO, losses
from tokengym.agents.learner import find_learner
from tokengym.agents.ppo.advantages import ADVANTAGES, find_advantage, register_advantage
from tokengym.agents.ppo.settings import CRITIC_FREE, PPOSettings
from tokengym.envs import Prompt, SettingsError


def dense(make_envs: Callable[..., Any], num_envs: int, **settings: Any) -> Any:
    return make_envs(num_envs=num_envs, reward=target_reward(per_token), **settings)


def reinforce(make_ppo: Callable[..., PPO], make_envs: Callable[..., Any], **settings: Any) -> PPO:
    return make_ppo(envs=dense(make_envs, 16), advantage="reinforce", **settings)


def test_reinforce_is_the_reward_to_go():
    rewards = torch.tensor([[1.0, 2.0, 4.0], [3.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    estimate = find_advantage("reinforce").estimate
    advantages, returns = estimate(round_of(rewards, mask))
    assert advantages.tolist() == [[7.0, 6.0, 4.0], [3.0, 0.0, 0.0]] == returns.tolist()
    discounted, _ = estimate(round_of(rewards, mask, PPOSettings(gamma=0.5)))
    assert discounted.tolist() == [[3.0, 4.0, 4.0], [3.0, 0.0, 0.0]]


def test_gae_without_a_baseline_and_lambda_1_is_the_reward_to_go():
    rewards = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    with_critic = round_of(rewards, settings=PPOSettings(gae_lambda=1.0), values=torch.zeros(2, 3))
    found, _ = find_advantage("gae").estimate(with_critic)
    expected, _ = find_advantage("reinforce").estimate(with_critic)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Rewards to go at a discount of 0.5: 1 + 2 / 2 = 2 and 2; 3 + 5 / 2 = 5.5 and 5.
        ({"advantage": "loo", "gamma": 0.5}, [[2 - 5.5, 2 - 5.0], [5.5 - 2, 5.0 - 2]]),
        # One segment of both tokens: the same, less the mean of 2 and 5.5.
        ({"advantage": "vineppo", "gamma": 0.5}, [[2 - 3.75, 2 - 3.75], [5.5 - 3.75, 5 - 3.75]]),
        # Scores 3 and 8: 2.5 from their mean, over the floor in place of 5 / sqrt(2).
        ({"advantage": "grpo", "std_floor": 10.0}, [[-0.25, -0.25], [0.25, 0.25]]),
    ],
)
def test_an_estimator_takes_the_settings_that_its_function_reads(settings, expected):
    rewards = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    learner = PPOSettings(**{"group_size": 2, **settings})
    played = round_of(rewards, None, learner, segment_ends=torch.ones(2, 2, dtype=torch.int64))
    found, _ = find_advantage(settings["advantage"]).estimate(played)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_the_values_learn_returns_of_their_own_lambda():
    """delta = [1, 2] - [3, 4] + [4, 0] = [2, -2], A = [2 - 0.5 * 2, -2]; to go [3, 2]."""
    rewards, values = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
    estimate = find_advantage("gae").estimate
    both = PPOSettings(gae_lambda=0.5, gae_lambda_vf=1.0)
    advantages, returns = estimate(round_of(rewards, None, both, values=values))
    assert (advantages.tolist(), returns.tolist()) == ([[1.0, -2.0]], [[3.0, 2.0]])
    _, of_one = estimate(round_of(rewards, None, PPOSettings(gae_lambda=0.5), values=values))
    assert of_one.tolist() == [[4.0, 2.0]]


def test_without_a_critic_there_is_no_value_anywhere(make_ppo, make_envs):
    agent = reinforce(make_ppo, make_envs)
    assert agent.policy.critic is None
    assert not any(
        "critic" in name or "value" in name for name, _ in agent.policy.named_parameters()
    )
    played = agent.collect()
    assert played.values is None
    experience = agent.assign(played)
    assert experience.values is None
    assert experience.returns is None
    agent.update(experience)
    assert "train/value_loss" not in agent.logger.name_to_value
    assert "train/policy_gradient_loss" in agent.logger.name_to_value


@pytest.mark.parametrize("setting", ["gae_lambda", "vf_coef", "clip_range_vf", "n_value_warmup"])
def test_settings_of_a_critic_are_refused_without_one(make_ppo, setting):
    with pytest.raises(ValueError, match=rf"{setting}.*advantage='reinforce'.*critic"):
        make_ppo(advantage="reinforce", **{setting: 2 if setting == "n_value_warmup" else 0.5})


@pytest.mark.parametrize("name", CRITIC_FREE)
def test_a_discount_that_an_estimator_does_not_read_is_no_option_of_its_learner(name):
    reads = "gamma" in find_advantage(name).reads
    assert ("gamma" in find_learner(name).idle) != reads


def test_an_estimator_of_ones_own_is_one_function(make_ppo, make_envs, monkeypatch, tmp_path):
    monkeypatch.setattr(ADVANTAGES, "_entries", dict(ADVANTAGES))

    def immediate(token_rewards, response_mask, factor=1.0):
        return factor * token_rewards

    register_advantage(immediate)
    agent = make_ppo(envs=dense(make_envs, 8), advantage="immediate:factor=2")
    agent.learn(8 * 5)
    assert agent._n_updates >= 1
    of_object = make_ppo(envs=dense(make_envs, 8), advantage=immediate)
    assert of_object.estimator.name == "immediate"
    assert not of_object.has_critic
    of_object.save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"immediate@\w+.*object of the process"):
        find_advantage("immediate@00000000")


def test_columns_are_the_rows_own_tokens():
    """A reply of two tokens between two turns, and a row that a partner's failure lost."""

    def change(values, response_mask):
        return values.diff(dim=1, prepend=torch.zeros(len(values), 1)) * response_mask

    mask = torch.tensor([[1, 1, 0, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]) > 0
    values = torch.tensor([[1.0, 3, 70, 70, 4], [9, 9, 9, 9, 9], [5, 9, 9, 9, 9]])
    seen = round_of(torch.zeros(3, 5), mask, values=values)
    assert seen["values"].tolist() == [[1, 3, 4], [5, 0, 0]]
    assert seen["turn_ids"].tolist() == [[0, 0, 1], [0, -1, -1]]
    assert seen["positions"].tolist() == [[0, 1, 2], [0, -1, -1]]
    advantages, returns = find_advantage(change).estimate(seen)
    assert advantages.tolist() == [[1, 2, 0, 0, 1], [0] * 5, [5, 0, 0, 0, 0]] == returns.tolist()


def unknown(token_rewards, chances):
    """Read a name that nobody has."""


def looks(scores, response_mask, attention):
    """Read the reward model's attention."""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (looks, r"advantage looks .*reads 'attention', which scorer .*does not give"),
        (unknown, r"advantage unknown .*reads 'chances', which is no name of a round"),
    ],
)
def test_what_an_estimator_reads_is_known_before_work(make_ppo, make_envs, function, message):
    with pytest.raises(ValueError, match=message):
        make_ppo(envs=dense(make_envs, 8), advantage=function).learn(8)


def column(token_rewards, level):
    """Read a column of the data."""
    return token_rewards


def test_another_environment_must_have_what_an_estimator_reads(make_ppo, make_envs):
    levelled = [Prompt("a", metadata={"level": 1})]
    agent = make_ppo(envs=dense(make_envs, 8, prompts=levelled), advantage=column)
    before, rounds = agent.env, agent.rounds
    with pytest.raises(SettingsError, match=r"column .*reads 'level', which is no name of a round"):
        agent.set_env(dense(make_envs, 8, prompts=["a"]))
    assert (agent.env, agent.rounds) == (before, rounds)
    agent.set_env(dense(make_envs, 8, prompts=levelled))
    assert agent.learn(8).env is not before


# --- VinePPO's ------------------------------------------------------------------------------------


def test_rewards_within_segments():
    rewards = torch.tensor([[0.0, 2.0, 4.0, 1.0], [3.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True] * 4, [True] + [False] * 3])
    ends = torch.tensor([[1, 1, 3, 3], [0, 1, 2, 3]])
    found = losses.rewards_within(rewards, mask, ends)
    assert found.tolist() == [[2.0, 2.0, 5.0, 1.0], [3.0, 0.0, 0.0, 0.0]]
    found = losses.rewards_within(rewards, mask, ends, gamma=0.5)
    assert found.tolist() == [[1.0, 2.0, 4.5, 1.0], [3.0, 0.0, 0.0, 0.0]]


def test_vineppo_takes_no_mean_over_episodes_that_were_lost():
    estimate = find_advantage("vineppo").estimate
    rewards, mask = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]]), torch.ones(3, 2).bool()
    mask[2] = False

    def advantages(rows: int) -> Any:
        ends = torch.arange(2).expand(rows, 2)
        return estimate(round_of(rewards[:rows], mask[:rows], segment_ends=ends))[0]

    assert advantages(2).tolist() == [[-1.0, 2.0], [1.0, 4.0]]
    assert torch.equal(advantages(3)[:2], advantages(2))
    assert not advantages(3)[2].any()


def test_vineppo_pays_each_token_the_reward_of_its_segment(make_ppo, make_envs):
    for credit, joined in ((rule_of("random"), False), (rule_of("random", segments=5), True)):
        envs = make_envs(num_envs=8, reward=target_reward(credit), min_new_tokens=6)
        agent = make_ppo(envs=envs, advantage="vineppo", kl_coef=0.0)
        assert agent.policy.critic is None
        played = agent.collect()
        paid = torch.tensor(np.array([episode.token_rewards for episode in played.episodes]))
        if joined:
            paid[:, :1] += paid[:, 1:2]
        paid[:, : 1 + joined] -= paid[:, 0].mean()  # the prompt's value, earned by no token
        found = agent.assign(played).advantages
        torch.testing.assert_close(found, losses.masked_whiten(paid, paid > -1.0))


def test_an_estimator_reads_the_policy_s_states_and_likeliest_tokens(make_ppo, make_envs):
    """By the bare model, one text at a time."""
    seen: dict[str, torch.Tensor] = {}

    def moved(token_rewards, response_mask, hidden_states, top_log_probs, log_probs):
        seen.update(states=hidden_states, top=top_log_probs, mask=response_mask, own=log_probs)
        steps = hidden_states.diff(dim=1, prepend=hidden_states[:, :1]).norm(dim=2)
        return token_rewards + steps * response_mask

    agent = make_ppo(envs=dense(make_envs, 8), advantage=moved)
    played = agent.collect()
    agent.assign(played)
    model = agent.policy.language_model.model
    for row, episode in enumerate(played.episodes):
        start, size = len(episode.prompt_ids) - 1, len(episode.response_ids)
        ids = torch.tensor([[*episode.prompt_ids, *episode.response_ids]])
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states[-1][0, start:-1]
            top = model(ids).logits[0, start:-1].log_softmax(-1).sort(descending=True).values
        torch.testing.assert_close(seen["states"][row, :size], states, atol=1e-4, rtol=1e-4)
        found = seen["top"][row, :size]
        torch.testing.assert_close(found, top[:, : found.shape[1]], atol=1e-4, rtol=1e-4)
        assert bool((seen["own"][row, :size] <= found[:, 0] + 1e-4).all())
