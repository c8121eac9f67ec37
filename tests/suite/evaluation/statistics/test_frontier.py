import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tokengym.evaluation.statistics import (
    RunPath,
    compare_at_kl,
    interval,
    largest_shared_kl,
    leaps,
    paired_difference,
    tuned_on_others,
    value_within_kl,
)

RISES = [0, 1, 2, 3, 4], [0.0, 1.0, 1.96, 2.89, 3.61], [0.0, 1.0, 1.4, 1.7, 1.9]
"""A path whose score is the square root of its KL, or 1.4 at 1.96 nats and so on."""


def test_a_rising_path_has_the_value_where_it_leaves_a_level():
    at = value_within_kl([0.25, 1.0, 2.25, 3.61], *RISES)
    # sqrt(.25) = .5 between 0 and 1; sqrt(2.25) = 1.5, a third of the way from 1.4 to 1.7
    assert at == pytest.approx([0.5, 1.0, 1.4 + (1.5 - 1.4), 1.9])
    assert math.isnan(value_within_kl([3.7], *RISES)[0])  # never was there


def test_a_path_that_comes_back_has_its_end():
    """It leaps to 9 nats, and its score rises while it comes back to 4."""
    updates, kl, score = [0, 1, 2, 3, 4], [0.0, 9.0, 7.0, 5.0, 4.0], [0.0, 0.1, 1.0, 2.0, 3.0]
    assert value_within_kl([4.0, 6.0, 9.0], updates, kl, score).tolist() == [3.0, 3.0, 3.0]
    # The leap is on the way to more than 2 nats, and past 9 nothing is known.
    assert np.isnan(value_within_kl([2.0, 9.1], updates, kl, score)).all()


def test_the_latest_policy_counts_and_not_the_best():
    """Of twenty evaluations at about one KL the best would be 2; none is chosen for its score."""
    updates = np.arange(20.0)
    kl = np.where(updates % 2 == 0, 0.9, 1.1)
    score = np.where(updates == 7, 2.0, 0.0)
    assert value_within_kl([1.0], updates, kl, score)[0] == 0.0


def test_one_update_over_more_than_a_nat_is_a_gap():
    updates, kl = [0, 1, 2, 12], [0.0, 0.5, 2.0, 8.0]
    assert leaps(updates, kl).tolist() == [False, True, False]  # 6 nats in ten updates are none
    at = value_within_kl([0.5, 1.0, 2.0, 4.0], updates, kl, [0.0, 1.0, 2.0, 3.0])
    assert [math.isnan(value) for value in at] == [False, True, False, False]


def brute_force(k: float, updates: np.ndarray, kl: np.ndarray, score: np.ndarray) -> float:
    """Walk the path in steps of a thousandth and return the last policy within k nats."""
    if kl.max() < k:
        return math.nan
    latest, in_leap = math.nan, False
    for (a, b), (u, v), (s, t) in zip(
        pairwise(kl), pairwise(updates), pairwise(score), strict=True
    ):
        roots = np.linspace(math.sqrt(a), math.sqrt(b), 1001)
        scores = np.linspace(s, t, 1001)
        inside = np.flatnonzero(roots**2 <= k + 1e-12)
        if len(inside):
            latest, in_leap = float(scores[inside[-1]]), abs(b - a) > v - u and inside[-1] < 1000
    return math.nan if in_leap else latest


def test_random_paths_agree_with_a_walk_along_them():
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(60):
        updates = np.cumsum(generator.integers(1, 3, 8)).astype(float)
        kl = np.abs(np.cumsum(generator.normal(0.4, 1.0, 8)))
        score = generator.normal(size=8)
        for k in (0.5, 1.0, 2.0):
            (value,) = value_within_kl([k], updates, kl, score)
            assert value == pytest.approx(brute_force(k, updates, kl, score), abs=0.01, nan_ok=True)
            found += math.isfinite(value)
    assert 60 < found < 150  # of 180, with and without a value


def test_the_largest_shared_kl_is_where_every_run_has_a_value():
    rises = [0, 1, 2, 3], [0.0, 1.0, 2.0, 2.5]
    leapt = [0, 1, 2, 3], [0.0, 3.0, 2.4, 1.8]  # at 1.8 and above, up to 3
    assert largest_shared_kl([rises, leapt]) == 2.5
    assert largest_shared_kl([rises, ([0, 1, 2], [0.0, 0.9, 3.5])]) == 0.9  # its end is a leap away
    assert largest_shared_kl([rises, ([0, 1], [0.0, 0.0])]) is None
    near = [0, 1, 2], [0.0, 0.04, 0.1]
    assert largest_shared_kl([rises, near]) == 0.1
    assert largest_shared_kl([rises, (near[0][:2], near[1][:2])]) is None  # it has hardly moved
    assert largest_shared_kl([]) is None


