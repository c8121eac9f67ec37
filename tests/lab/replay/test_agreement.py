import numpy as np
import pytest
from scipy.stats import spearmanr

from tokengym.lab.replay.agreement import (
    agreement,
    charged_share,
    effective_tokens,
    rank_correlation,
    right_signs,
    share_on,
    tie_ceiling,
)


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(0)
    for _ in range(20):
        credit, truth = rng.integers(-3, 4, 30), rng.integers(-1, 2, 30)
        assert rank_correlation(credit, truth) == pytest.approx(spearmanr(credit, truth).statistic)


def test_a_flat_rule_orders_nothing():
    assert rank_correlation([1.0, 1.0], [0.0, 1.0]) == 0.0
    assert rank_correlation([0.0, 1.0], [2.0, 2.0]) == 0.0
    assert rank_correlation([3.0], [1.0]) == 0.0


def test_the_ceiling_is_what_orders_of_the_ties_reach():
    truth = np.array([0.0, 0.0, 2.0, 0.0, -1.0])
    rng = np.random.default_rng(0)
    for _ in range(5):  # whatever the order among the zeros
        untied = truth + 1e-6 * rng.normal(size=5)
        assert rank_correlation(untied, truth) == pytest.approx(tie_ceiling(truth))


def test_shares_and_signs_by_hand():
    truth = [0.0, 0.5, -0.1, 0.0]
    both, second = [False, True, True, False], [False, True, False, False]
    assert share_on([1.0, -2.0, 1.0, 0.0], both) == 0.75
    assert share_on([1.0, -2.0, 1.0, 0.0], second) == 0.5
    assert share_on([0.0] * 4, both) == 0.0
    assert right_signs([1.0, -2.0, -1.0, 0.0], truth, both) == 0.5
    assert right_signs([1.0, 2.0, 0.0, 0.0], truth, both) == 0.75
    assert right_signs([1.0, 2.0, 0.0, 0.0], truth, second) == 1.0


def test_spread_by_hand():
    assert effective_tokens([0.25, -0.25, 0.5, 0.0]) == pytest.approx(2**1.5)  # 1.5 bits
    assert effective_tokens([0.0, 0.0]) == charged_share([0.0]) == 0.0
    assert charged_share([1.0, -3.0]) == 0.75


def test_means_over_responses():
    credits = [[1.0, 0.0, 0.0], [0.0, 1.0], [1.0, 2.0]]
    truths = [[2.0, 0.0, -1.0], [0.0, 3.0], [0.0, 0.0]]  # the last has nothing to find
    found = agreement(credits, truths)
    first = spearmanr(credits[0], truths[0]).statistic
    assert found.correlation == pytest.approx((first + 1.0) / 2)
    pooled = spearmanr(np.concatenate(credits), np.concatenate(truths)).statistic
    assert found.pooled == pytest.approx(pooled)
    assert found.share == pytest.approx((1.0 + 1.0) / 2)
    assert found.signs == pytest.approx((0.75 + 1.0) / 2)
    assert found.ceiling == pytest.approx(1.0)


def test_the_interval_of_a_correlation_ends_at_1():
    truth = [1.0, 2.0, 3.0]
    found = agreement([truth, truth, truth, [3.0, 1.0, 2.0]], [truth] * 4)
    assert found.correlation == pytest.approx((3.0 - 0.5) / 4)
    half = 3.182446 * 0.75 / 2.0  # t of 3 degrees of freedom times s / sqrt(n)
    assert (found.low, found.high) == pytest.approx((0.625 - half, 1.0))
    assert not found.has_interval
    assert agreement([truth] * 5, [truth] * 5).has_interval


def test_what_matters_may_be_said_apart():
    # By their worth all three tokens matter; by a rule of the task only the last does.
    found = agreement([[1.0, 0.0, 3.0]], [[0.5, -0.5, 1.0]], [[False, False, True]])
    assert found.share == 0.75
    assert found.signs == 1.0
    assert agreement([[1.0, 0.0, 3.0]], [[0.5, -0.5, 1.0]]).share == 1.0


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="none of 1 responses"):
        agreement([[1.0, 2.0]], [[0.5, 1.0]], [[False, False]])
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        rank_correlation([1.0, 2.0], [1.0, 2.0, 3.0])
