import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from tokengym.evaluation.statistics import (
    area_under_curve,
    collapsed,
    final_mean,
    holm,
    holm_level,
    improvement_interval,
    paired_difference,
    probability_of_improvement,
    steps_to_threshold,
    student_interval,
)
from tokengym.evaluation.statistics.series import SMALLER_HALF, jitter


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("shape", [(4, 7), (1, 1), (10, 10)])
def test_probability_of_improvement_is_mann_whitney(rng, shape):
    x, y = rng.integers(0, 6, shape[0]), rng.integers(0, 6, shape[1])  # with ties
    u = scipy.stats.mannwhitneyu(x, y).statistic
    assert probability_of_improvement(x, y) == pytest.approx(u / (shape[0] * shape[1]))


def test_probability_of_improvement_by_hand():
    assert probability_of_improvement([2.0, 2.0], [1.0, 2.0]) == 0.75
    assert probability_of_improvement([[2.0, 0.0]], [[1.0, 1.0]]) == 0.5  # one task each way


def test_the_interval_of_an_improvement_is_newcombes():
    """Its ends are where the probability is z deviations away, of what it would have there."""
    x, y, z = [1.0, 3.0, 4.0], [2.0, 0.0], 1.959964
    found = probability_of_improvement(x, y)
    assert found == pytest.approx(5.0 / 6.0)
    ends = improvement_interval(x, y)
    for end in ends:
        # Of two runs of one side that beat a run of the other together, for exponential scores.
        both, twice = end / (2.0 - end), 2.0 * end**2 / (1.0 + end)
        pairs = (3 + 2) / 2 - 1
        variance = (end * (1 - end) + pairs * (both + twice - 2.0 * end**2)) / 6.0
        assert abs(found - end) == pytest.approx(z * variance**0.5)
    assert ends[0] < found < ends[1]
    # By its symmetry, where all are apart, and of two tasks.
    assert improvement_interval(y, x) == pytest.approx((1.0 - ends[1], 1.0 - ends[0]))
    low, high = improvement_interval(np.arange(5.0) + 9.0, np.arange(5.0))
    assert (low, high) == (pytest.approx(0.6427, abs=1e-4), 1.0)
    assert improvement_interval(np.arange(5.0), np.arange(5.0) + 9.0)[1] == pytest.approx(1 - low)
    both_tasks = improvement_interval(np.tile(x, (2, 1)).T, np.tile(y, (2, 1)).T)
    assert ends[0] < both_tasks[0] < found < both_tasks[1] < ends[1]
    assert improvement_interval(x, y, 0.5)[0] > ends[0]


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_the_interval_of_an_improvement_holds_it(rng, shift):
    """Of five runs each; a bootstrap holds it in 91, 92 and 64 of 100."""
    truth = scipy.stats.norm.cdf(shift / 2.0**0.5)
    held = 0
    for _ in range(1_500):
        low, high = improvement_interval(rng.normal(size=5) + shift, rng.normal(size=5))
        held += low <= truth <= high
    assert held / 1_500 >= 0.93


def test_area_is_scipys_trapezoid(rng):
    steps, values = np.cumsum(rng.uniform(0.1, 2.0, 12)), rng.normal(size=12)
    area = scipy.integrate.trapezoid(values, steps)
    assert area_under_curve(steps, values) == pytest.approx(area)
    height = area / (steps[-1] - steps[0])
    assert area_under_curve(steps, values, normalize=True) == pytest.approx(height)


def test_steps_to_threshold():
    steps, values = [0, 5, 10, 15], [0.0, 2.0, 1.0, 4.0]
    assert steps_to_threshold(steps, values, 0.0) == 0.0
    assert steps_to_threshold(steps, values, 2.0) == 5.0  # reached counts, though lost again
    assert steps_to_threshold(steps, values, 2.5) == 15.0
    assert steps_to_threshold(steps, values, 2.5, interpolate=True) == 12.5
    assert steps_to_threshold(steps, values, -1.0, interpolate=True) == 0.0
    assert steps_to_threshold(steps, values, 4.1) == math.inf
    assert steps_to_threshold(steps, values, 4.1, interpolate=True) == math.inf


