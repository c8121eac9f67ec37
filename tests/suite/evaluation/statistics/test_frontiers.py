"""Frontiers of gain against cost, by hand and by brute force."""

import math

import numpy as np
import pytest

from tokengym.evaluation.statistics import frontier, gain_at, optimum_bound


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


def test_the_optimum_s_bound_by_hand() -> None:
    # One prompt: 2 log((e^0 + e^(2 log 3 / 2)) / 2) = 2 log 2; the other's responses are all 5.
    scores = [[0.0, 2.0 * math.log(3.0)], [5.0, 5.0]]
    assert optimum_bound(scores, price=2.0) == pytest.approx((2.0 * math.log(2.0) + 5.0) / 2.0)


def test_the_optimum_s_bound_lies_between_the_mean_and_the_greatest_at_any_price() -> None:
    scores = np.random.default_rng(0).normal(size=(8, 16)) * 50.0
    bounds = [optimum_bound(scores, price) for price in (1e-6, 0.05, 1.0, 50.0, 1e6)]
    assert bounds == sorted(bounds, reverse=True)  # exp(50 / 1e-6) does not overflow
    assert bounds[0] == pytest.approx(scores.max(axis=1).mean(), abs=1e-4)
    assert bounds[-1] == pytest.approx(scores.mean(), abs=0.01)


def test_the_optimum_s_bound_is_below_the_optimum_and_rises_with_the_responses() -> None:
    probs, worth, price = np.array([0.7, 0.2, 0.1]), np.array([0.0, 1.0, 4.0]), 0.5
    best = price * math.log(float(probs @ np.exp(worth / price)))
    drawn = np.random.default_rng(0).choice(worth, (4_000, 64), p=probs)
    few, many = (optimum_bound(drawn[:, :n], price) for n in (4, 64))
    assert few < many < best
    assert many == pytest.approx(best, abs=0.05)


@pytest.mark.parametrize("price", [0.0, -1.0, math.nan])
def test_without_a_price_the_optimum_has_no_bound(price: float) -> None:
    with pytest.raises(ValueError, match=rf"price must be > 0, got {price:g}: .* highest score"):
        optimum_bound([[1.0, 2.0]], price)
