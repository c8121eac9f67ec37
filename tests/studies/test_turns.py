"""The study of turns: its cells, one run of each kind, and its tables."""

from pathlib import Path

import pytest

from studies import turns
from studies.turns import LEAVING, RULES, STUDY
from tokengym.lab.protocol import SPARE_SEED
from tokengym.lab.study import DOCS, Published, Runs


def test_every_credit_is_planned_for_ten_seeds_at_every_length() -> None:
    ((cells, seeds),) = STUDY.rounds()
    assert len(set(cells)) == len(cells) == 3 * (len(RULES) + len(LEAVING)) + len(turns.BATCHES)
    assert len(seeds) == 10
    assert SPARE_SEED not in seeds


@pytest.mark.parametrize("credit", RULES)
def test_a_run_of_every_credit(credit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "UPDATES", 3)
    run = STUDY.cell(credit=credit, turns=2).but(rate=1e-3, seed=3)
    points = turns.play(run)
    assert [point["step"] for point in points] == [0, 1, 2, 3]
    assert points[0]["score"] == 0.625
    assert points[0]["kl"] == 0.0
    assert points[3]["kl"] > 0
    assert points == turns.play(run)


def test_tables_of_a_small_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(turns, "TURNS", (2,))
    monkeypatch.setattr(turns, "GROUPS", 50)
    monkeypatch.setattr(turns, "UPDATES", 2)
    gradients = turns.gradients(tmp_path)
    assert {row["credit"] for row in gradients if not row["leaves"]} == set(RULES)
    rows = [
        {**run, **point}
        for credit in ("broadcast", "turn-score")
        for seed in (0, 1, SPARE_SEED)
        for run in [STUDY.cell(credit=credit, turns=2).but(rate=1e-3, seed=seed)]
        for point in turns.play(run)
    ]
    published = Published(
        runs=Runs(rows, STUDY.axes, 0.0), drawn={turns.EXACT: gradients}, folder=tmp_path
    )
    made = turns.tables(published)
    assert "| exact | 1.000 |" in made["gradients"]
    assert "| turn-score | 0." in made["runs"]
    assert made["batches"] == turns.NOT_YET


def test_the_published_figures_are_those_of_the_present_estimators(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The runs of a page stay behind when an estimator changes: two turns are measured again."""
    monkeypatch.setattr(turns, "TURNS", (2,))
    published = STUDY.published(DOCS)
    drawn = {
        (row["turns"], row["leaves"], row["credit"]): row for row in published.drawn[turns.EXACT]
    }
    for row in turns.gradients(tmp_path):
        there = drawn[row["turns"], row["leaves"], row["credit"]]
        for figure in ("cosine", "reach", "noise"):
            assert row[figure] == pytest.approx(there[figure], rel=1e-3, abs=1e-4), row["credit"]
    for credit in ("turn-score", "turn-progress", "gigpo"):
        run = STUDY.cell(credit=credit, turns=2).but(rate=0.01, seed=0)
        (points,) = (
            points
            for cell, by_seed in published.runs.runs.items()
            if cell == STUDY.cell(credit=credit, turns=2)
            for points in [by_seed[0]]
        )
        played = turns.play(run)
        for figure in ("score", "kl", "decisive"):
            expected = pytest.approx([point[figure] for point in points], abs=1e-3)
            assert [point[figure] for point in played] == expected