@pytest.mark.parametrize("runs", [2, 3, 5, 6, 7, 10])
def test_a_plateau_is_at_its_own_mean(runs):
    """Three times .99, divided by 3, is above .99; the rise of .2 a step is there after 5."""
    for hundredths in range(1, 100):
        row = np.minimum(1.0, np.arange(21) / 5.0) * hundredths / 100.0
        threshold = float(np.stack([row] * runs).mean(axis=0)[-3:].mean())
        at = steps_to_threshold(np.arange(21), row, threshold, interpolate=True)
        assert at == pytest.approx(5.0, abs=1e-9)
    assert steps_to_threshold([0, 1], [0.0, 1.0], 1.0 + 1e-9) == math.inf


def test_final_mean_rounds_its_window_up():
    assert final_mean([9.0, 1.0]) == 1.0
    assert final_mean(np.arange(11.0)) == 9.5  # ceil(1.1) = 2 points
    assert final_mean(np.arange(10.0)) == 9.0


def test_collapse():
    rising = [0.0, 1.0, 2.0, 3.0, 3.1, 3.0]
    assert not collapsed(rising, anchor=0.0)
    assert collapsed([*rising, 0.5], anchor=0.0)
    assert not collapsed([*rising, 2.5], anchor=0.0)  # lost a little
    assert not collapsed([0.0, -1.0, -2.0, -3.0], anchor=0.0)  # never had a gain to lose
    assert not collapsed([0.0, 0.3, -0.2, 0.2, -0.3, 0.1, -0.1], anchor=0.0)  # noise


@pytest.mark.parametrize(
    ("curve", "anchor", "expected"),
    [
        ([0.0, 0.0, 0.0, 1 / 128, *[0.0] * 6], 0.0, False),  # one response
        ([0.0, 0.0, 0.0, 1 / 128, *[0.0] * 46], 0.0, False),
        ([1.0, 1.0, 1.0, 1.02, 1.02, 1.0, 0.99, 0.99, 1.0, 1.0, 1.0], 1.0, False),
        ([0.0, 1.0, 0.2], 0.0, False),  # too few points to tell
        ([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0], 0.0, True),
    ],
)
def test_a_lucky_evaluation_of_a_flat_curve_is_no_level_to_lose(curve, anchor, expected):
    assert collapsed(curve, anchor) == expected


@pytest.mark.parametrize("count", [6, 8, 11, 21, 51])
def test_noise_is_seldom_a_collapse_and_a_fall_is_one(count):
    """Of 100 arms of five flat runs a few at most; before, 0.6 to 0.9 of them up to 11 points."""
    rng = np.random.default_rng(0)
    place = np.arange(count) / (count - 1)
    hill = 20.0 * np.where(place < 0.6, place / 0.6, 1.0 - 2.0 * (place - 0.6))
    flat = fell = 0
    for _ in range(100):
        noise_of_runs = rng.normal(0.0, 1.0, (5, count))
        deviation = jitter(noise_of_runs)
        flat += any(collapsed(run, 0.0, deviation) for run in noise_of_runs)
        fell += sum(
            collapsed(hill + run, 0.0, jitter(hill + noise_of_runs)) for run in noise_of_runs
        )
    assert flat <= 8
    assert fell >= 495


def test_a_sudden_fall_is_a_collapse():
    rng = np.random.default_rng(0)
    runs = np.array([0.0, 8.0, 9.5, 10.0, 10.0, 10.0, 1.0, 1.0]) + rng.normal(0.0, 1.0, (100, 8))
    assert sum(collapsed(run, 0.0, jitter(runs)) for run in runs) >= 95


def test_jitter_is_the_deviation_of_the_noise():
    rng = np.random.default_rng(0)
    runs = rng.normal(0.0, 2.0, (20, 1000))
    assert jitter(runs) == pytest.approx(2.0, rel=0.02)
    assert jitter(runs + np.arange(1000.0)) == pytest.approx(2.0, rel=0.06)  # a slope is no noise
    # of the smaller half of |z|, below the quartile q of the normal, E z^2 = 1 - 4 q phi(q)
    quartile = scipy.stats.norm.ppf(0.75)
    expected = (1.0 - 4.0 * quartile * scipy.stats.norm.pdf(quartile)) ** 0.5
    assert pytest.approx(expected, abs=1e-4) == SMALLER_HALF


