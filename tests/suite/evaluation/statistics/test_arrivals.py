import numpy as np
import pytest

from tokengym.evaluation.statistics import (
    relative_steps,
)

STEPS = np.arange(0.0, 101.0, 5.0)


def line(slopes: list[float]) -> np.ndarray:
    """Return straight curves, one run per slope."""
    return np.array(slopes)[:, None] * STEPS / 100.0


def test_twice_as_fast_needs_half_the_steps():
    result = relative_steps(STEPS, line([2.0] * 5), line([1.0] * 5))
    assert result.threshold == pytest.approx(0.75 * (0.9 + 0.95 + 1.0) / 3)  # ceil(21 / 10) points
    assert result.baseline_steps == pytest.approx(0.75 * 95.0 / 2.0, rel=5e-3)  # half of a triangle
    assert (result.ratio, result.low, result.high) == pytest.approx((0.5,) * 3, rel=5e-3)


def test_one_that_never_arrives_has_the_area_over_all_of_its_steps():
    result = relative_steps(STEPS, line([0.25] * 5), line([1.0] * 5))
    way = 0.75 * 0.95
    assert result.steps == pytest.approx(100.0 * (way - 0.125) / way)
    assert result.ratio == pytest.approx(result.high)


def test_its_interval_widens_with_the_seeds_spread():
    x, y = line([1.6, 1.8, 2.0, 2.2, 2.4]), line([1.0] * 5)
    result = relative_steps(STEPS, x, y)
    assert result.low < 0.5 < result.high
    with pytest.raises(ValueError, match=r"level.*\(0, 1\), got 95; 0.95"):
        relative_steps(STEPS, x, y, 95)


def test_its_interval_holds_the_ratio():
    """Saturating curves, 200 fixed draws of five pairs, of which .95 has an error of .015."""
    draws, steps, holds = np.random.default_rng(3), np.arange(31.0), 0
    for _ in range(200):
        x, y = (
            3.0 * (1.0 - np.exp(-steps / (tau * np.exp(draws.normal(0.0, 0.2, (5, 1))))))
            + np.append(np.zeros((5, 1)), draws.normal(0.0, 0.1, (5, 30)), axis=1)
            for tau in (5.0, 8.0)
        )
        result = relative_steps(steps, x, y)
        holds += result is not None and result.low <= 5.0 / 8.0 <= result.high
    assert 0.9 <= holds / 200 <= 0.99


def test_nothing_to_be_faster_at_if_the_baseline_does_not_rise():
    assert relative_steps(STEPS, line([1.0] * 3), line([-1.0] * 3)) is None
    noisy = np.random.default_rng(0).normal(size=(5, len(STEPS)))
    assert relative_steps(STEPS, noisy, noisy) is None


def test_bad_input():
    with pytest.raises(ValueError, match=r"\(2, 21\) and \(1, 21\)"):
        relative_steps(STEPS, line([1.0, 1.0]), line([1.0]))
