"""The real model's study on a GPU: its order of runs, its comparison and its tables."""

from pathlib import Path

from studies import real_gpu as study
from tests.studies.test_real_model import rows_of
from tokengym.lab.study import Cell, Runs, write_rows


def test_arms_are_swept_from_the_first_rate_and_then_seeded(tmp_path: Path) -> None:
    reached = {3e-5: 2.0, 1e-4: 1.0, 1e-5: 1.5}
    order = []
    for run in study.STUDY.pending(tmp_path):
        order.append((run.without("rate", "seed"), run.rate, run.seed))
        write_rows(study.STUDY.file(run, tmp_path), rows_of(run, reached[run.rate]))
    assert order[:9] == [(arm, rate, 1000) for arm in study.ARMS for rate in reached]
    assert order[9:24] == [(arm, 3e-5, seed) for seed in range(5) for arm in study.ARMS]
    assert {cell for cell, _, _ in order[24:32]} == {study.CONTROL}


def test_all_weights_are_trained_in_the_bundles_frame() -> None:
    config = study.config(study.ARMS[2].but(rate=1e-5, seed=0), Path())
    assert config.training.lora_rank is None
    assert config.task.bundle == "smollm2-reviews"
    learner = config.training.learner
    assert (learner.value_network, learner.gae_lambda) == ("reward_model", 0.8)


def test_differences_by_hand() -> None:
    ends = {study.ARMS[0]: (1.0, 2.0), study.ARMS[2]: (2.0, 4.0)}
    rows = [
        row
        for arm, scores in ends.items()
        for seed, score in [(1000, 1.0), *enumerate(scores)]
        for row in rows_of(Cell(**arm, rate=3e-5, seed=seed), score)
    ]
    (line,) = study.pairs_table(Runs(rows, study.STUDY.axes)).splitlines()[2:]
    # over the run half of 1 and of 2 more, at the same KL; at the end 1 and 2 more
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:3] == ["`sparse`, critic from the reward model", "0.8", "2"]
    assert [cell.split()[0] for cell in cells[3:8]] == [
        "+0.750",
        "+0.750",
        "0.000",
        "+1.50",
        "0.000",
    ]
