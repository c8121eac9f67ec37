"""The simulation of interval coverage, in small."""

import numpy as np
import pytest
import scipy.stats

from studies.coverage import DISTRIBUTIONS, coverage, improvement_coverage, paired_coverage, truth


def test_the_truth_of_a_symmetric_distribution_is_its_middle():
    assert truth(DISTRIBUTIONS["normal"], 10) == pytest.approx(0.0, abs=0.01)


def test_the_truth_depends_on_how_many_runs_are_cut():
    draw = DISTRIBUTIONS["skewed (lognormal, sigma 0.5)"]
    mean = float(scipy.stats.lognorm(0.5).mean())
    assert truth(draw, 3) == pytest.approx(mean, rel=0.01)  # of three none is cut
    assert truth(draw, 20) < mean - 0.05


@pytest.mark.parametrize("name", list(DISTRIBUTIONS))
def test_ten_seeds_cover_as_promised(name: str):
    """Between 90 and 97 %; 800 experiments have a standard error of 0.9 %."""
    assert 0.90 <= coverage(DISTRIBUTIONS[name], 10, 800) <= 0.97


def test_pairs_and_chances_cover_too_and_three_seeds_do_not():
    assert 0.90 <= paired_coverage(10, 600) <= 0.97
    assert 0.90 <= improvement_coverage(10, 600) <= 0.97
    assert coverage(DISTRIBUTIONS["normal"], 3, 400) < 0.85


def test_an_interval_that_is_too_narrow_would_be_seen(monkeypatch):
    from studies import coverage as module

    def narrow(scores, **_):
        half = 1.28 * np.std(scores, ddof=1) / np.sqrt(len(scores))  # of 80 %
        return scores.mean() - half, scores.mean() + half

    monkeypatch.setattr(module, "interval", narrow)
    assert coverage(DISTRIBUTIONS["normal"], 10, 600) < 0.85
