"""The real model's study: its order of runs, its comparison, and its power."""

import math
from pathlib import Path

import pytest

from studies import real_model as study
from tokengym.lab.protocol import PRICE
from tokengym.lab.study import Cell, Runs, write_rows

STUDY = study.STUDY


def rows_of(run: Cell, score: float) -> list[dict[str, object]]:
    """Return a run whose score rises and whose KL grows to 2 nats."""
    return [
        {**run, "step": step, "tokens": 256 * step, "score": step * score / 4}
        | {"gold_score": 0.25, "kl": step / 2}
        for step in (0, 2, 4)
    ]


def test_every_rule_has_its_sweep_and_then_its_seeds(tmp_path: Path) -> None:
    reached = {1e-3: 3.0, 3e-3: 2.0, 3e-4: 1.0}
    order = []
    for run in STUDY.pending(tmp_path):
        order.append((run.rule, run.rate, run.seed))
        write_rows(STUDY.file(run, tmp_path), rows_of(run, reached[run.rate]))
    sweep = [(rule, rate, 1000) for rule in study.RULES for rate in reached]
    assert order == sweep + [(rule, 1e-3, seed) for seed in range(6) for rule in study.RULES]
    assert list(STUDY.pending(tmp_path)) == []


def test_the_comparison_is_the_bundles() -> None:
    config = study.config(Cell(rule="abc-signed", rate=3e-4, seed=0), Path())
    assert (config.training.lora_rank, config.training.learner.learning_rate) == (8, 3e-4)
    assert config.task.bundle == "smollm2-reviews"
    assert config.kl_coef == PRICE


def test_pairs_that_a_difference_takes() -> None:
    # normal quantiles give (1.96 + 0.84)^2 * 4 = 31.4 and (1.645 + 1.282)^2 * 4 = 34.3
    assert study.pairs_needed(0.2, 0.1) == 34
    assert study.pairs_needed(0.2, 0.1, level=True) == 36


def test_the_power_by_hand() -> None:
    scores = {"sparse": (1.0, 2.0, 3.0), "abc-signed": (1.5, 2.0, 3.5)}
    rows = [
        row
        for rule, values in scores.items()
        for seed, score in [(1000, 1.0), *enumerate(values)]
        for row in rows_of(Cell(rule=rule, rate=1e-3, seed=seed), score)
    ]
    # best of 2 minus one: 0.1 / sqrt(pi), a spread of 0.1 at one opening
    lines = [{"n": 1.0, "score": 0.0}, {"n": 2.0, "score": 0.1 / math.pi**0.5}]
    assert study.spread_of(lines) == pytest.approx(0.1)
    table = study.power_table(Runs(rows, STUDY.axes), lines)
    # areas: half of the scores; differences 0.25, 0, 0.25 have a variance of 1 / 48. Two steps
    # weigh 1/2 and 1/4, so that two runs' draws add 2 * 0.01 * 5 / 16 a draw: 1/48 - that / 32
    # + that / (32 * 8)
    noise = 2 * 0.01 * 5 / 16
    spread = (1 / 48 - noise / 32 + noise / 256) ** 0.5
    assert f"| 32 | 8 | {spread:.3f} | {study.pairs_needed(spread, 0.1)} |" in table
