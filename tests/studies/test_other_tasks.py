"""The study of token credit on four other tasks: its cells, its plan and its tables."""

from pathlib import Path

import pytest

from studies import other_tasks
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
from tokengym.envs import Task
from tokengym.lab.protocol import SPARE_SEED, over_run
from tokengym.lab.study import Published, Runs


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
    run = cell_of("Summarize", "red:delivery=end").but(rate=3e-4, seed=SPARE_SEED)
    made = STUDY.config(run, tmp_path)
    learner = made.training.learner
    assert (made.training.max_new_tokens, made.rewards) == (32, ("red:delivery=end",))
    assert (learner.gae_lambda, learner.learning_rate, learner.kl_coef) == (0.5, 3e-4, 0.05)
    assert (made.evaluation.every, made.evaluation.episodes) == (1, 128)
    assert not made.training.fixed_length
    assert STUDY.config(run.but(eos="forbidden"), tmp_path).training.fixed_length
    assert STUDY.config(cell_of("Detox", "sparse").but(rate=1e-3), tmp_path).training.fixed_length


def run_of(task: str, rule: str, seed: int, score: float) -> list[dict[str, object]]:
    about = {**cell_of(task, rule), "rate": 1e-3, "seed": seed}
    points = ((0, 0, 0.0, 0.0), (1, 10, score, 1.0), (2, 40, score, 1.0))
    return [
        {**about, "step": step, "tokens": tokens, "score": got, "gold_score": 0.5, "kl": kl}
        for step, tokens, got, kl in points
    ]


def test_tables_of_a_small_study(tmp_path: Path) -> None:
    scores = {"sparse": 1.0, "abc-signed": 2.0}
    rows = [
        row
        for rule, score in scores.items()
        for seed in (0, 1, SPARE_SEED)
        for row in run_of("Dialogue", rule, seed, score + 0.1 * (seed == 1) * (rule == "sparse"))
    ]
    # the mean over 40 tokens of 0 to 2 in a straight line for 10 of them, then 2: 1.75
    assert over_run(rows[-3:], "score") == pytest.approx(1.75)
    drawn = [
        {"task": "Dialogue", "n": n, "score": score, "gold_score": 0.0, "kl": 0.0}
        for n, score in ((1, 0.0), (16, 4.0))
    ]
    found = {"correlation": 0.25, "low": 0.1, "high": 0.4, "responses": 24, "ceiling": 0.6}
    forks = [{"task": "Dialogue", "rule": rule, **found} for rule in other_tasks.FORKED]
    published = Published(
        runs=Runs(rows, STUDY.axes),
        drawn={other_tasks.LINES: drawn, other_tasks.FORKS: forks},
        folder=tmp_path,
    )
    made = other_tasks.tables(published)
    assert "| Dialogue | `abc-signed` | 0.5 | +0.831 (" in made["differences"].replace("**", "")
    # (1.75 - 0.05 * 0.875) / 4
    assert "| 43% |" in made["levels"].replace(" %", "%")
    assert "| Dialogue | `abc-signed` | 0.5 | **1.71** |" in made["rates"]
    # 0.831 of a way of 4, and far from level within 3 % of it
    assert "| Dialogue | `abc-signed` | 0.5 | +20.8 % |" in made["level"]
    assert made["level"].endswith("| not shown |")
    assert made["forks"].splitlines()[-1].count("0.250 (0.100 to 0.400)") == 4
    assert made["forks"].endswith("| 0.600 |")
