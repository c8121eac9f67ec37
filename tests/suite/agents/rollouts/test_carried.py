"""What a rule of credit reads of the policy, an episode has when it is scored and afterwards."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from rich.console import Console

import tokengym
from tests.support.agents.common import TARGET, target_reward
from tokengym.agents import PPO, bind_policy, collect
from tokengym.envs import Episode, SettingsError
from tokengym.rewards import CreditError, Rule, on_last, shares, token_credit


@token_credit
def by_entropy(paid, response_mask, entropy, log_probs, power=1.0):
    """Spread the score by the entropy, which no log-prob of the same token may exceed by far."""
    assert bool((log_probs[response_mask] < 0).all())
    return paid[:, None] * shares(entropy**power, response_mask)


def test_a_rule_reads_the_entropy_of_the_policy_that_wrote(make_envs, make_ppo):
    agent = make_ppo(envs=make_envs(num_envs=8, reward=target_reward(by_entropy)))
    played = agent.collect()
    table = played.entropy.numpy()
    for row, episode in enumerate(played.episodes):
        own = table[row, : len(episode.response_ids)]
        np.testing.assert_array_equal(episode.entropy, own)
        expected = episode.score * own / own.sum()
        np.testing.assert_allclose(episode.token_rewards, expected, rtol=1e-5, atol=1e-6)
        again = Episode.from_record(episode.to_record())
        np.testing.assert_array_equal(again.entropy, episode.entropy)
    agent.update(agent.assign(played))


class Any5:
    """An agent with `predict` alone."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.full(len(observation["input_ids"]), 5), state


@pytest.mark.parametrize("vectorization_mode", ["vector_entry_point", "sync"])
def test_a_step_refuses_a_rule_of_the_policy_before_a_token_is_written(vectorization_mode):
    envs = gym.make_vec(
        "tokengym/MovieReview-v0",
        num_envs=2,
        reward=by_entropy,
        vectorization_mode=vectorization_mode,
    )
    envs.reset(seed=0)
    with pytest.raises(CreditError, match=r"reads 'entropy', which env.step is not told.*collect"):
        envs.step(np.array([5, 5]))
    with pytest.raises(SettingsError, match=r"'by-entropy' reads 'entropy'.*this agent does not"):
        collect(Any5(), envs, 2)
    with pytest.raises(CreditError, match=r"env.step is not told"):  # as before the round
        envs.step(np.array([5, 5]))


def test_a_step_that_is_told_of_a_policy_continues_with_it(make_envs, make_ppo):
    @token_credit
    def continued(paid, continue_from, response_mask):
        return on_last(paid, response_mask) + 0 * continue_from(1, response_mask)

    envs = make_envs(num_envs=2, reward=target_reward(continued))
    agent = make_ppo(envs=envs)
    envs.reset(seed=0)
    bind_policy(envs, agent)
    envs.step(np.array([5, 5]))
    alone = make_envs(num_envs=2, reward=target_reward(continued))
    alone.reset(seed=0)
    with pytest.raises(CreditError, match=r"'continue_from'.*bind_policy\(env, agent\)"):
        alone.step(np.array([5, 5]))


def test_a_learner_refuses_rows_that_pay_where_it_does_not_see(make_ppo, make_envs):
    inside = gym.wrappers.vector.RecordEpisodeStatistics(
        make_envs(num_envs=4, reward=target_reward(by_entropy))
    )
    with pytest.raises(SettingsError, match=r"reads 'entropy' of the policy.*outermost layer"):
        make_ppo(envs=inside)


