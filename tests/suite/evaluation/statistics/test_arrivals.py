import math

import numpy as np
import pytest

from tokengym.evaluation.statistics import (
    censored_steps,
    paired_difference,
    relative_steps,
    steps_to_shares,
)

STEPS = np.arange(0.0, 101.0, 5.0)


def line(slopes: list[float]) -> np.ndarray:
    """Return straight curves, one run per slope."""
    return np.array(slopes)[:, None] * STEPS / 100.0


def test_censored_steps_keep_runs_that_never_arrive():
    result = censored_steps([10.0, 20.0, math.inf, math.inf], 40.0)
    assert result.reached == 0.5
    assert result.restricted_mean == 27.5
    assert result.median == math.inf  # of an even number, the upper: half have not arrived
    assert result.low <= 27.5 <= result.high <= 40.0
    assert censored_steps([10.0, 20.0, math.inf], 40.0).median == 20.0
    assert censored_steps([50.0], 40.0).reached == 0.0  # later than the budget is not in time


def test_twice_as_fast_needs_half_the_steps():
    result = relative_steps(STEPS, line([2.0] * 5), line([1.0] * 5))
    assert result.threshold == pytest.approx((0.9 + 0.95 + 1.0) / 3)  # ceil(21 / 10) points
    assert result.baseline_steps == pytest.approx(95.0)
    assert result.steps == pytest.approx(47.5)
    assert (result.ratio, result.low, result.high) == pytest.approx((0.5, 0.5, 0.5))


def test_steps_are_counted_from_0_wherever_the_curves_begin():
    """A trainer that logs every 10 updates has its first row at update 10."""
    x, y = [[0.0, 1.0, 1.0, 1.0]] * 5, [[0.0, 0.5, 1.0, 1.0]] * 5
    result = relative_steps([10, 20, 30, 40], x, y)
    assert (result.steps, result.baseline_steps) == (20.0, 30.0)
    assert (result.ratio, result.low, result.high) == pytest.approx((2 / 3, 2 / 3, 2 / 3))


def test_a_curve_that_stays_level_reaches_its_own_end():
    steps = np.arange(101.0)
    level = np.minimum(steps / 10.0, 1.0) * (2 / 3)
    assert level[-11:].mean() > level.max()  # by rounding
    result = relative_steps(steps, [np.minimum(2 * level, 2 / 3)] * 5, [level] * 5)
    assert (result.baseline_steps, result.ratio) == pytest.approx((10.0, 0.5))
    assert (result.low, result.high) == pytest.approx((0.5, 0.5))
    with pytest.raises(ValueError, match=r"level.*\(0, 1\), got 95; 0.95"):
        relative_steps(steps, [level], [level], 95)


def test_one_that_never_arrives_is_beyond_every_ratio():
    result = relative_steps(STEPS, line([0.5] * 5), line([1.0] * 5))
    assert result.steps == result.ratio == result.high == math.inf


def test_its_interval_widens_with_the_seeds_spread():
    x, y = line([1.6, 1.8, 2.0, 2.2, 2.4]), line([1.0] * 5)
    result = relative_steps(STEPS, x, y)
    assert result.low < 0.5 < result.high
    assert result == relative_steps(STEPS, x, y)


def test_seeds_are_drawn_with_both_their_curves():
    """Each seed is twice as fast, whichever are drawn."""
    result = relative_steps(STEPS, line([2.0, 6.0]), line([1.0, 3.0]))
    assert (result.ratio, result.low, result.high) == pytest.approx((0.5, 0.5, 0.5))
    # Slopes of 2, 4 and 6 against 1, at 1/4, 1/2 and 1/4.
    x, y = line([2.0, 6.0]), line([1.0, 1.0])
    for level, (low, high) in ((0.4, (1 / 4, 1 / 4)), (0.9, (1 / 6, 1 / 2))):
        result = relative_steps(STEPS, x, y, level)
        assert (result.low, result.high) == pytest.approx((low, high))


def test_nothing_to_be_faster_at_if_the_baseline_does_not_rise():
    assert relative_steps(STEPS, line([1.0]), line([-1.0])) is None
    alike = [[0.0, 1.0], [1.0, 1.0]]  # in draws of the second alone both are there at step 0
    result = relative_steps([0.0, 1.0], alike, alike)
    assert result is not None
    assert (result.ratio, result.low, result.high) == (1.0, 1.0, 1.0)


def test_steps_to_shares_of_a_way_that_no_run_decides():
    # From 1 to 3, so 2, 2.5 and 2.8; curves 1 + 2 t / 100, 1 + t / 100 and 1 - t / 100.
    curves = 1.0 + line([2.0, 1.0, -1.0])
    found = steps_to_shares(STEPS, curves, start=1.0, goal=3.0)
    expected = [[50.0, 100.0, math.inf], [75.0, math.inf, math.inf], [90.0, math.inf, math.inf]]
    np.testing.assert_allclose(found, expected)
    assert [censored_steps(row, 100.0).reached for row in found] == [2 / 3, 1 / 3, 1 / 3]
    # Two rules by min(steps, budget): at half the way 50 + 100 + 100 against 3 x 100.
    slower = steps_to_shares(STEPS, 1.0 + line([1.0, 1.0, 1.0]), start=1.0, goal=3.0)
    limited = [np.minimum(rule[0], 100.0) for rule in (found, slower)]
    assert paired_difference(*limited).difference == pytest.approx(-50.0 / 3.0)


def test_bad_input():
    with pytest.raises(ValueError, match=r"goal.*got 1.0.*1.0"):
        steps_to_shares(STEPS, line([1.0]), start=1.0, goal=1.0)
    with pytest.raises(ValueError, match=r"\(2, 21\) and \(1, 21\)"):
        relative_steps(STEPS, line([1.0, 1.0]), line([1.0]))
    with pytest.raises(ValueError, match=r"infinity.*never"):
        censored_steps([math.nan], 1.0)
