"""A lower bound on the optimum, by hand and against the optimum itself."""

import math

import numpy as np
import pytest

from tokengym.evaluation.statistics import optimum_bound


def test_the_optimum_s_bound_by_hand():
    # One prompt: 2 log((e^0 + e^(2 log 3 / 2)) / 2) = 2 log 2; the other's responses are all 5.
    scores = [[0.0, 2.0 * math.log(3.0)], [5.0, 5.0]]
    assert optimum_bound(scores, price=2.0) == pytest.approx((2.0 * math.log(2.0) + 5.0) / 2.0)


def test_the_optimum_s_bound_lies_between_the_mean_and_the_greatest_at_any_price():
    scores = np.random.default_rng(0).normal(size=(8, 16)) * 50.0
    bounds = [optimum_bound(scores, price) for price in (1e-6, 0.05, 1.0, 50.0, 1e6, math.inf)]
    assert bounds == sorted(bounds, reverse=True)  # exp(50 / 1e-6) does not overflow
    assert bounds[0] == pytest.approx(scores.max(axis=1).mean(), abs=1e-4)
    assert bounds[-1] == pytest.approx(scores.mean(), abs=0.01)


def test_the_optimum_s_bound_is_below_the_optimum_and_rises_with_the_responses():
    probs, worth, price = np.array([0.7, 0.2, 0.1]), np.array([0.0, 1.0, 4.0]), 0.5
    best = price * math.log(float(probs @ np.exp(worth / price)))
    drawn = np.random.default_rng(0).choice(worth, (4_000, 64), p=probs)
    few, many = (optimum_bound(drawn[:, :n], price) for n in (4, 64))
    assert few < many < best
    assert many == pytest.approx(best, abs=0.05)


def test_responses_without_a_score_have_no_bound():
    with pytest.raises(ValueError, match=r"^scores must be finite"):
        optimum_bound([[1.0, math.nan]], price=1.0)
    with pytest.raises(ValueError, match=r"^scores must hold at least one value"):
        optimum_bound([], price=1.0)


@pytest.mark.parametrize("price", [0.0, -1.0, math.nan])
def test_without_a_price_the_optimum_has_no_bound(price):
    with pytest.raises(ValueError, match=rf"price.*got {price:g}"):
        optimum_bound([[1.0, 2.0]], price)
