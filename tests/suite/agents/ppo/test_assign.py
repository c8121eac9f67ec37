"""What a round's host learns when all is queued, and what it refuses or computes again then."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tokengym.agents import losses
from tokengym.agents.ppo.steps import read_once
from tokengym.rewards import CreditError


def test_what_is_read_together_keeps_its_shape_and_digits():
    third = torch.tensor([[1.0, 2.0]]) / 3.0
    told = read_once({"flag": torch.tensor(True), "x": third, "y": third.double() / 7.0})
    assert told["flag"] == 1.0
    for name, expected in (("x", third), ("y", third.double() / 7.0)):
        assert told[name].dtype == expected.numpy().dtype
        np.testing.assert_array_equal(told[name], expected.numpy())


def infinite(token_rewards):
    return torch.full_like(token_rewards, torch.inf)


def unknown(token_rewards, values):
    return token_rewards, {"returns": values * torch.nan}


@pytest.mark.parametrize(
    ("advantage", "said"),
    [
        (infinite, r"^advantage infinite .* token 0 of row 0 the value inf; it must be finite"),
        (unknown, r"^returns of advantage unknown .* row 0 the value nan; it must"),
    ],
)
def test_what_is_not_finite_is_refused_before_the_update(make_ppo, advantage, said):
    agent = make_ppo(advantage=advantage)
    before = [weight.detach().clone() for weight in agent.policy.parameters()]
    with pytest.raises(CreditError, match=said):
        agent.learn(1)
    assert all(map(torch.equal, before, agent.policy.parameters()))


def test_a_round_beyond_float32_is_whitened(make_ppo):
    agent = make_ppo(advantage="reinforce++", kl_coef=0.0)
    played = agent.collect()
    paid = [
        replace(one, token_rewards=1e25 * np.arange(len(one.response_ids), dtype=np.float32))
        for one in played.episodes
    ]
    found = agent.assign(replace(played, episodes=tuple(paid)))
    returns = losses.rewards_to_go(found.token_rewards, found.response_mask)
    assert torch.equal(found.advantages, losses.masked_whiten(returns, found.response_mask))
    whitened = found.advantages[found.response_mask]
    assert whitened.std(correction=0).item() == pytest.approx(1.0)
    assert found.advantage_scale == losses.masked_std(returns, found.response_mask).item() > 1e24
