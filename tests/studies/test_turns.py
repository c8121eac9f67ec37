"""The study of turns: its cells, one run of each kind, and its published figures."""

from pathlib import Path

import pytest

from studies import turns
from studies.turns import LEAVING, RULES, STUDY
from tokengym.lab.protocol import SPARE_SEED
from tokengym.lab.study import DOCS


def test_every_credit_is_planned_for_ten_seeds_at_every_length() -> None:
    ((cells, seeds),) = STUDY.rounds()
    assert len(set(cells)) == len(cells) == 3 * (len(RULES) + len(LEAVING))
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
    cell = STUDY.cell(credit="gigpo", turns=2)  # the other credits' gradients are those above
    monkeypatch.setattr(turns, "UPDATES", 10)
    played, points = turns.play(cell.but(rate=0.01, seed=0)), published.runs.runs[cell][0][:11]
    for figure in ("score", "kl", "decisive"):
        expected = pytest.approx([point[figure] for point in points], abs=1e-3)
        assert [point[figure] for point in played] == expected
