"""The page on RLHF: its numbers are those of the package's formulas."""

import math

import pytest
import torch

from tests.checkout.pages import DOCS
from tokengym.agents.losses import dpo_loss

PAGE = " ".join((DOCS / "guide" / "rlhf.md").read_text(encoding="utf-8").split())


def test_the_reward_model_s_loss_is_worked_out():
    probability = 1 / (1 + math.exp(-(1.2 - 0.2)))
    assert f"sigmoid(1.0) = {probability:.3f} and the loss is {-math.log(probability):.3f}" in PAGE
    assert f"the loss would be {-math.log(1 - probability):.3f}" in PAGE


def test_the_dpo_loss_is_that_of_the_package():
    """Log-ratios of 2 and -1 to any reference."""
    chosen, rejected = torch.tensor([-28.0]), torch.tensor([-41.0])
    loss = dpo_loss(chosen, rejected, chosen - 2, rejected + 1, beta=0.1, loss_type="sigmoid")
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.3)))
    assert f"h = 0.1 * (2 + 1) = 0.3 and the loss is {loss.item():.3f}" in PAGE
    start = dpo_loss(chosen, rejected, chosen, rejected, beta=0.1, loss_type="sigmoid")
    assert f"the loss is log 2 = {start.item():.3f}" in PAGE
