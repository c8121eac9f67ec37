"""PPO's phases, its place in Stable-Baselines3, and what stops it."""

import math
from dataclasses import replace
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.agents.common import (
    PROMPTS,
    TARGET,
    critic_of,
    make_model,
    per_token,
    target_reward,
)
from tests.support.agents.policy import shake
from tests.support.agents.ppo import Watcher, gradient, log_of
from tests.support.rules import rule_of
from tokengym.agents import PPO
from tokengym.agents.errors import ModelError, NonFiniteError
from tokengym.rewards import FunctionScorer, Normalize, Reward

LOGGED = {
    *(f"rollout/{name}" for name in ("score", "ep_len_mean", "ep_rew_mean")),
    *(f"train/{name}" for name in ("loss", "policy_gradient_loss", "value_loss", "entropy_loss")),
    *(f"train/{name}" for name in ("entropy", "kl", "kl_sampled", "kl_coef", "approx_kl")),
    *(f"train/{name}" for name in ("clip_range", "clip_fraction", "ratio_error", "log_prob_gap")),
    *(f"train/{name}" for name in ("explained_variance", "learning_rate", "n_updates")),
    *(f"time/{name}_s" for name in ("rollout", "step", "score", "assign", "update")),
}


# --- the phases alone ---------------------------------------------------------------------------


def test_assign_is_the_formula(make_envs, make_ppo):
    """Token rewards less kl_coef * k1, GAE, whitening: each recomputed here by plain loops."""
    agent = make_ppo(
        envs=make_envs(reward=target_reward(per_token)),
        kl_coef=0.3,
        kl_estimator="k1",
        gamma=0.9,
        gae_lambda=0.8,
    )
    for parameter in agent.policy.trained_parameters():
        parameter.data.mul_(1.05).add_(0.01)
    played = agent.collect()
    experience = agent.assign(played)
    advantages = []
    for row, episode in enumerate(played.episodes):
        n = len(episode.response_ids)
        new = agent.policy.log_probs([episode.prompt_ids], [episode.response_ids])[0]
        ref = agent.policy.log_probs([episode.prompt_ids], [episode.response_ids], reference=True)[
            0
        ]
        assert np.abs(new - ref).max() > 1e-3
        rewards = [
            float(token == TARGET) / 6 - 0.3 * (new[t] - ref[t])
            for t, token in enumerate(episode.response_ids)
        ]
        values = [*experience.values[row, :n].tolist(), 0.0]
        advantage, following = [0.0] * n, 0.0
        for t in reversed(range(n)):
            delta = rewards[t] + 0.9 * values[t + 1] - values[t]
            following = advantage[t] = delta + 0.9 * 0.8 * following
        expected = np.array(advantage) + values[:n]
        np.testing.assert_allclose(experience.returns[row, :n], expected, atol=1e-4)
        assert experience.returns[row, n:].abs().sum() == 0
        advantages += advantage
    whitened = (np.array(advantages) - np.mean(advantages)) / np.std(advantages)
    found = experience.advantages[experience.response_mask]
    np.testing.assert_allclose(found, whitened, atol=1e-3)


def test_log_probs_that_are_recomputed_are_those_of_the_whole_forward(make_ppo):
    """A rollout that is off by 0.3 nats is said, and not learned from."""
    agent = make_ppo(old_log_probs="recomputed")
    played = agent.collect()
    experience = agent.assign(replace(played, log_probs=played.log_probs - 0.3))
    mask = experience.response_mask
    torch.testing.assert_close(experience.old_log_probs[mask], played.log_probs[mask])
    agent.update(experience)
    found = agent.logger.name_to_value
    assert found["train/log_prob_gap"] == pytest.approx(0.3, abs=1e-3)
    assert found["train/ratio_error"] < 1e-3


def test_the_figures_of_a_round_by_hand(make_ppo):
    agent = make_ppo(n_minibatches=1)
    shake(agent, 0.3)  # so that the values are not all 0
    played = agent.collect()
    experience = agent.assign(played)
    entropies = []
    for episode in played.episodes:
        ids = torch.tensor([[*episode.prompt_ids, *episode.response_ids]])
        logits = agent.policy.language_model.model(ids).logits[0, len(episode.prompt_ids) - 1 : -1]
        p = logits.softmax(-1)
        entropies += (-p * p.log()).sum(-1).tolist()
    mask = experience.response_mask
    returns, values = experience.returns[mask], experience.values[mask]
    found = agent.logger.name_to_value
    assert found["train/entropy"] == pytest.approx(np.mean(entropies), rel=1e-4)
    explained = 1.0 - float((returns - values).var() / returns.var())
    assert found["train/explained_variance"] == pytest.approx(explained, rel=1e-4)


