"""KL and entropy of an evaluation, against whole models and the tokens that could be drawn."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.support.agents.common import PROMPTS, VOCABULARY, WithinPolicy, make_model, target_share
from tests.support.agents.policy import shake
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import PPO
from tokengym.evaluation.measure.evaluate import evaluate

SAMPLERS: dict[str, dict[str, Any]] = {
    "all": {},
    "temperature": {"temperature": 0.7},
    "top-k": {"top_k": 3},
    "top-p": {"top_p": 0.6, "temperature": 1.5},
    "both": {"top_k": 4, "top_p": 0.8},
    "mask": {"mask_top_p": 0.7},
}
"""Settings of the policy by the name of its sampler; that with a mask keeps the nucleus of a model
beside it."""
EACH = pytest.mark.parametrize("sampler", SAMPLERS)


def made(sampler: str, *, seed: int = 0) -> tuple[PPO, Any]:
    """Return a learner with a sampler, and its environment, in which tokens are forbidden too."""
    envs = gym.make_vec(
        "tokengym/TokenGeneration-v0",
        num_envs=8,
        tokenizer=make_tokenizer(),
        prompts=PROMPTS,
        reward=target_share,
        max_new_tokens=5,
        min_new_tokens=2,
        forbidden_token_ids=[2],
    )
    settings = dict(SAMPLERS[sampler])
    mask_top_p = settings.pop("mask_top_p", None)
    agent = PPO(
        "CausalLMPolicy" if mask_top_p is None else WithinPolicy,
        envs,
        policy_kwargs={"model": make_model()},
        seed=seed,
        device="cpu",
        n_minibatches=1,
        **settings,
    )
    if isinstance(agent.policy, WithinPolicy):
        agent.policy.sample_within_itself(mask_top_p)
    return agent, envs


def nucleus(probs: torch.Tensor, top_p: float) -> list[int]:
    """Return the fewest of the likeliest tokens that have ``top_p`` together, by hand."""
    kept, mass = [], 0.0
    for token in sorted(range(len(probs)), key=lambda v: -float(probs[v])):
        if mass >= top_p or probs[token] == 0.0:
            break
        kept.append(token)
        mass += float(probs[token])
    return kept


def drawable(agent: PPO, sampler: str, logits: torch.Tensor, first: torch.Tensor) -> list[int]:
    """Return the tokens that could be drawn, of shaped logits (vocab,) with -inf forbidden ones."""
    settings = SAMPLERS[sampler]
    if "mask_top_p" in settings:
        return nucleus(first.softmax(-1), settings["mask_top_p"])
    kept = [v for v in range(VOCABULARY) if torch.isfinite(logits[v])]
    if k := settings.get("top_k"):
        kept = sorted(kept, key=lambda v: -float(logits[v]))[:k]
    if (p := settings.get("top_p", 1.0)) < 1.0:
        among = torch.full_like(logits, -torch.inf)
        among[kept] = logits[kept]
        kept = nucleus(among.softmax(-1), p)
    return kept


@torch.no_grad()
def by_hand(agent: PPO, sampler: str, episodes: Any) -> dict[str, Any]:
    """Return what is known of each state by enumeration: KL, its estimate, entropy."""
    policy = agent.policy.language_model.model
    start = make_model().eval()
    temperature = SAMPLERS[sampler].get("temperature", 1.0)
    rows: dict[str, Any] = {"kl": [], "estimate": [], "entropy": []}
    for episode in episodes:
        ids = torch.tensor([[*episode.prompt_ids, *episode.response_ids]])
        of_row: dict[str, list[float]] = {name: [] for name in rows}
        for t, token in enumerate(episode.response_ids):
            place = len(episode.prompt_ids) - 1 + t
            both = []
            for model in (policy, start):
                logits = model(input_ids=ids).logits[0, place].double() / temperature
                logits[2] = -torch.inf
                if t < 2:
                    logits[1] = -torch.inf  # no end before two tokens
                both.append(logits)
            kept = drawable(agent, sampler, *both)
            assert token in kept
            log_p, log_q = (logits[kept].log_softmax(-1) for logits in both)
            of_row["kl"].append(float((log_p.exp() * (log_p - log_q)).sum()))
            of_row["entropy"].append(float(-(log_p.exp() * log_p).sum()))
            of_row["estimate"].append(float((log_p - log_q)[kept.index(token)]))
        for name, values in of_row.items():
            rows[name].append(values)
    return rows


@EACH
@pytest.mark.parametrize("greedy", [False, True])
def test_the_kl_before_training_is_0_under_any_sampler(sampler, greedy):
    agent, envs = made(sampler)
    found = evaluate(agent, envs, num_episodes=16, deterministic=greedy)
    assert found.metrics["kl"] == pytest.approx(0.0, abs=1e-5)
    assert found.kls is not None
    np.testing.assert_allclose(found.kls, np.zeros(16), atol=1e-5)
    assert found.metrics["entropy"] > 0.1


@EACH
@pytest.mark.parametrize("greedy", [False, True])
def test_kl_and_entropy_are_exact(sampler, greedy):
    """Of the states that were met, whatever token was taken there."""
    agent, envs = made(sampler)
    shake(agent)
    found = evaluate(agent, envs, num_episodes=12, seed=3, deterministic=greedy)
    known = by_hand(agent, sampler, found.episodes)
    sums = [sum(row) for row in known["kl"]]
    assert found.kls is not None
    np.testing.assert_allclose(found.kls, sums, atol=1e-4)
    assert found.metrics["kl"] == pytest.approx(np.mean(sums), abs=1e-4)
    assert found.metrics["entropy"] == pytest.approx(
        np.mean(np.concatenate(known["entropy"])), abs=1e-4
    )
    estimated = np.mean([sum(row) for row in known["estimate"]])
    assert abs(estimated - np.mean(sums)) > 0.01  # the tokens taken would have said otherwise


@EACH
def test_training_and_measuring_mean_one_kl(sampler):
    """The exact KL that a round logs is the mean of what its tokens estimate."""
    agent, envs = made(sampler)
    shake(agent, 0.02)
    logged = []
    for _ in range(30):
        played = agent.collect()
        assert played is not None
        agent.assign(played)
        logged.append(agent.logger.name_to_value["train/kl_sampled"])
    found = evaluate(agent, envs, num_episodes=240, seed=5)
    assert found.kls is not None
    error = np.hypot(found.kls.std() / 240**0.5, np.std(logged) / 30**0.5)
    assert abs(found.metrics["kl"] - np.mean(logged)) < 4.0 * error
    assert error < 0.1
