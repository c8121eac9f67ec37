"""The KL to the reference: every estimator, in the reward and in the loss; value warm-up."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.agents.common import VOCABULARY, critic_of, make_model, per_token, target_reward
from tests.support.agents.policy import shake
from tests.support.agents.ppo import gradient, log_of
from tokengym.agents import PPO
from tokengym.agents.losses import adaptive_kl_coef
from tokengym.agents.policy.language_model import CausalLM
from tokengym.agents.ppo.settings import PPOSettings
from tokengym.envs import SettingsError

MASKS = {"min_new_tokens": 2, "forbidden_token_ids": (2,)}


def by_hand(agent: PPO, episode: Any, estimator: str) -> torch.Tensor:
    """KL of one episode's tokens, from the whole models, masked by hand; differentiable."""
    n, ids = len(episode.response_ids), [*episode.prompt_ids, *episode.response_ids]
    allowed = torch.ones(n, VOCABULARY, dtype=torch.bool)
    allowed[:, 2] = False
    allowed[:2, 1] = False
    both = []
    for model in (agent.policy.language_model.model, make_model().eval()):
        logits = model(torch.tensor([ids])).logits[0, -n - 1 : -1] / agent.settings.temperature
        both.append(logits.masked_fill(~allowed, -1e30).log_softmax(-1))
    log_p, log_q = both[0], both[1].detach()
    if estimator == "exact":
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    chosen = torch.tensor(episode.response_ids).unsqueeze(1)
    d = (log_p - log_q).gather(1, chosen).squeeze(1)
    return {"k1": d, "k2": d * d / 2, "k3": (-d).exp() - 1 + d}[estimator]


@pytest.mark.parametrize(
    ("kl_in", "estimator", "price"),
    [("reward", "k1", 0.3), ("reward", "exact", 0.3), ("loss", "exact", 0.0)],
)
def test_in_the_reward_it_is_taken_off_each_token(make_envs, make_ppo, kl_in, estimator, price):
    """In the loss alone it is not."""
    envs = make_envs(reward=target_reward(per_token), **MASKS)
    settings = {"gae_lambda": 1.0, "temperature": 1.3, "kl_in": kl_in, "kl_estimator": estimator}
    agent = make_ppo(envs=envs, kl_coef=0.3, **settings)
    shake(agent)
    played = agent.collect()
    experience = agent.assign(played)
    assert (experience.ref_log_probs is None) == (kl_in == "reward")
    for row, episode in enumerate(played.episodes):
        paid = price * by_hand(agent, episode, estimator).detach().numpy()
        rewards = episode.token_rewards - paid
        # lambda 1, gamma 1: the return at t is what is still to come
        to_come = np.cumsum(rewards[::-1])[::-1]
        found = experience.returns[row, : len(rewards)]
        np.testing.assert_allclose(found, to_come, atol=1e-4)


@pytest.mark.parametrize(
    ("kl_in", "estimator"), [("loss", "k2"), ("loss", "k3"), ("loss", "exact"), ("reward", "exact")]
)
def test_in_the_loss_it_adds_its_own_gradient(make_envs, make_ppo, kl_in, estimator):
    """Against autograd on the formula written out above, over ragged rows in micro-batches too.

    The exact KL in the reward adds the same to the loss: its direct gradient, in reward units.
    """
    agent = make_ppo(
        envs=make_envs(num_envs=8, **MASKS),
        temperature=1.3,
        kl_in=kl_in,
        kl_estimator=estimator,
        kl_coef=1e-12,  # without a price the reference would not be asked
    )
    shake(agent)
    played = agent.collect()
    experience = agent.assign(played)
    agent.kl_coef = 0.0
    assert (experience.ref_states is not None) == (estimator == "exact")
    assert len(set(experience.sequences.lengths.tolist())) > 2
    without = gradient(agent, experience)
    agent.kl_coef = 2.0
    agent.policy.optimizer.zero_grad()
    tokens = int(experience.response_mask.sum())
    total = sum(by_hand(agent, episode, estimator).sum() for episode in played.episodes)
    scale = experience.advantage_scale
    assert abs(scale - 1.0) > 0.01
    (2.0 / scale * total / tokens).backward()
    expected = torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
            for p in agent.policy.trained_parameters()
        ]
    )
    assert expected.norm() > 1e-2
    for size in (None, 3, 1):
        agent.settings = replace(agent.settings, micro_batch_size=size)
        found = gradient(agent, experience) - without
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("kl_in", "estimator"),
    [("reward", "exact"), ("reward", "k1"), ("loss", "exact"), ("loss", "k2"), ("loss", "k3")],
)
def test_the_kl_that_is_paid_is_logged_and_followed_and_the_sampled_one_is_beside_it(
    make_envs, make_ppo, kl_in, estimator
):
    agent = make_ppo(
        envs=make_envs(num_envs=8, **MASKS),
        kl_in=kl_in,
        kl_estimator=estimator,
        kl_coef=0.2,
        kl_target=1e-3,
        kl_horizon=100.0,
        n_epochs=1,  # of one step, before which the policy is the one that sampled
        n_minibatches=1,
        micro_batch_size=3,
    )
    shake(agent)
    played = agent.collect()
    paid, sampled = (
        np.mean([by_hand(agent, episode, kind).sum().item() for episode in played.episodes])
        for kind in (estimator, "k1")
    )
    agent.learn_from(played)
    logged = agent.logger.name_to_value
    assert logged["train/kl"] == pytest.approx(paid, rel=1e-4)
    assert logged["train/kl_sampled"] == pytest.approx(sampled, rel=1e-4)
    assert (abs(paid - sampled) > 0.01 * abs(sampled)) == (estimator != "k1")
    expected = adaptive_kl_coef(0.2, logged["train/kl"], target=1e-3, horizon=100.0, n_steps=8)
    assert agent.kl_coef == pytest.approx(expected)