def test_micro_batches_do_not_change_the_gradient(make_envs, make_ppo):
    """1 x 16 = 4 x 4 = 16 x 1, with ragged lengths: means are over the whole minibatch's tokens."""
    agent = make_ppo(envs=make_envs(num_envs=16), ent_coef=0.1)
    experience = agent.assign(agent.collect())
    assert len(set(experience.sequences.lengths.tolist())) > 3
    whole = gradient(agent, experience)
    assert whole.norm() > 1e-3
    for size in (4, 1):
        agent.settings = replace(agent.settings, micro_batch_size=size)
        torch.testing.assert_close(gradient(agent, experience), whole, atol=1e-6, rtol=1e-4)


def test_the_gradient_is_scaled_down_to_its_largest_norm(make_ppo):
    """As the optimiser takes it: Adam's step would hide its size."""
    for limit in (1e9, 1e-3):
        agent = make_ppo(max_grad_norm=limit, n_epochs=1, n_minibatches=1)
        experience = agent.assign(agent.collect())
        whole = gradient(agent, experience)
        step, taken = agent.policy.optimizer.step, list[torch.Tensor]()

        def noted(step: Any = step, taken: Any = taken, agent: PPO = agent) -> None:
            learning = agent.policy.trained_parameters()
            taken.append(torch.cat([p.grad.flatten() for p in learning]).clone())
            step()

        agent.policy.optimizer.step = noted
        agent.update(experience)
        (found,) = taken
        expected = whole * min(1.0, limit / float(whole.norm()))
        assert float(whole.norm()) > 1e-2
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-3)


def test_minibatches_are_shuffled_every_epoch_and_cover_the_batch(make_ppo):
    agent = make_ppo(n_epochs=8, n_minibatches=3)
    experience = agent.assign(agent.collect())
    numbers = torch.arange(4.0)[:, None].expand_as(experience.advantages)
    backward, taken = agent.backward, list[list[float]]()

    def noted(minibatch: Any) -> Any:
        taken.append(minibatch.advantages[:, 0].tolist())
        return backward(minibatch)

    agent.backward = noted
    agent.update(replace(experience, advantages=numbers))
    assert [len(rows) for rows in taken] == 8 * [2, 1, 1]
    orders = [[row for rows in taken[i : i + 3] for row in rows] for i in range(0, 24, 3)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_the_update_ends_early_at_target_kl(make_ppo):
    counts, skipped = {}, {}
    for target_kl in (None, 1e-9, 1e9):
        agent = make_ppo(learning_rate=1e-2, target_kl=target_kl)
        played = agent.collect()
        counts[target_kl] = agent.update(agent.assign(played)).num_minibatches
        skipped[target_kl] = agent.logger.name_to_value.get("train/steps_skipped")
    # The second minibatch sees that the first one's step moved, and takes none.
    assert counts == {None: 8, 1e-9: 2, 1e9: 8}
    assert skipped == {None: None, 1e-9: 7 / 8, 1e9: 0.0}


@pytest.mark.parametrize("advantage", ["gae", "reinforce"])
def test_the_rate_warms_up(make_ppo, advantage):
    """Over three updates a quarter, a half and three quarters of the rate, and the whole after."""
    settings: Any = {"advantage": advantage, "learning_rate": 4e-3, "n_epochs": 1}
    constant = {**settings, "learning_rate_schedule": "constant"}
    rates = [
        row["train/learning_rate"] for row in log_of(make_ppo(n_warmup_updates=3, **constant), 80)
    ]
    assert rates[:5] == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3, 4e-3])
    (whole, *_), (warmed, *_) = (
        log_of(make_ppo(n_warmup_updates=n, **settings), 20) for n in (0, 1)
    )
    assert whole["train/learning_rate"] == 2.0 * warmed["train/learning_rate"] == 4e-3


def test_the_rate_warms_up_for_the_policy_after_updates_of_the_values_alone(make_ppo):
    agent = make_ppo(
        n_warmup_updates=1, n_value_warmup=3, learning_rate=4e-3, learning_rate_schedule="constant"
    )
    rates = [row["train/learning_rate"] for row in log_of(agent, 96)]
    assert rates[:6] == pytest.approx([2e-3, 4e-3, 4e-3, 2e-3, 4e-3, 4e-3])


def test_the_kl_coefficient_stays_while_the_values_alone_learn(make_ppo):
    agent = make_ppo(kl_coef=0.2, kl_target=5.0, kl_horizon=10.0, n_value_warmup=2)
    rows = log_of(agent, 80)
    paid = [row["train/kl_coef"] for row in rows[:4]]
    assert paid[:3] == pytest.approx([0.2] * 3)
    assert paid[3] < 0.2


