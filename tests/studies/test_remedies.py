"""Tests of the study of remedies."""

from pathlib import Path

import numpy as np
import pytest

from studies import leap, remedies
from tokengym.lab.study import run_of

DOCS = Path(__file__).parents[2] / "docs/results"


def test_other_pages_runs_are_cells_of_the_remedies(tmp_path: Path):
    """Trained as here, so that they need not be made again."""
    known = {run_of(row, (*remedies.STUDY.axes, "rate", "seed")) for row in remedies.beside(DOCS)}
    both = {"abc-signed", "sparse"}
    for length, variant in remedies.ASKED:
        of_cell = {run.rule for run in known if (run.length, run.variant) == (length, variant)}
        assert of_cell == both
        there = leap.cells(length, variant)
        for here, cell in zip(remedies.arms(length, variant), there, strict=False):
            run = here.but(rate=1e-3, seed=0)
            of_leap = leap.STUDY.config(cell.but(rate=1e-3, seed=0), tmp_path)
            assert remedies.config(run, tmp_path) == of_leap
            assert {each.seed for each in known if each.without("rate", "seed") == here} >= {
                *range(5)
            }


def test_the_question_differs_from_its_baseline_in_the_rule_alone(tmp_path: Path):
    for length, variant in remedies.ASKED:
        *_, started, both = remedies.arms(length, variant)
        one, other = (
            remedies.config(cell.but(rate=1e-3, gae_lambda="0.5"), tmp_path).as_dict()
            for cell in (started, both)
        )
        assert one.pop("rewards") != other.pop("rewards")
        assert one == other
        assert one["training"]["learner"]["value_network"] == "reward_model"


def test_no_values_explain_more_than_their_own_variance():
    """By hand: values of one half 0, 2 and 1, 3 (score 4), of the other 1, 1 and 2, 4 (score 2)."""
    first = [np.array([2.0, 2.0]), np.array([2.0, -1.0])]  # 0 -> 2 -> 4 and 1 -> 3 -> 2
    second = [np.array([0.0, 3.0]), np.array([2.0, -2.0])]  # 1 -> 1 -> 4 and 2 -> 4 -> 2
    share = remedies.share_of_values([4.0, 2.0], [*zip(first, second, strict=True)])
    # Means 1.5 and 2; products of the deviations 1.5, -0.5, 0 and 3; scores' variance 2.
    assert share == pytest.approx((1.5 - 0.5 + 0.0 + 3.0) / 3 / 2)