def test_paired_difference_by_hand():
    result = paired_difference([1.0, 2.0, 3.0, 9.0], [1.0, 1.0, 1.0, 10.0])
    assert result.difference == 0.5  # the mean of 0, 1, 2 and -1
    assert (result.wins, result.ties, result.pairs) == (2, 1, 4)
    # s^2 = 5 / 3, standard error sqrt(5 / 12) = 0.6455, t_{3, 0.975} = 3.1824
    assert (result.low, result.high) == pytest.approx((-1.5543, 2.5543), abs=1e-3)
    narrow = paired_difference([1.0, 2.0, 3.0, 9.0], [1.0, 1.0, 1.0, 10.0], 0.8)
    assert (narrow.low, narrow.high) == pytest.approx((-0.5571, 1.5571), abs=1e-3)  # 1.6377 of it


def test_a_difference_of_rounding_is_a_tie():
    sums = [0.1 + 0.2] * 5  # 0.30000000000000004
    same = paired_difference(sums, [0.3] * 5)
    assert (same.wins, same.ties, same.p_value) == (0, 5, 1.0)
    assert (same.difference, same.low, same.high) == (0.0, 0.0, 0.0)
    assert probability_of_improvement(sums, [0.3] * 5) == 0.5
    # Of three pairs one differs: wins 1, ties 2, the mean 0.3 / 3.
    one = paired_difference([0.6, *sums[:2]], [0.3] * 3)
    assert (one.wins, one.ties, one.difference) == (1, 2, pytest.approx(0.1))
    small = paired_difference([3e-11, 2e-11], [1e-11, 1e-11])  # the share counts, not the size
    assert (small.wins, small.ties) == (2, 0)
    assert paired_difference([-1.0 - 1e-11], [-1.0]).ties == 0


def test_student_interval_is_scipys(rng):
    differences = rng.normal(0.4, size=(3, 7))
    expected = scipy.stats.ttest_1samp(differences, 0.0, axis=1)
    mean, low, high, p_value = student_interval(differences, 0.9)
    ends = expected.confidence_interval(0.9)
    assert mean == pytest.approx(differences.mean(axis=1))
    assert p_value == pytest.approx(expected.pvalue)
    assert (low, high) == (pytest.approx(ends.low), pytest.approx(ends.high))
    assert [float(v) for v in student_interval([2.0])] == [2.0, 2.0, 2.0, 1.0]
    assert float(student_interval([0.0, 0.0])[3]) == 1.0
    assert float(student_interval([1.0, 1.0])[3]) == 0.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([[0.6, 0.9], [0.5, 0.01]]).tolist() == [[1.0, 1.0], [0.5, 0.02]]


def test_intervals_exclude_zero_where_holms_test_finds_a_difference():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        differences = rng.normal(size=(4, 6)) + rng.choice([0.0, 1.2], size=(4, 1))
        adjusted = holm(student_interval(differences)[3])
        _, low, high, _ = student_interval(differences, holm_level(adjusted))
        found = adjusted < 1.0 - 0.95
        assert ((low > 0) | (high < 0)).tolist() == found.tolist()
        seen.add(int(found.sum()))
    assert seen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: student_interval([]), "differences must hold"),
        (lambda: student_interval([1.0, math.nan]), "differences.*got nan.*2"),
        (lambda: student_interval([[1.0], [1.0, 2.0]]), r"differences must.*regular"),
        (lambda: student_interval([1.0], level=95), r"level.*\(0, 1\), got 95; 0.95"),
        (
            lambda: probability_of_improvement(np.zeros((2, 2)), np.zeros((2, 3))),
            "got 2 and 3",
        ),
        (lambda: paired_difference([1.0], [1.0, 2.0]), r"\(1,\) and \(2,\)"),
        (lambda: area_under_curve([0, 1, 1], [0, 0, 0]), "steps.*got 1.*1"),
        (lambda: area_under_curve([0, 1], [0.0]), r"alike, got \(2,\) and \(1,\)"),
        (lambda: area_under_curve([0], [0.0]), "two points, got 1"),
        (lambda: steps_to_threshold([0], [0.0], math.nan), "threshold.*got nan"),
    ],
)
def test_bad_input_names_value_and_remedy(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