# --- in Stable-Baselines3 -----------------------------------------------------------------------


def test_learning_logs_every_figure_and_counts_tokens(make_ppo):
    agent = make_ppo()
    watcher = Watcher()
    rows = log_of(agent, 60, callback=watcher)
    assert all(LOGGED <= set(row) for row in rows)
    assert [row["train/n_updates"] for row in rows] == list(range(1, len(rows) + 1))
    assert agent.num_timesteps == sum(episode["l"] for episode in watcher.episodes) >= 60
    assert rows[-1]["step"] == agent.num_timesteps
    first = watcher.episodes[:4]
    assert rows[0]["rollout/ep_len_mean"] == pytest.approx(np.mean([e["l"] for e in first]))
    assert rows[0]["rollout/ep_rew_mean"] == pytest.approx(np.mean([e["r"] for e in first]))
    assert rows[0]["rollout/score"] == pytest.approx(np.mean([e["r"] for e in first]))
    assert rows[0]["train/ratio_error"] < 1e-4
    phases = ("time/score_s", "time/step_s", "time/rollout_s")
    assert all(0.0 < row[phases[0]] < row[phases[1]] < row[phases[2]] for row in rows)
    assert 0.0 < rows[0]["train/entropy"] <= np.log(8)


def test_without_a_log_interval_no_row_is_written(make_ppo):
    agent = make_ppo()
    assert log_of(agent, 20, log_interval=None) == []
    assert agent._n_updates > 0
    assert len(log_of(agent, 80, log_interval=2)) < len(log_of(agent, 80))


def test_the_logged_score_is_the_raw_one(make_envs, make_ppo):
    scorer = Normalize(FunctionScorer(lambda prompt, response: 100.0 + len(response)), window=1)
    (row,) = log_of(make_ppo(envs=make_envs(reward=Reward(scorer, rule_of("sparse")))), 1)
    assert row["rollout/score"] > 100.0
    assert abs(row["rollout/ep_rew_mean"]) < 10.0


def test_callbacks_are_called_at_every_step_and_can_stop(make_ppo):
    watcher = Watcher()
    agent = make_ppo().learn(40, callback=watcher)
    assert watcher.calls["start"] == watcher.calls["end"] >= 2
    assert watcher.calls["step"] > watcher.calls["start"]
    assert watcher.timesteps == sorted(watcher.timesteps)
    assert watcher.timesteps[-1] == agent.num_timesteps
    stopped = Watcher(stop_at=2)
    agent = make_ppo().learn(10_000, callback=[stopped])
    assert stopped.calls["step"] == 2
    assert agent._n_updates == 0


def test_schedules_move_the_learning_rate(make_ppo):
    agent = make_ppo(learning_rate=lambda progress: 0.01 * progress, clip_range=lambda p: 0.1 + p)
    rates = [row["train/learning_rate"] for row in log_of(agent, 80)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1] == 0.0  # not below: the last round ends past the 80 tokens
    assert agent.num_timesteps > 80


def test_a_schedule_of_the_learning_rate_is_taken_as_it_is(make_ppo):
    """Not multiplied by the default schedule, which is for numbers."""
    agent = make_ppo(learning_rate=lambda progress: 0.01 + progress / 100)
    rows = log_of(agent, 40)
    for row in rows:
        left = max(1.0 - row["time/total_timesteps"] / 40, 0.0)
        assert row["train/learning_rate"] == pytest.approx(0.01 + left / 100)


def test_a_seed_decides_every_draw(make_ppo):
    first, again, other = (make_ppo(seed=seed) for seed in (1, 1, 2))
    for of in ("policy.generator", "policy.outside", "shuffler"):
        states = [attrgetter(of)(agent).get_state() for agent in (first, again, other)]
        assert [states[0].equal(state) for state in states] == [True, True, False], of
    a, b = (agent.learn(40).policy.state_dict() for agent in (first, again))
    assert all(a[name].equal(b[name]) for name in a)


def test_no_prompt_is_drawn_in_vain(make_envs, make_ppo):
    """SB3's learn() resets before the first rollout; that reset begins the first round."""
    seen = []

    def score(prompt: str, response: str) -> float:
        seen.append(prompt)
        return 0.0

    reward = Reward(FunctionScorer(score), rule_of("sparse"))
    make_ppo(envs=make_envs(reward=reward, num_envs=2, prompt_sampling="sequential")).learn(1)
    assert sorted(seen) == sorted(PROMPTS[:2])


# --- what stops it ------------------------------------------------------------------------------


