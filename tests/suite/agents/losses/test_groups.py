"""Group baselines: numbers by hand, TRL's, and exact expected gradients by enumeration."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tokengym.agents.losses import advantages as groups

SHORT, LONG = [1.0, 0.0], [0.5, 0.75]
"""Token rewards of the two responses of the one-decision task: stop for 1, or .5 and then .75."""


def expected_gradient(advantage: Callable[[Tensor, Tensor], Tensor], p: float, n: int) -> float:
    """Return E[mean over rows of A_i1 * d log pi / d theta] over all groups, p = sigmoid(theta)."""
    total = 0.0
    for choices in itertools.product([0, 1], repeat=n):
        probability = math.prod(p if choice else 1 - p for choice in choices)
        rewards = torch.tensor([LONG if c else SHORT for c in choices], dtype=torch.float64)
        mask = torch.tensor([[True, bool(c)] for c in choices])
        first = advantage(rewards, mask)[:, 0]
        score = torch.tensor([(1 - p) if c else -p for c in choices], dtype=torch.float64)
        total += probability * float((first * score).mean())
    return total


def of_scores(function: Callable[[Tensor, int], Tensor], n: int) -> Callable[..., Tensor]:
    return lambda rewards, mask: function(rewards.sum(1), n)[:, None].expand_as(rewards)


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize("p", [0.5, 0.2])
def test_leave_one_out_and_rloo_have_the_true_gradient(n: int, p: float):
    true = p * (1 - p) * (sum(LONG) - sum(SHORT))
    loo = expected_gradient(lambda r, m: groups.leave_one_out(r, m, n), p, n)
    assert loo == pytest.approx(true, abs=1e-9)
    assert expected_gradient(of_scores(groups.rloo, n), p, n) == pytest.approx(true, abs=1e-9)
    # Centring by the group's own mean shrinks the gradient by (n - 1) / n and keeps its direction.
    dr_grpo = expected_gradient(of_scores(groups.dr_grpo, n), p, n)
    assert dr_grpo == pytest.approx(true * (n - 1) / n, abs=1e-9)


@pytest.mark.parametrize(
    ("construction", "found"), [("prime", -0.141), ("centred", -0.111), ("per index", -0.109)]
)
def test_published_constructions_are_biased(construction: str, found: float):
    """The table of the suite: the true gradient is +.0625, and these have the other sign."""

    def biased(rewards: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1)
        n = len(rewards)
        if construction == "prime":  # token rewards minus the mean of the other rows' means
            means = rewards.sum(1) / lengths
            shifted = rewards * n / (n - 1) - means.sum() / (n - 1)
        elif construction == "centred":  # all step rewards of the group by one mean
            shifted = rewards - rewards[mask].mean()
        else:  # the mean per index of the response, itself included
            shifted = rewards - (rewards * mask).sum(0) / mask.sum(0).clamp(min=1)
        return groups.rewards_to_go(shifted, mask)

    assert expected_gradient(biased, 0.5, 8) == pytest.approx(found, abs=6e-4)


def test_advantages_of_rows_that_end_alone_are_their_rewards_to_go():
    rewards = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 3.0]])
    mask = torch.tensor([[True, False, False], [True, True, True]])
    assert groups.leave_one_out(rewards, mask, 2).tolist() == [[-4.0, 0.0, 0.0], [4.0, 5.0, 3.0]]


def test_reward_to_go_discounts_and_ignores_what_is_under_the_mask():
    rewards = torch.tensor([[1.0, 2.0, float("nan")]])
    mask = torch.tensor([[True, True, False]])
    assert groups.rewards_to_go(rewards, mask, gamma=0.5).tolist() == [[2.0, 2.0, 0.0]]


def test_numbers_by_hand():
    scores = torch.tensor([0.0, 1.0, 5.0, 2.0, 2.0, 2.0])
    assert groups.rloo(scores, 3).tolist() == [-3.0, -1.5, 4.5, 0.0, 0.0, 0.0]
    assert groups.dr_grpo(scores, 3).tolist() == [-2.0, -1.0, 3.0, 0.0, 0.0, 0.0]
    scaled = groups.grpo(scores, 3, epsilon=0.0)[:3]
    torch.testing.assert_close(scaled, torch.tensor([-2.0, -1.0, 3.0]) / math.sqrt(7.0))
    assert groups.varied_groups(scores, 3).tolist() == [True] * 3 + [False] * 3


def test_equal_scores_do_not_explode():
    """Leave-one-out with std normalisation explodes on 0/1 rewards when the peers are equal."""
    scores = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert groups.grpo(scores, 4).abs().max() < 2.0
    assert groups.grpo(torch.ones(4), 4).tolist() == [0.0] * 4


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_read_as_trl_reads_them(seed: int):
    """TRL 1.16 in its own words (grpo_trainer, rloo_trainer): view by group, nanmean, nanstd."""
    pytest.importorskip("trl", reason="TRL needs Python 3.11")
    from trl.trainer.utils import nanstd

    scores = torch.randn(24, generator=torch.Generator().manual_seed(seed))
    grouped = scores.view(-1, 6)
    mean = torch.nanmean(grouped, dim=1).repeat_interleave(6)
    std = nanstd(grouped, dim=1).repeat_interleave(6)
    torch.testing.assert_close(
        groups.grpo(scores, 6), (scores - mean) / (std + 1e-4), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(groups.dr_grpo(scores, 6), scores - mean, atol=1e-6, rtol=0)
    baselines = ((torch.nansum(grouped, 1, keepdim=True) - grouped) / 5).flatten()
    torch.testing.assert_close(groups.rloo(scores, 6), scores - baselines, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("rows", "size", "message"),
    [(8, 1, "group_size must be >= 2, got 1"), (10, 4, "divide the number of rows, got 4 for 10")],
)
def test_groups_that_cannot_be(rows: int, size: int, message: str):
    for function in (groups.rloo, groups.grpo, groups.dr_grpo):
        with pytest.raises(ValueError, match=message):
            function(torch.zeros(rows), size)
    with pytest.raises(ValueError, match=message):
        groups.leave_one_out(torch.zeros(rows, 2), torch.ones(rows, 2, dtype=torch.bool), size)
