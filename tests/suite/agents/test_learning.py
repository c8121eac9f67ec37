"""The identity-like environment (the score counts a target token) must be solved."""

from typing import Any

import pytest

from tests.support.agents.common import lora_config, make_model, per_token, target_reward
from tests.support.agents.ppo import log_of
from tests.support.rules import rule_of
from tokengym.agents import collect

SOLVED = 0.85  # of 1.0; the untrained model is near 0.1


@pytest.mark.parametrize(("credit", "lora"), [(rule_of("sparse"), False), (per_token, True)])
def test_ppo_solves_it(make_envs, make_ppo, credit, lora):
    def envs(num_envs: int) -> Any:
        return make_envs(num_envs=num_envs, reward=target_reward(credit))

    agent = make_ppo(
        envs=envs(32),
        # Adapters leave the head as it is, and a random one must be sharp to allow a sure choice.
        model=make_model(scale=12.0 if lora else 2.0),
        lora=lora_config("gpt2") if lora else None,
        learning_rate=1e-2,
        kl_coef=0.01,
    )
    rows = log_of(agent, 32 * 6 * 16)
    assert rows[0]["rollout/score"] < 0.4
    final = [episode.score for episode in collect(agent, envs(32), 64, seed=100)]
    assert sum(final) / len(final) > SOLVED
    for row in rows:
        assert row["train/ratio_error"] < 1e-4
        assert row["train/kl"] > -1e-5  # the exact one, but for rounding