def test_a_reward_that_is_not_finite_names_row_and_step(make_envs, make_ppo):
    agent = make_ppo()
    played = agent.collect()
    broken = played.episodes[2].token_rewards.copy()
    broken[-1] = np.nan
    episodes = list(played.episodes)
    episodes[2] = replace(episodes[2], token_rewards=broken)
    step = len(broken) - 1
    with pytest.raises(ValueError, match=rf"token_rewards of row 2.*token {step}"):
        agent.assign(replace(played, episodes=tuple(episodes)))


def test_a_loss_or_gradient_that_is_not_finite_is_named(make_ppo):
    agent = make_ppo(n_minibatches=1)
    experience = agent.assign(agent.collect())
    critic_of(agent).head.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteError, match=r"critic\.head\.weight.*update 0"):
        agent.update(experience)
    experience.returns[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"value_loss is (inf|nan) at update 0"):
        agent.update(experience)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"kl_coef": 1e30}, 1.0),
        ({"advantage": "rloo", "group_size": 4}, 1e30),
    ],
)
def test_a_gradient_whose_norm_alone_overflows_is_named(make_ppo, make_envs, settings, size):
    scorer = FunctionScorer(lambda _, response: size * (len(response) % 5))
    agent = make_ppo(envs=make_envs(reward=Reward(scorer, rule_of("sparse"))), **settings)
    with pytest.raises(NonFiniteError, match=r"norm overflows \(largest entry .*e\+\d+, in \S+\)"):
        agent.learn(1)


def test_whitened_advantages_train_whatever_the_size_of_the_scores(make_ppo, make_envs):
    moved = []
    for size in (1.0, 1e25):

        def score(_: str, response: str, size: float = size) -> float:
            return size * (len(response) % 5)

        envs = make_envs(reward=Reward(FunctionScorer(score), rule_of("sparse")))
        agent = make_ppo(envs=envs, advantage="reinforce++", kl_coef=0.0, learning_rate=1e-2)
        before = [p.detach().clone() for p in agent.policy.parameters()]
        agent.learn(1)
        after = agent.policy.parameters()
        moved.append(max((new - old).abs().max() for old, new in zip(before, after, strict=True)))
    assert moved[0] > 0
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-3, atol=0.0)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("n_epochs", 0, "n_epochs.*1.*10000, got 0"),
        ("gamma", 1.5, r"gamma.*\[0, 1\], got 1.5"),
        ("gae_lambda", -1.0, r"gae_lambda.*\[0, 1\].*got -1.0"),
        ("kl_coef", -0.1, "kl_coef.*got -0.1"),
        ("kl_target", 0.0, "kl_target.*> 0.*got 0.0"),
        ("clip_range", "0.2", "clip_range.*> 0, got '0.2'"),
        ("clip_range_vf", 0.0, "clip_range_vf.*> 0.*got 0.0"),
        ("ent_coef", math.nan, "ent_coef.*got nan"),
        ("kl_estimator", "k4", r"kl_estimator.*'exact', got 'k4'"),
        ("n_value_warmup", -1, "n_value_warmup.*>= 0, got -1"),
        ("micro_batch_size", 0, "micro_batch_size.*>= 1.*got 0"),
        ("learning_rate", math.inf, r"learning_rate.*got inf"),
        ("vf_coef", math.inf, "vf_coef.*got inf"),
        ("kl_target", math.inf, "kl_target.*got inf"),
        ("value_network", "mine", "value_network.*got 'mine'"),
    ],
)
def test_settings_that_cannot_work_are_refused(make_ppo, setting, value, message):
    with pytest.raises(ValueError, match=message):
        make_ppo(**{setting: value})


def test_a_setting_of_learner_and_policy_is_given_once(make_envs):
    kwargs = {"model": make_model(), "temperature": 2.0}
    with pytest.raises(ValueError, match=r"temperature.*setting of PPO"):
        PPO("CausalLMPolicy", make_envs(), policy_kwargs=kwargs)


def test_a_rollout_that_disagrees_with_the_update_stops(make_ppo):
    agent = make_ppo()
    played = agent.collect()
    with pytest.raises(ModelError, match=r"0\.35.*0\.3 nats"):
        agent.learn_from(replace(played, log_probs=played.log_probs - 0.3))
    agent.learn_from(agent.collect())


@pytest.mark.parametrize("kl_estimator", ["exact", "k1"])
def test_weights_in_float64_learn(make_ppo, kl_estimator):
    agent = make_ppo(model=make_model().double(), kl_estimator=kl_estimator, n_minibatches=1)
    before = [p.clone() for p in agent.policy.trained_parameters()]
    agent.learn(1)
    after = agent.policy.trained_parameters()
    assert any(not torch.equal(x, y) for x, y in zip(before, after, strict=True))
