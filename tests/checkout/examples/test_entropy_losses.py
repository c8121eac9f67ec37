# mypy: no-check-untyped-defs
"""Clip-Cov and KL-Cov by hand, and under PPO."""

import math
from pathlib import Path

import gymnasium as gym
import pytest
import torch

from examples.entropy_losses import clip_cov, kl_cov
from tokengym import PPO
from tokengym.envs import SettingsError

FILE = Path(__file__).parents[3] / "examples" / "entropy_losses.py"
MASK = torch.tensor([[True, True], [True, False]])
OLD = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]])
NOW = torch.tensor([[-0.9, -2.1], [-3.0, 9.0]])
ADVANTAGES = torch.tensor([[3.0, 0.0], [-3.0, 0.0]])
# Means 0 and -2: the covariances are 3 * 1.1 = 3.3, 0 * -.1 = 0 and -3 * -1 = 3.


def gradient_of(loss, **options):
    log_probs = NOW.clone().requires_grad_(True)
    found, figures = loss(log_probs, OLD, ADVANTAGES, MASK, **options)
    found.masked_fill(~MASK, 0.0).sum().backward()
    return found.detach(), log_probs.grad, figures


def test_kl_cov_charges_the_move_of_the_largest_covariance():
    found, gradient, figures = gradient_of(kl_cov, share=0.4, price=2.0)  # one token of three
    assert found[0].tolist() == pytest.approx([-3 * math.exp(0.1) + 2 * 0.1, 0.0])
    assert found[1, 0].item() == pytest.approx(3.0)
    assert gradient[0].tolist() == pytest.approx([-3 * math.exp(0.1) + 2.0, 0.0])
    assert figures["charged"].tolist() == [0.5, 0.0]
    both, *_ = gradient_of(kl_cov, share=0.7, price=2.0)  # two: 3.3 and 3, which did not move
    assert both[1, 0].item() == pytest.approx(3.0)


@pytest.mark.parametrize(("low", "high", "is_left_out"), [(3.1, 5.0, (0, 0)), (2.0, 3.2, (1, 0))])
def test_clip_cov_leaves_out_a_token_between_its_bounds(low, high, is_left_out):
    how = {"clip_range": 0.2, "clip_range_high": 0.2, "low": low, "high": high}
    found, gradient, figures = gradient_of(clip_cov, generator=torch.Generator(), **how)
    plain = torch.tensor([[-3 * math.exp(0.1), 0.0], [3.0, 0.0]])
    plain[is_left_out] = 0.0
    torch.testing.assert_close(found.masked_fill(~MASK, 0.0), plain)
    assert gradient[is_left_out] == 0.0
    assert figures["left_out"].sum() == (0.5 if is_left_out == (0, 0) else 1.0)


def test_clip_cov_takes_no_token_that_the_clip_stops():
    how = {"clip_range": 0.2, "clip_range_high": 0.05, "low": 3.1, "high": 5.0}
    found, _, figures = gradient_of(clip_cov, generator=torch.Generator(), **how)
    assert found[0, 0].item() == pytest.approx(-3 * 1.05)
    assert not figures["left_out"].any()


@pytest.mark.parametrize("name", ["clip_cov", "kl_cov"])
def test_each_trains_and_is_refused_in_parts(name):
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=8, max_new_tokens=4)
    agent = PPO("CausalLMPolicy", envs, seed=0, loss=f"{FILE}:{name}")
    agent.learn(8 * 4, log_interval=None)
    (logged,) = (key for key in agent.logger.name_to_value if key.endswith(("left_out", "charged")))
    assert 0.0 <= agent.logger.name_to_value[logged] <= 1.0
    with pytest.raises(SettingsError, match=r"-cov .*by_row=False"):
        PPO("CausalLMPolicy", envs, loss=f"{FILE}:{name}", micro_batch_size=2)
