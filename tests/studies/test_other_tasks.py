"""The study of token credit on four other tasks: its cells, its plan and its tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from studies.other_tasks import (
    FREE,
    NO_EOS,
    ON_DIALOGUE,
    RULES,
    STUDY,
    TASKS,
    cell_of,
    cells_of,
    env_id,
)
from tokengym.agents.ppo.settings import MAX_LEAP
from tokengym.envs import Task
from tokengym.lab.protocol import SPARE_SEED


def test_every_task_is_bundled() -> None:
    for name in TASKS:
        task = Task.of(env_id(name))
        assert task is not None
        assert len(task.own_bundle().prompts()) > 0


def test_every_cell_is_planned_for_ten_seeds() -> None:
    planned = {cell: seeds for cells, seeds in STUDY.rounds() for cell in cells}
    assert set(planned) == {cell for task in TASKS for cell in cells_of(task)}
    added = (*FREE, *ON_DIALOGUE, *NO_EOS)
    assert len(planned) == len(TASKS) * (len(RULES) + 1) + len(added)
    assert set(planned.values()) == {range(10)}


def test_a_run_is_that_of_its_cell(tmp_path: Path) -> None:
    run = cell_of("Summarize", "red").but(rate=3e-4, seed=SPARE_SEED)
    (made,) = STUDY.config(run, tmp_path).runs
    learner = made.training.learner
    assert made.training.max_new_tokens == 32
    assert [word.text for word in made.rewards] == ["red"]
    assert (learner.gae_lambda, learner.learning_rate, learner.kl_coef) == (0.5, 3e-4, 0.05)
    assert (made.evaluation.every, made.evaluation.episodes) == (1, 128)
    assert not made.training.fixed_length
    for fixed in (run.but(eos="forbidden"), cell_of("Detox", "sparse").but(rate=1e-3)):
        (made,) = STUDY.config(fixed, tmp_path).runs
        assert made.training.fixed_length


def test_the_alarm_of_a_leap_begins_where_published_runs_lost_gold() -> None:
    """The figures at `MAX_LEAP`: gold below the best rate of a run's arm, by its largest move."""
    page = Path(__file__).parents[2] / "docs/results/tasks/runs.csv"
    arm = ["task", "rule", "gae_lambda", "critic", "eos", "updates", "rows"]
    runs = []
    for cell, run in pd.read_csv(page).query("task != 'Detox'").groupby([*arm, "rate", "seed"]):
        last = run.gold_score[-max(1, len(run) // 10) :].mean()
        runs.append((*cell, last, run.kl.diff()[run.step.diff() == 1].max()))
    table = pd.DataFrame(runs, columns=[*arm, "rate", "seed", "gold", "move"])
    best = table.groupby([*arm, "rate"]).gold.mean().groupby(arm).max().rename("best")
    table = table.join(best, on=arm)
    moved = pd.cut(table.move, [-np.inf, 1.0, MAX_LEAP, np.inf])
    behind = (table.best - table.gold).groupby(moved, observed=False)
    assert [*behind.size()] == [127, 146, 74]
    assert [*behind.mean()] == pytest.approx([0.02, 0.03, 0.17], abs=0.005)
