"""Traps known from other implementations of critic-free learners, one test each."""

import math

import pytest
import torch

from tokengym.agents.losses import (
    dr_grpo,
    grpo,
    kl_estimate,
    masked_whiten,
    rewards_to_go,
    varied_groups,
)


def test_reinforce_plus_plus_is_whitened_over_the_batch_and_not_by_group():
    """Whitened by group it would be GRPO: a group that did better as a whole would not show."""
    rewards = torch.tensor([[1.0], [2.0], [11.0], [12.0]])
    mask = torch.ones(4, 1, dtype=torch.bool)
    found = masked_whiten(rewards_to_go(rewards, mask), mask)[:, 0]
    deviation = math.sqrt((5.5**2 + 4.5**2 + 4.5**2 + 5.5**2) / 4)
    assert found.tolist() == pytest.approx([x / deviation for x in (-5.5, -4.5, 4.5, 5.5)])
    by_group = grpo(rewards[:, 0], 2)
    assert by_group[:2].tolist() == by_group[2:].tolist()
    assert found[2] - found[0] > 1.0


def test_a_gpu_whose_squares_overflow_leaves_no_advantage_at_zero(monkeypatch):
    """On the CPU ``std`` adds float32 squares up in float64; played is a GPU, which does not."""

    def std(x: torch.Tensor, dim: int, keepdim: bool = False) -> torch.Tensor:
        squares = (x - x.mean(dim, keepdim=True)) ** 2
        return (squares.sum(dim, keepdim=keepdim) / (x.shape[dim] - 1)).sqrt()

    monkeypatch.setattr(torch.Tensor, "std", std)
    scores = torch.tensor([1.0, 3.0, 2.0, 2.0])
    assert grpo(1e25 * scores, 2).tolist() == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5), 0, 0])
    assert varied_groups(1e25 * scores, 2).tolist() == [True, True, False, False]


def test_the_deviation_weighs_hard_prompts_up():
    hard = torch.tensor([1.0, *[0.0] * 7])  # one in eight
    even = torch.tensor([*[1.0] * 4, *[0.0] * 4])
    centred = dr_grpo(hard, 8)[0] / dr_grpo(even, 8)[0]
    scaled = grpo(hard, 8)[0] / grpo(even, 8)[0]
    assert centred.item() == pytest.approx(0.875 / 0.5)
    # Deviations by hand: sqrt(1/8) and sqrt(2/7).
    assert scaled.item() == pytest.approx(0.875 / 0.5 * math.sqrt((2 / 7) / (1 / 8)), rel=1e-3)


def test_k1_in_the_loss_has_no_gradient_and_k3_that_of_the_reverse_kl():
    """Expectations over a vocabulary of three, samples from the policy itself."""
    logits = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.9, 0.2, -0.4], dtype=torch.float64).log_softmax(0)
    log_probs = logits.log_softmax(0)
    probs = log_probs.detach().exp()

    def gradient(loss: torch.Tensor) -> list[float]:
        (found,) = torch.autograd.grad(loss, logits, retain_graph=True)
        return found.tolist()

    def expected(estimator: str) -> torch.Tensor:
        found = kl_estimate(log_probs[None], reference[None], estimator=estimator)[0]
        return (probs * found).sum()  # the tokens were drawn: their chances carry no gradient

    forward = (log_probs.exp() * (log_probs - reference)).sum()
    backward = (reference.exp() * (reference - log_probs)).sum()
    assert gradient(expected("k1")) == pytest.approx([0.0] * 3, abs=1e-12)
    assert gradient(expected("k2")) == pytest.approx(gradient(forward))
    assert gradient(expected("k3")) == pytest.approx(gradient(backward))