def test_a_comparison_credits_what_it_shows_by_the_entropy(tmp_path):
    """The responses that are shown were played under another reward than the arm's."""
    file = tmp_path / "idea.py"
    file.write_text(
        "import tokengym\n"
        "from tokengym.rewards import shares\n"
        "@tokengym.token_credit\n"
        "def surprised(paid, response_mask, entropy):\n"
        "    return paid[:, None] * shares(entropy, response_mask)\n"
    )
    word = f"{file}:surprised"
    result = tokengym.compare(
        "MovieReview",
        rewards=["sparse", word],
        seeds=1,
        updates=1,
        batch_size=4,
        max_new_tokens=4,
        eval_episodes=4,
        out=tmp_path / "runs",
        console=Console(quiet=True),
    )
    shown = result.samples[result.samples["credit"].str.contains("surprised")]
    assert len(shown)
    for _, one in shown.iterrows():
        entropy = np.array(one["entropy"])
        expected = one["score"] * entropy / entropy.sum()
        np.testing.assert_allclose(one["token_rewards"], expected, atol=2e-3)


@token_credit
class Growing:
    """Spreads the score by weights that grow with each batch: a rule with a state."""

    def __init__(self):
        self.batches = 0

    def __call__(self, paid, response_mask, positions):
        self.batches += 1
        return paid[:, None] * shares(1.0 + self.batches * positions, response_mask)

    def state_dict(self):
        return {"batches": self.batches}

    def load_state_dict(self, state):
        self.batches = state["batches"]


def test_a_checkpoint_keeps_the_state_of_a_rule(make_envs, make_ppo, tmp_path):
    agent = make_ppo(envs=make_envs(num_envs=4, reward=target_reward(Rule(Growing))))
    agent.learn(3 * 4 * 6)
    (reward,) = agent.reward.rewards
    assert reward.credit.state_dict()["batches"] >= 3
    agent.save(tmp_path / "run")
    fresh = make_envs(num_envs=4, reward=target_reward(Rule(Growing)))
    resumed = PPO.load(tmp_path / "run", env=fresh, device="cpu")
    (again,) = resumed.reward.rewards
    assert again.credit.state_dict() == reward.credit.state_dict()


class Baseline:
    """Takes a running mean off the scores: an estimator with a state."""

    def __init__(self, pace=0.5):
        self.pace, self.mean, self.rounds = pace, 0.0, torch.zeros(1)

    def __call__(self, scores, response_mask):
        self.mean += self.pace * (float(scores.mean()) - self.mean)
        self.rounds += 1
        return (scores - self.mean)[:, None] * response_mask

    def state_dict(self):
        return {"mean": self.mean, "rounds": self.rounds}

    def load_state_dict(self, state):
        self.mean, self.rounds = state["mean"], state["rounds"]


def test_a_checkpoint_keeps_the_state_of_an_estimator(make_envs, make_ppo, tmp_path):
    word = f"{__file__}:Baseline:pace=0.25"
    envs = make_envs(num_envs=4, reward=target_reward())
    agent = make_ppo(envs=envs, advantage=word)
    agent.learn(2 * 4 * 6)
    state = agent.estimator.state_dict()
    assert state["rounds"].item() >= 2
    agent.save(tmp_path / "run")
    fresh = make_envs(num_envs=4, reward=target_reward())
    resumed = PPO.load(tmp_path / "run", env=fresh, device="cpu", advantage=word)
    assert resumed.estimator.state_dict() == state
    for one in (agent, resumed):  # the uninterrupted run's numbers
        one.learn(4 * 6, reset_num_timesteps=False)
    for ours, theirs in zip(agent.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert resumed.estimator.state_dict() == agent.estimator.state_dict()


def test_other_texts_of_an_episode_carry_nothing_of_its_own(make_envs, make_ppo):
    @token_credit(parts=True)
    def first_gone(paid, entropy, positions, response_mask, score_without):
        gone = (positions == 0)[:, None] & response_mask[:, None]
        return (paid[:, None] - score_without(gone)) * (positions == 0) * (entropy >= 0)

    agent = make_ppo(envs=make_envs(num_envs=4, reward=target_reward(first_gone)))
    for episode in agent.collect().episodes:
        assert episode.entropy is not None
        if len(episode.response_ids) > 1:  # the score is the share of targets, out of 6
            worth = (episode.response_ids[0] == TARGET) / 6.0
            np.testing.assert_allclose(episode.token_rewards[0], worth, atol=1e-6)