def test_a_cell_is_chosen_without_the_seed_that_it_is_measured_on():
    values = np.array([[9.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    # Without seed 0 the second is better; without the others the first is, 4.5 to 1.
    assert tuned_on_others(values).tolist() == [1.0, 0.0, 0.0]
    by = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert tuned_on_others(values, by).tolist() == [1.0, 1.0, 1.0]
    lacks = np.array([[9.0, math.nan, 9.0], [1.0, 2.0, 3.0]])
    assert tuned_on_others(lacks).tolist() == [1.0, 2.0, 3.0]  # a cell lacks a seed: it is out
    assert np.isnan(tuned_on_others([[1.0], [2.0]])).all()  # one seed cannot choose
    assert tuned_on_others([[1.0]]).tolist() == [1.0]


def test_choosing_among_equal_cells_gains_nothing():
    """The best mean of ten equal cells is .69 above what each of them has, at five seeds."""
    draws = np.random.default_rng(1).normal(size=(300, 10, 5))
    assert np.mean([tuned_on_others(cells).mean() for cells in draws]) == pytest.approx(0, abs=0.06)
    assert draws.mean(axis=2).max(axis=1).mean() > 0.6


def path(slope: float, noise: float, tokens: float = 400.0) -> RunPath:
    """Return a path to 4 nats whose score is slope * sqrt(KL), and whose gold is half of it."""
    updates = np.arange(5.0)
    kl = updates.copy()
    score = slope * np.sqrt(kl) + noise
    values = {"score": score, "gold_score": score / 2.0}
    return RunPath(updates=updates, tokens=tokens * updates / 4.0, kl=kl, values=values)


SEEDS = np.array([0.02, -0.01, 0.0, 0.01, -0.02])


def arm(*slopes: float, tokens: float = 400.0) -> dict[str, dict[int, RunPath]]:
    """Return an arm with a cell per slope, on five seeds."""
    return {
        f"{slope}": {seed: path(slope, noise, tokens) for seed, noise in enumerate(SEEDS)}
        for slope in slopes
    }


def test_arms_are_compared_at_equal_kl_by_seed():
    for measure, factor in (("score", 1.0), ("gold_score", 0.5)):
        two, four = compare_at_kl(arm(1.5), arm(1.0), (2.0, 4.0, 8.0), measure=measure)
        assert (two.kl, four.kl) == (2.0, 4.0)  # none was at 8
        assert four.difference.difference == pytest.approx(factor * 0.5 * 2.0)
        assert two.difference.difference == pytest.approx(factor * 0.5 * math.sqrt(2.0))
        assert (four.value, four.baseline_value) == pytest.approx((factor * 3.0, factor * 2.0))
        assert (four.low, four.high) == interval(factor * (3.0 + SEEDS))
    mixed = compare_at_kl(arm(1.5), {"": {0: path(1, 0), 3: path(1, 0.5)}}, (4.0,))[0].difference
    assert mixed == paired_difference([3.02, 3.01], [2.0, 2.5])


def test_an_arm_has_the_frontier_of_all_its_cells():
    (four,) = compare_at_kl(arm(0.5, 1.5, 1.0), arm(1.0, 0.2), (4.0,))
    assert four.difference.difference == pytest.approx(1.0)


def test_a_cell_is_chosen_by_another_measurement_than_is_compared():
    """Of the two cells one has the higher score, and a tenth of it as gold score."""

    def cell(slope: float, share: float) -> dict[int, RunPath]:
        runs = {seed: path(slope, noise) for seed, noise in enumerate(SEEDS)}
        return {
            seed: replace(run, values={**run.values, "gold_score": share * run.values["score"]})
            for seed, run in runs.items()
        }

    cells = {"gamed": cell(1.5, 0.1), "true": cell(1.0, 1.0)}
    for tune_by, expected in (("score", 0.3), ("gold_score", 2.0)):
        (four,) = compare_at_kl(cells, arm(1.0), (4.0,), measure="gold_score", tune_by=tune_by)
        assert four.value == pytest.approx(expected)
    (four,) = compare_at_kl(cells, arm(1.0), (4.0,), measure="gold_score")
    assert four.value == pytest.approx(0.3)  # gold is not known when one tunes


def test_runs_are_compared_within_the_tokens_that_all_have():
    # Of 800 tokens, 400 are half the path: 2 nats.
    (two,) = compare_at_kl(arm(1.5, tokens=800.0), arm(1.0), (2.0, 4.0))
    assert two.kl == 2.0
    assert compare_at_kl(arm(1.5), arm(1.0), (2.0, 4.0), budget=150.0) == []
    (one,) = compare_at_kl(arm(1.5), arm(1.0), (1.0,), budget=150.0)
    assert one.difference.difference == pytest.approx(0.5)


def test_no_policy_is_made_up_within_a_leap():
    updates = np.array([0.0, 1.0, 2.0])
    run = RunPath(
        updates=updates,
        tokens=10.0 * updates,
        kl=np.array([0.0, 0.5, 6.5]),
        values={"score": updates},
    )
    assert run.within(15.0).tokens.tolist() == [0.0, 10.0]
    whole = run.within(15.0, across_leaps=True)  # for a mean over equal tokens
    assert (whole.tokens[-1], whole.kl[-1], whole.values["score"][-1]) == (15.0, 3.5, 1.5)
    assert run.within(5.0).values["score"].tolist() == [0.0, 0.5]
    assert run.within(99.0) is run
    with pytest.raises(ValueError, match=r"budget.*0.*got 0"):
        run.within(0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0], *RISES), "a level of KL must be above 0 nats, got 0"),
        (
            ([1.0], [0, 1], [0.0, 1.0], [0.0]),
            r"must be \(time,\) alike, got \[\(2,\), \(2,\), \(1,",
        ),
        (([1.0], [1, 0], [0.0, 1.0], [0.0, 1.0]), "updates must not fall"),
    ],
)
def test_a_path_that_is_none_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        value_within_kl(*arguments)


def test_arms_without_runs_in_common_are_refused():
    with pytest.raises(ValueError, match="at least one cell"):
        compare_at_kl({}, arm(1.0))
    with pytest.raises(ValueError, match=r"share no seed, got \[\[7\], \[0, 1, 2, 3, 4\]\]"):
        compare_at_kl({"": {7: path(1.0, 0.0)}}, arm(1.0))
