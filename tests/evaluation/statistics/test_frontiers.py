"""Frontiers of gain against cost, by hand and by brute force."""

import math

import numpy as np
import pytest

from tokengym.evaluation.statistics import frontier, gain_at


def test_dominated_points_are_left_out() -> None:
    costs, gains = frontier([5.0, 0.0, 2.0, 2.0, 3.0], [1.0, 0.1, 0.5, 0.7, 0.7])
    assert costs.tolist() == [0.0, 2.0, 5.0]  # at 2 the better one; at 3 no more than at 2
    assert gains.tolist() == [0.1, 0.7, 1.0]


def test_the_frontier_is_what_no_other_point_beats() -> None:
    rng = np.random.default_rng(0)
    costs, gains = rng.integers(0, 6, 30).astype(float), rng.integers(0, 9, 30).astype(float)
    points = set(zip(costs.tolist(), gains.tolist(), strict=True))
    best = {
        (c, g) for c, g in points if not any(o[0] <= c and o[1] >= g for o in points - {(c, g)})
    }
    assert set(zip(*(side.tolist() for side in frontier(costs, gains)), strict=True)) == best


def test_gains_lie_on_the_lines_between_points_and_nowhere_beyond() -> None:
    costs, gains = [0.0, 10.0, 4.0, 12.0], [0.0, 0.9, 0.6, 0.2]
    found = gain_at(costs, gains, [-1.0, 0.0, 2.0, 7.0, 11.0, 13.0])
    # 12 nats were measured, though worse: at 11 the policy of 10 nats still serves.
    np.testing.assert_allclose(found, [math.nan, 0.0, 0.3, 0.75, 0.9, math.nan])


def test_a_budget_of_tokens_buys_the_best_point_within_it() -> None:
    found = gain_at([2.0, 5.0, 9.0], [0.3, 0.2, 0.8], [1.0, 2.0, 8.9, 9.0, 99.0], interpolate=False)
    np.testing.assert_allclose(found, [math.nan, 0.3, 0.3, 0.8, 0.8])


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(points,\) alike, got \(2,\), \(1,\)"):
        frontier([0.0, 1.0], [0.0])