def test_where_nothing_is_paid_the_logged_kl_is_the_sampled_one(make_ppo):
    agent = make_ppo(kl_coef=0.0)
    shake(agent)
    (row,) = log_of(agent, 1)
    assert row["train/kl"] == row["train/kl_sampled"] != 0.0


def test_both_parts_of_the_exact_kl_make_the_gradient_of_score_minus_its_price():
    """Against autograd through the expectation over every response; one part alone is wrong."""
    vocab, horizon, price = 3, 3, 0.7
    generator = torch.Generator().manual_seed(0)
    ref, start = (torch.randn(40, vocab, generator=generator).double() for _ in range(2))
    scores = torch.randn(vocab**horizon, generator=generator).double()

    def parts(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probs and KLs, (responses, time), of every response; its scores."""
        log_p, log_q = logits.log_softmax(-1), ref.log_softmax(-1)
        kl = (log_p.exp() * (log_p - log_q)).sum(-1)
        log_probs, kls = [], []
        for response in range(vocab**horizon):
            tokens = [response // vocab**place % vocab for place in range(horizon)]
            states = [int("1" + "".join(map(str, tokens[:t])), vocab) for t in range(horizon)]
            log_probs.append(
                torch.stack([log_p[s, a] for s, a in zip(states, tokens, strict=True)])
            )
            kls.append(torch.stack([kl[s] for s in states]))
        return torch.stack(log_probs), torch.stack(kls), scores

    logits = start.requires_grad_(True)
    log_probs, kls, score = parts(logits)
    truth = (log_probs.sum(1).exp() * (score - price * kls.sum(1))).sum()
    (expected,) = torch.autograd.grad(truth, logits)

    log_probs, kls, score = parts(logits)
    weights = log_probs.sum(1).exp().detach()
    to_go = score[:, None] - price * kls.detach().flip(1).cumsum(1).flip(1)
    in_reward = (weights[:, None] * to_go * log_probs).sum()
    direct = -price * (weights[:, None] * kls).sum()
    (found,) = torch.autograd.grad(in_reward + direct, logits, retain_graph=True)
    torch.testing.assert_close(found, expected)
    for part in (in_reward, direct):
        (alone,) = torch.autograd.grad(part, logits, retain_graph=True)
        assert (alone - expected).norm() > 0.1 * expected.norm()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_in": "loss", "kl_estimator": "k1"}, "kl_estimator='k1'.*gradient of mean 0.*take"),
        ({"kl_in": "reward", "kl_estimator": "k2"}, "kl_estimator='k2'.*direct gradient.*take"),
        ({"kl_in": "reward", "kl_estimator": "k3"}, "kl_estimator='k3'.*direct gradient.*take"),
        ({"kl_coef": 0.0, "kl_target": 5.0}, r"kl_target=5\.0.*kl_coef=0"),
    ],
)
def test_prices_of_the_kl_without_effect_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        PPOSettings(**settings)


# --- value warm-up ------------------------------------------------------------------------------


@pytest.mark.parametrize(("kl_in", "network"), [("reward", "trunk"), ("loss", "own")])
def test_the_value_function_learns_alone_at_first(make_ppo, kl_in, network):
    settings = {"ent_coef": 0.1, "kl_in": kl_in, "kl_estimator": "exact", "value_network": network}
    agent = make_ppo(n_value_warmup=2, learning_rate=1e-2, **settings)
    for update in range(3):
        before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
        agent.learn_from(agent.collect())
        after = agent.policy.state_dict()
        moved = {name.split(".")[0] for name in before if not after[name].equal(before[name])}
        assert moved == ({"critic", "language_model"} if update == 2 else {"critic"})


def test_warming_up_takes_the_same_steps_on_the_value_head_as_regression(make_ppo):
    agent = make_ppo(n_value_warmup=1, clip_range_vf=None)
    experience = agent.assign(agent.collect())
    agent.backward(experience)
    rows, times, _ = experience.sequences.response_positions
    states = agent.policy.states(experience.sequences).detach()
    returns = experience.returns[rows, times]
    residual = critic_of(agent).of_states(states).detach() - returns
    expected = agent.vf_coef * (residual.unsqueeze(1) * states).mean(0)
    found = critic_of(agent).head.weight.grad
    torch.testing.assert_close(found[0], expected, atol=1e-6, rtol=1e-4)
    assert all(p.grad is None for p in agent.policy.language_model.parameters())


@pytest.mark.parametrize(
    ("kl_in", "estimator"), [("loss", "exact"), ("reward", "exact"), ("reward", "k1")]
)
def test_a_micro_batch_bounds_every_pass_of_an_update(
    make_envs, make_ppo, monkeypatch, kl_in, estimator
):
    agent = make_ppo(
        envs=make_envs(num_envs=8, **MASKS),
        kl_in=kl_in,
        kl_estimator=estimator,
        kl_coef=0.1,
        micro_batch_size=2,
        old_log_probs="recomputed",
    )
    played: Any = agent.collect()
    rows: list[int] = []
    hidden = CausalLM.hidden

    def counted(self: CausalLM, input_ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
        rows.append(len(input_ids))
        return hidden(self, input_ids, **inputs)

    monkeypatch.setattr(CausalLM, "hidden", counted)
    agent.learn_from(played)
    assert max(rows) == 2
