"""Learning from a verifier: the runs that are missing, their figures, and the tables."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from studies import real_reasoning as study
from tokengym.evaluation.runs.record import RunRecord
from tokengym.lab.study import Cell, Row, write_rows

STUDY = study.STUDY


def rows_of(run: Cell, score: float, right: float) -> list[Row]:
    """Return a run that rises from 0 to these figures, at 2 nats."""
    return [
        {**run, "step": s, "tokens": 100 * s, "score": s * score, "kl": 2.0 * s, "right": s * right}
        for s in (0, 1)
    ]


def test_runs_are_made_once_seed_by_seed(tmp_path: Path) -> None:
    made = []
    for run in STUDY.pending(tmp_path):
        made.append((run.seed, run.task, run.learner))
        write_rows(STUDY.file(run, tmp_path), rows_of(run, 0.5, 0.25))
    assert made[:3] == [(0, "adding", "grpo"), (0, "adding", "loo"), (0, "spelling", "grpo")]
    assert len(made) == 3 * 2 * 2
    assert list(STUDY.pending(tmp_path)) == []


@pytest.mark.parametrize("task", study.TASKS)
def test_a_run_trains_on_framed_questions_of_that_data_set(task: str) -> None:
    config = study.config(Cell(task=task, learner="grpo", seed=0), Path())
    assert config.task.dataset == study.TASKS[task]["dataset"]
    assert config.task.chat_template is False
    assert (config.training.learner.advantage, config.training.lora_rank) == ("grpo", 8)
    learner = config.training.learner
    assert learner.kl_in == "loss" or learner.kl_estimator == "exact"


def test_the_share_of_right_answers_is_of_the_same_measurement() -> None:
    curve = [{"step": s, "tokens": 8, "score": 0.51234567, "kl": -0.00001} for s in (0, 12, 24)]
    samples = [{"step": step, "score": score} for step in (0, 24) for score in (1.0, step / 24)]
    record = cast(RunRecord, SimpleNamespace(curve=curve, samples=samples))
    rows = study.measure(Cell(task="adding", learner="loo", seed=1), record)
    assert [row["right"] for row in rows] == [0.5, None, 1.0]
    assert (rows[0]["score"], str(rows[0]["kl"])) == (0.5123, "0.0")


def test_a_right_answer_among_the_best_of_n_by_hand() -> None:
    scores = np.array([[1.0, 0.9, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    # Of the pairs of four responses three in six hold the right one.
    assert [study.right_of_best(scores, n) for n in (1, 2, 4)] == [0.125, 0.25, 0.5]
