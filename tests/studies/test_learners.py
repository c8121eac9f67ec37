"""The runs of the learners study, without running any."""

from pathlib import Path

import pytest

from studies.learners import Cell, grid, pending, sweep, tuned_rate


def test_the_sweep_comes_first_and_grpo_runs_under_sparse_alone(tmp_path: Path):
    assert len({cell.name for cell in (*sweep(), *grid())}) == 12 + 8
    first = next(pending(tmp_path))
    assert (first[0].name, first[2], first[3]) == ("ppo-48-rate-0.0001", "sparse", 1100)
    assert Cell(learner="grpo").rewards == ("sparse",)
    assert len(Cell(learner="loo").rewards) == 4
    assert Cell(learner="loo", rate=1e-3).rewards == ("sparse",)


def test_no_rate_is_taken_from_a_sweep_with_runs_to_do(tmp_path: Path):
    with pytest.raises(ValueError, match=r"ppo-48-rate-0.0001 has runs to do; run the sweep"):
        tuned_rate("ppo", tmp_path)
