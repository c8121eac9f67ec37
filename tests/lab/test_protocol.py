"""Two one-sided tests of the protocol: when two sets of runs are level."""

import math

import numpy as np
import pytest
import scipy

from tokengym.lab.protocol import check_span, chosen_on_others, equivalence


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_equivalence_by_hand():
    # Differences 0, 0, 1, 1: mean .5, s = .5774, error .2887; t_{3, .95} = 2.3534.
    x, y = [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 2.0, 3.0]
    wide, narrow = equivalence(x, y, margin=1.2), equivalence(x, y, margin=1.1)
    assert (wide.low, wide.high) == pytest.approx((0.5 - 0.6794, 0.5 + 0.6794), abs=1e-4)
    assert wide.equivalent  # 1.1794 < 1.2
    assert not narrow.equivalent
    assert equivalence(y, x, margin=1.2).p_value == pytest.approx(wide.p_value)
    assert equivalence([1.0], [1.0], margin=9.0).p_value == 1.0  # one pair shows nothing


def test_equivalence_is_two_one_sided_tests(rng: np.random.Generator):
    for margin in (0.05, 0.3, 1.0):
        x, y = rng.normal(size=(2, 7))
        tests = [
            scipy.stats.ttest_1samp(x - y, bound, alternative=way).pvalue
            for bound, way in ((-margin, "greater"), (margin, "less"))
        ]
        found = equivalence(x, y, margin)
        assert found.p_value == pytest.approx(max(tests))
        inside = -margin < found.low and found.high < margin
        assert found.equivalent == inside


@pytest.mark.parametrize(("shift", "p_value"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_equivalence_of_runs_that_differ_by_a_constant(shift: float, p_value: float):
    x = np.array([1.0, 2.0, 3.0])
    assert equivalence(x + shift, x, margin=0.5).p_value == p_value


@pytest.mark.parametrize(
    ("margin", "level", "message"),
    [(0.0, 0.95, r"margin.*got 0\.0"), (1.0, 0.5, r"level.*\(0.5, 1\), got 0.5")],
)
def test_bad_margins_and_levels_are_named(margin: float, level: float, message: str):
    with pytest.raises(ValueError, match=message):
        equivalence([1.0], [1.0], margin, level)


def test_a_way_that_may_be_noise_is_refused(rng: np.random.Generator):
    scores = rng.normal(size=(128, 64))
    check_span(scores, "Films-48")  # the best of 16 normal numbers has 1.77
    rare = np.zeros((128, 64))
    rare[0, 0] = 1.0
    for alike in (np.ones((128, 64)), rare):
        with pytest.raises(ValueError, match=r"Films-48.*above one"):
            check_span(alike, "Films-48")


def test_a_cell_is_chosen_without_the_seed_that_it_is_measured_on() -> None:
    def places(figures: list[list[float]]) -> list[int]:
        choices = range(len(figures))
        return [*chosen_on_others(choices, range(len(figures[0])), figures).values()]

    # Without seed 0 the second is better; without the others the first is, 4.5 to 1.
    assert places([[9.0, 0.0, 0.0], [1.0, 1.0, 1.0]]) == [1, 0, 0]
    assert places([[9.0, math.nan, 9.0], [1.0, 2.0, 3.0]]) == [1, 1, 1]  # one lacks a seed
    assert places([[1.0]]) == [0]
    with pytest.raises(ValueError, match=r"2 cells have the seeds \[0\], 2 of them all"):
        places([[1.0], [2.0]])


def test_choosing_among_equal_cells_gains_nothing() -> None:
    """The best mean of ten equal cells is .69 above what each of them has, at five seeds."""
    draws = np.random.default_rng(1).normal(size=(300, 10, 5))
    picked = [[*chosen_on_others(range(10), range(5), cells).values()] for cells in draws]
    gains = [cells[of, np.arange(5)].mean() for cells, of in zip(draws, picked, strict=True)]
    assert np.mean(gains) == pytest.approx(0, abs=0.06)
    assert draws.mean(axis=2).max(axis=1).mean() > 0.6
