"""Learners with groups: rows share prompts, baselines come from them, credit is seen or not."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.agents.checkpoint import assert_equal_weights
from tests.support.agents.common import make_model, per_token, target_reward
from tests.support.agents.policy import shake
from tests.support.rules import rule_of
from tokengym.agents import PPO, collect, losses

SCORE_ONLY = ("rloo", "grpo", "dr-grpo")


def build(make_ppo: Any, make_envs: Any, credit: Any = None, rows: int = 8, **settings: Any) -> Any:
    envs = make_envs(num_envs=rows, reward=target_reward(credit or rule_of("sparse")))
    return make_ppo(envs=envs, **{"group_size": 4, "learning_rate": 1e-2, **settings})


@pytest.mark.parametrize("advantage", SCORE_ONLY)
def test_advantages_that_read_the_score_are_the_same_under_every_credit(
    make_ppo, make_envs, advantage
):
    first, *others = (
        build(make_ppo, make_envs, credit, advantage=advantage)
        for credit in (rule_of("sparse"), rule_of("uniform"), rule_of("random"), per_token)
    )
    expected = first.assign(first.collect()).advantages
    for agent in others:
        assert torch.equal(agent.assign(agent.collect()).advantages, expected)


@pytest.mark.parametrize("advantage", ["loo", "reinforce++"])
def test_token_credit_is_seen_where_the_estimator_says_so(make_ppo, make_envs, advantage):
    first, second = (
        build(make_ppo, make_envs, credit, rows=32, advantage=advantage, kl_coef=0.0)
        for credit in (rule_of("sparse"), per_token)
    )
    one, two = first.assign(first.collect()), second.assign(second.collect())
    assert torch.equal(one.old_log_probs, two.old_log_probs)
    assert not torch.equal(one.advantages, two.advantages)


def test_advantages_are_those_of_the_pure_functions(make_ppo, make_envs):
    for advantage, function in (("rloo", losses.rloo), ("dr-grpo", losses.dr_grpo)):
        agent = build(make_ppo, make_envs, advantage=advantage, kl_coef=0.0)
        played = agent.collect()
        found = agent.assign(played)
        scores = torch.tensor([episode.score for episode in played.episodes])
        for row, expected in enumerate(function(scores, 4).tolist()):
            row_found = found.advantages[row][found.response_mask[row]]
            torch.testing.assert_close(row_found, torch.full_like(row_found, expected))
    agent = build(make_ppo, make_envs, per_token, advantage="loo", kl_coef=0.0)
    played = agent.collect()
    found = agent.assign(played)
    rewards = torch.zeros(found.response_mask.shape)
    for row, episode in enumerate(played.episodes):
        rewards[row, : len(episode.response_ids)] = torch.tensor(episode.token_rewards)
    expected = losses.leave_one_out(rewards, found.response_mask, 4)
    torch.testing.assert_close(found.advantages, expected)


def test_the_price_of_the_kl_comes_off_the_score_that_is_compared(make_ppo, make_envs):
    agent = build(make_ppo, make_envs, advantage="rloo", kl_coef=0.3, kl_estimator="k1")
    shake(agent)
    played = agent.collect()
    experience = agent.assign(played)
    net, prices = [], []
    for episode in played.episodes:
        texts = [episode.prompt_ids], [episode.response_ids]
        own, ref = (agent.policy.log_probs(*texts, reference=which)[0] for which in (False, True))
        prices.append(0.3 * float((own - ref).sum()))
        net.append(episode.score - prices[-1])
    assert np.std(prices) > 0.05
    for row, score in enumerate(net):
        group = net[:4] if row < 4 else net[4:]
        others = (sum(group) - score) / 3
        found = experience.advantages[row][experience.response_mask[row]]
        assert found.tolist() == pytest.approx([score - others] * len(found), abs=1e-4)


@pytest.mark.parametrize("advantage", ["loo", "grpo", "reinforce++"])
def test_each_learner_solves_the_identity_task(make_ppo, make_envs, advantage):
    reward = target_reward(per_token)
    agent = make_ppo(
        envs=make_envs(num_envs=32, reward=reward),
        model=make_model(scale=2.0),
        advantage=advantage,
        group_size=None if advantage == "reinforce++" else 8,
        learning_rate=1e-2,
        kl_coef=0.01,
        kl_estimator="k1",  # as in the source of reinforce++
    )
    assert agent.policy.critic is None
    agent.learn(32 * 6 * 16)
    scores = [episode.score for episode in collect(agent, make_envs(num_envs=32), 64, seed=100)]
    assert np.mean([score for score in scores if score is not None]) > 0.85


def test_equal_scores_are_found_below_a_price_on_the_kl(make_ppo, make_envs):
    """The price differs from row to row: taken off first, no group would look equal."""
    agent = build(make_ppo, make_envs, advantage="grpo", drop_equal_groups=True, kl_coef=0.5)
    with torch.no_grad():
        next(iter(agent.policy.trained_parameters())).add_(0.3)  # away from the reference
    played = agent.collect()
    episodes = [
        replace(episode, score=1.0 if row < 4 else float(row))
        for row, episode in enumerate(played.episodes)
    ]
    kept = agent.assign(replace(played, episodes=tuple(episodes)))
    assert torch.equal(kept.old_log_probs, played.log_probs[4:, : kept.old_log_probs.shape[1]])


def test_a_round_of_equal_scores_alone_teaches_nothing(make_ppo, make_envs):
    """Else the price of the KL would be all that differs within a group, at full size."""
    agent = build(make_ppo, make_envs, advantage="grpo", drop_equal_groups=True, kl_coef=0.5)
    with torch.no_grad():
        next(iter(agent.policy.trained_parameters())).add_(0.3)  # away from the reference
    played = agent.collect()
    episodes = tuple(replace(episode, score=1.0) for episode in played.episodes)
    kept = agent.assign(replace(played, episodes=episodes))
    assert len(kept.advantages) == len(episodes)
    assert not kept.advantages.any()


@pytest.mark.parametrize("advantage", ["rloo", "grpo", "loo"])
def test_a_missing_score_is_not_counted_as_0(make_ppo, make_envs, advantage):
    """It is left out with its group, whose baseline would lack it, and counted."""
    agent = build(make_ppo, make_envs, advantage=advantage)
    played = agent.collect()
    first = played.episodes[0].with_rewards(None, {}, None)
    lacking = replace(played, episodes=(first, *played.episodes[1:]))
    experience = agent.assign(agent.scored(lacking))
    whole = agent.assign(played)
    size = len(whole.advantages) - len(experience.advantages)
    assert size == agent.settings.group_size
    time = experience.advantages.shape[1]
    torch.testing.assert_close(experience.paid, whole.paid[size:])
    torch.testing.assert_close(experience.token_rewards, whole.token_rewards[size:, :time])
    known = [episode.score for episode in played.episodes[size:]]
    agent.assign(agent.scored(lacking))
    assert agent.logger.name_to_value["rollout/score"] == pytest.approx(np.mean(known))
    assert agent.logger.name_to_value["rollout/unscored"] == 1


def test_a_round_without_any_score_is_refused(make_ppo, make_envs):
    agent = build(make_ppo, make_envs, advantage="rloo")
    played = agent.collect()
    episodes = tuple(episode.with_rewards(None, {}, None) for episode in played.episodes)
    with pytest.raises(ValueError, match="episodes have no score, and the others share a group"):
        agent.scored(replace(played, episodes=episodes))


def test_groups_that_all_lack_a_score_are_refused(make_ppo, make_envs):
    agent = build(make_ppo, make_envs, advantage="rloo")
    played = agent.collect()
    episodes = tuple(
        episode if row % 4 else episode.with_rewards(None, {}, None)
        for row, episode in enumerate(played.episodes)
    )
    with pytest.raises(ValueError, match="episodes have no score, and the others share a group"):
        agent.scored(replace(played, episodes=episodes))


def test_a_dense_credit_that_is_not_seen_is_said_once(make_ppo, make_envs, caplog):
    agent = build(make_ppo, make_envs, rule_of("uniform"), advantage="grpo")
    with caplog.at_level(logging.WARNING):
        agent.learn(8 * 6 * 2)
    said = [record for record in caplog.records if "reads the score of a whole" in record.message]
    assert len(said) == 1


def test_a_resumed_run_with_groups_equals_an_uninterrupted_one(make_ppo, make_envs, tmp_path):
    whole = build(make_ppo, make_envs, advantage="loo").learn(8 * 6)
    whole.save(tmp_path / "agent")
    whole.learn(8 * 6 * 2, reset_num_timesteps=False)
    envs = make_envs(num_envs=8, reward=target_reward(rule_of("sparse")))
    resumed = PPO.load(tmp_path / "agent", env=envs, device="cpu")
    resumed.learn(8 * 6 * 2, reset_num_timesteps=False)
    assert_equal_weights(whole, resumed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"advantage": "grpo", "group_size": None}, "'grpo'.*group_size"),
        ({"advantage": "loo", "group_size": 3}, "group_size.*got 3"),
        ({"group_size": None, "drop_equal_groups": True}, "group_size"),
        ({"advantage": "loo", "std_floor": 0.1}, "std_floor.*advantage='loo'"),
        ({"advantage": "loo", "gae_lambda": 0.5}, "gae_lambda.*advantage='loo'"),
        *(({"advantage": name, "gamma": 0.5}, f"gamma.*'{name}', which") for name in SCORE_ONLY),
        ({"advantage": "loo", "kl_horizon": 5.0}, "kl_horizon has no effect without kl_target"),
        ({"advantage": "loo", "loss_mean": "mean"}, "loss_mean.*'auto', 'token'"),
    ],
)
def test_what_cannot_work_is_refused(make_ppo, make_envs, settings, message):
    with pytest.raises(ValueError, match=message):
        build(make_ppo, make_envs, **settings)


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize(
    ("advantage", "loss_mean", "expected"),
    [
        *(("rloo", "auto", "token"), ("grpo", "auto", "sequence"), ("dr-grpo", "auto", "constant")),
        *(("grpo", "token", "token"), ("rloo", "sequence", "sequence")),
    ],
)
def test_the_loss_has_the_mean_of_its_paper_however_it_is_split(
    make_ppo, make_envs, advantage, loss_mean, expected, size
):
    """At ratio 1 it is minus the mean of the advantages; those of row i are i."""
    settings = {"loss_mean": loss_mean, "micro_batch_size": size, "kl_coef": 0.0}
    agent = build(make_ppo, make_envs, advantage=advantage, **settings)
    experience = agent.assign(agent.collect())
    lengths = experience.response_mask.sum(1).tolist()
    assert len(set(lengths)) > 2
    rows = torch.arange(8.0)[:, None] * experience.response_mask
    parts = agent.backward(replace(experience, advantages=rows))
    whole = sum(row * length for row, length in enumerate(lengths))
    by_hand = {"token": whole / sum(lengths), "sequence": 28 / 8, "constant": whole / (8 * 6)}
    found = sum(figures["policy_loss"] for figures in parts)
    assert found == pytest.approx(-by_hand[expected], rel=1e-4)


def test_the_longest_response_is_asked_once_a_round(make_ppo, make_envs, monkeypatch):
    agent = build(make_ppo, make_envs, advantage="dr-grpo", micro_batch_size=1)
    experience = agent.assign(agent.collect())
    assert agent.rounds.max_new_tokens == 6
    bare = type(agent.env.unwrapped.envs.unwrapped)
    refused = property(lambda env: pytest.fail("asked within an update"))
    with monkeypatch.context() as patched:
        patched.setattr(bare, "max_new_tokens", refused, raising=False)
        agent.update(experience)
    shorter: Any = {"max_new_tokens": 5, "max_prompt_tokens": 5}  # in arrays as long
    agent.set_env(make_envs(num_envs=8, reward=target_reward(rule_of("sparse")), **shorter))
    assert agent.rounds.max_new_tokens == 5


def test_the_norm_of_the_gradient_is_the_mean_of_the_steps(make_ppo, make_envs, monkeypatch):
    agent = build(make_ppo, make_envs, advantage="rloo", n_epochs=2, n_minibatches=2)
    experience = agent.assign(agent.collect())
    norms = iter([torch.tensor(float(norm)) for norm in (1, 2, 4, 9)])
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda gradients: next(norms))
    agent.update(experience)
    assert agent.logger.name_to_value["train/grad_norm"] == 4.0


def test_the_clip_may_be_wider_upwards():
    log_probs = torch.log(torch.tensor([[1.25]]))
    mask, ones = torch.tensor([[True]]), torch.ones(1, 1)
    for high, expected in ((None, 1.2), (0.28, 1.25)):
        loss = losses.policy_loss(
            log_probs, torch.zeros(1, 1), ones, mask, clip_range=0.2, clip_range_high=high
        )
        assert loss.item() == pytest.approx(-expected)
