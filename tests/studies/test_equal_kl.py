"""Arms trained to one KL: what a run is read at, what counts, and by what a rate is chosen."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from studies import equal_kl
from studies.equal_kl import ARMS, PAIRS, STUDY, TARGETS, TASKS, UPDATES, cell_of
from tokengym.lab.study import Cell, Row, Runs


def run(cell: Cell, seed: int, lead: float, last: float = 1.0, rate: float = 1e-3) -> list[Row]:
    """Return a run that overshoots to twice its target and then falls towards a multiple of it.

    Score is the root of the KL and a lead, gold a quarter of it.
    """
    rows: list[Row] = []
    for step in range(UPDATES + 1):
        back = 2.0 + (last - 2.0) * max(step - 10, 0) / (UPDATES - 10)
        kl = cell.target * (step / 5 if step <= 10 else back)
        score = math.sqrt(kl) + lead + 0.01 * seed
        measured = step % 2 == 0
        log = {"round_score": score, "round_kl": kl, "price": 0.1}
        rows.append(
            {**cell, "rate": rate, "seed": seed, "step": step, "tokens": 3072.0 * step}
            | {"score": score if measured else None, "kl": kl if measured else None}
            | {"gold_score": score / 4 if measured else None}
            | (log if step < UPDATES else dict.fromkeys(log))
        )
    return rows


def runs_of(last: dict[str, float]) -> Runs:
    """Return the runs of two arms on film reviews at 5 nats, their rate tuned."""
    rows = []
    for arm, lead in (("sparse", 0.0), ("abc-signed", 0.2)):
        cell = cell_of("MovieReview", arm, 5.0)
        rows += run(cell, 1000, lead)
        for seed in range(PAIRS):
            rows += run(cell, seed, lead, last=last[arm])
    return Runs(rows, STUDY.axes, criterion=STUDY.criterion, tuned_as=STUDY.tuned_as)


def test_a_lead_at_the_target_is_found_though_the_ends_differ():
    """`abc-signed` ends at 3.75 nats, `sparse` at 4."""
    runs = runs_of({"sparse": 0.8, "abc-signed": 0.75})
    pair = cell_of("MovieReview", "abc-signed", 5.0), cell_of("MovieReview", "sparse", 5.0)
    at = equal_kl.at_kl(runs, *pair)
    assert at is not None
    assert (at.kl, at.difference.pairs) == (5.0, PAIRS)
    assert at.difference.difference == pytest.approx(0.2, abs=5e-3)
    assert (at.update, at.baseline_update, at.earlier) == (34.0, 34.0, 0)
    gold = equal_kl.at_kl(runs, *pair, measure="gold_score")
    assert gold is not None
    assert gold.difference.difference == pytest.approx(0.05, abs=2e-3)
    table = equal_kl.answer_table(runs)
    assert "| **+0.197** (" in table
    assert table.endswith("| 34 and 34 |")


def test_a_rate_is_chosen_by_the_gain_brought_to_the_target():
    cell = cell_of("Detox", "uniform", 2.0)
    near = run(cell, 0, 0.0)
    near[-1] = {**near[-1], "score": 3.0}
    for row in near[-6:-1]:
        row["round_kl"] = 2.2  # type: ignore[index]
    assert equal_kl.worth(near, 0.05) == pytest.approx(3.0 / math.sqrt(1.1))
    for row in near[-6:-1]:
        row["round_kl"] = 3.0  # type: ignore[index]
    far = equal_kl.worth(near, 0.05)
    assert far == pytest.approx(-math.log(1.5) - 0.2)
    near[-1] = {**near[-1], "score": -9.0}
    assert equal_kl.worth(near, 0.05) == far
    assert STUDY.tuned_as(cell) == cell_of("Detox", "uniform", 5.0)


def test_every_arm_is_wanted_at_every_target_and_begins_above_its_price():
    cells = [cell for of_round, _ in STUDY.rounds() for cell in of_round]
    assert len({*cells}) == len(TASKS) * len(ARMS) * len(TARGETS)
    (spec,) = STUDY.config(cells[0].but(rate=1e-3, seed=0), Path()).runs
    values: dict[str, Any] = spec.training.values
    assert values["kl_target"] == pytest.approx(5.25)
    assert values["kl_coef"] == pytest.approx(0.54)
    for cell in cells:
        assert equal_kl.arm_of(cell) in ARMS


def test_the_row_of_an_update_has_the_round_of_the_policy_after_it():
    curve = [
        {"step": step, "tokens": 9.0, "score": score, "gold_score": 0.0, "kl": 1.0}
        for step, score in ((0, 0.1), (2, 0.3))
    ]
    train = [{"score": 0.5, "kl": 0.0, "kl_coef": 0.2}, {"score": 0.6, "kl": 0.4, "kl_coef": 0.1}]
    rows = equal_kl.measure(Cell(), SimpleNamespace(points=curve, log=train))  # type: ignore[arg-type]
    assert [row["score"] for row in rows] == [0.1, None, 0.3]
    assert [row["round_kl"] for row in rows] == [0.0, 0.4, None]
    assert [row["step"] for row in rows] == [0, 1, 2]
