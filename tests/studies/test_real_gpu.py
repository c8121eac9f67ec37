"""The real model's study on a GPU: its order of runs, its comparison and its tables."""

from pathlib import Path

from studies import real_gpu as study
from tests.studies.test_real_model import rows_of
from tokengym.lab.study import Cell, Runs, write_rows


def test_each_rate_has_three_pairs_of_the_arms_before_the_next(tmp_path: Path) -> None:
    order = []
    for run in study.STUDY.pending(tmp_path):
        order.append(run)
        write_rows(study.STUDY.file(run, tmp_path), rows_of(run, 1.0))
    first = [run.without("seed") for run in order[:9]]
    assert first == 3 * [arm.but(step_size=3e-5) for arm in study.ARMS]
    assert [run.step_size for run in order[:27]] == 9 * [3e-5] + 9 * [1e-4] + 9 * [1e-5]
    assert {run.rule for run in order[27:36]} == {"random"}
    assert len(order) == len(set(order)) == 4 * 3 * 5


def test_all_weights_are_trained_in_the_bundles_frame() -> None:
    config = study.config(study.cells(study.ARMS[2])[2].but(seed=0), Path())
    assert config.training.lora_rank is None
    assert config.task.bundle == "smollm2-reviews"
    learner = config.training.learner
    assert (learner.value_network, learner.gae_lambda) == ("reward_model", 0.8)
    assert (learner.learning_rate, learner.n_warmup_updates) == (1e-5, 4)


def cell_of(line: str) -> list[str]:
    """Return the cells of a table's line."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_differences_by_hand() -> None:
    # Of the critic's cells the first is better on seed 0 and the second on seed 1, so that each
    # seed is measured by the cell that is worse on it.
    ends = {
        study.cells(study.ARMS[0])[0]: (1.0, 2.0),
        study.cells(study.ARMS[2])[0]: (5.0, 2.0),
        study.cells(study.ARMS[2])[1]: (2.0, 6.0),
    }
    rows = [
        row
        for cell, scores in ends.items()
        for seed, score in enumerate(scores)
        for row in rows_of(Cell(**cell, seed=seed), score)
    ]
    runs = Runs(rows, study.STUDY.axes).runs
    (line,) = study.pairs_table(runs).splitlines()[2:]
    cells = cell_of(line)
    assert cells[:2] == ["`sparse`, critic from the reward model", "0.8"]
    # 2 - 1 and 2 - 2 at the end, half of it over the run, at the same KL
    shown = [cell.split()[0] for cell in cells[2:8]]
    assert shown == ["+0.250", "+0.250", "0.000", "+0.500", "0.000", "0.000"]
    assert cells[-3:] == ["2", "1", "2"]
    own = {(c[0], c[2]): c for c in map(cell_of, study.cells_table(runs).splitlines()[2:])}
    # mean of the two ends, and KL that grows by 1 nat in 2 updates
    at_first = own["`sparse`, critic from the reward model", "3e-05"]
    assert (at_first[3], at_first[7], at_first[-1]) == ("2", "3.50", "0.500")


def test_nothing_is_shown_of_no_runs() -> None:
    assert study.pairs_table({}) == study.cells_table({}) == "Not measured yet."
