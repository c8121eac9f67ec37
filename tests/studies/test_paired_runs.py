"""Runs paired by seed: what one side lacks the other gives up."""

import numpy as np
import pytest

from studies.paired_runs import PairedRuns, slope_per_doubling
from tokengym.evaluation.report.curves import Curve, make_panels

STEPS = np.array([0.0, 10.0])


def pairs(abc_seeds, sparse_seeds) -> PairedRuns:
    """Every run ends at its seed, abc's ten higher."""
    curves = [
        Curve(
            credit=credit,
            seed=seed,
            steps=STEPS,
            values={"score": np.array([0.0, seed + (10.0 if credit == "abc" else 0.0)])},
        )
        for credit, seeds in (("sparse", sparse_seeds), ("abc", abc_seeds))
        for seed in seeds
    ]
    (panel,) = make_panels(curves)
    return PairedRuns(panel=panel, rule="abc", baseline="sparse")


def test_only_seeds_of_both_sides_are_compared():
    runs = pairs((4, 2, 7), (1, 2, 4))
    assert runs.seeds == (2, 4)
    x, y = runs.curves("score")
    assert x[:, -1].tolist() == [12.0, 14.0]
    assert y[:, -1].tolist() == [2.0, 4.0]
    assert (runs.figures("score", "auc")[0] - runs.figures("score", "auc")[1]).tolist() == [5, 5]


def test_a_rule_that_did_not_run_has_no_pairs():
    assert pairs((), (1, 2)).seeds == ()


def test_what_was_not_measured_gives_no_figure():
    runs = pairs((1, 2), (1, 2))
    assert runs.difference("gold_score", "auc") is None
    assert runs.relative_steps("gold_score") is None
    found = runs.difference("score", "auc")
    assert found is not None
    assert (found.difference, found.wins) == (5.0, 2)


def test_a_gain_that_doubles_its_length_has_slope_one():
    gains = {length: np.full(5, np.log2(length)) for length in (8.0, 16.0, 64.0)}
    assert slope_per_doubling(gains) == pytest.approx((1.0, 1.0, 1.0))
    rng = np.random.default_rng(1)
    noisy = {length: 0.3 * np.log2(length) + rng.normal(size=40) for length in gains}
    slope, low, high = slope_per_doubling(noisy)
    assert low < slope < high
    assert low < 0.3 < high
