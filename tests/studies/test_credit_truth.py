"""The study of credit against the truth: its plan, one small cell, and what it publishes."""

import csv
from pathlib import Path

import pytest

from studies import credit_truth
from studies.credit_truth import Cell
from tokengym.base.files import read_json, write_json


def figures(correlation: float, share: float) -> dict[str, float]:
    return {"correlation": correlation, "pooled": 0.5, "share": share, "signs": 1.0, "ceiling": 0.9}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for seed, value in enumerate((0.1, 0.2, 0.6)):
        cell = Cell(task="MovieReview", policy="reference", seed=seed, scorer="learned")
        rules = {"sparse": figures(0.0, 0.0), "abc": figures(value, 0.75)}
        write_json(cell.path(tmp_path), {"episodes": 4, "alike": 0.25, "score": 1, "rules": rules})
    return tmp_path


def test_every_set_of_episodes_is_scored_twice():
    cells = list(credit_truth.cells(3))
    assert len(set(cells)) == len(cells) == 2 * 2 * 3 * 2
    learned, exact = cells[:2]
    assert (learned.scorer, exact.scorer) == ("learned", "exact")
    assert {"abc", "red", "sparse", "scar:spans=12"} <= set(learned.rules)
    assert "abc" not in exact.rules
    assert "red:every_prefix=true" in exact.rules


def test_means_over_seeds(study: Path):
    rows = credit_truth.summarize(study, seeds=3)
    (row,) = [r for r in rows if r["rule"] == "abc" and r["measure"] == "correlation"]
    assert row["mean"] == pytest.approx(0.3)
    assert row["seeds"] == 3
    assert 0.1 <= row["low"] < 0.3 < row["high"] <= 0.6
    assert [r["mean"] for r in rows if r["rule"] == "all alike"] == [0.25]


def test_the_tables_stand_in_their_documents(study: Path, tmp_path: Path):
    document, page = tmp_path / "truth.md", tmp_path / "credits.md"
    places = "".join(
        f"<!-- {task} {policy} {scorer} -->\n<!-- end {task} {policy} {scorer} -->\n"
        for task in credit_truth.TASKS
        for policy in credit_truth.POLICIES
        for scorer in credit_truth.SCORERS
    )
    document.write_text(places)
    page.write_text("<!-- scores -->\n<!-- end scores -->\n")
    credit_truth.publish(study, 3, document, page)
    text = document.read_text()
    assert text.index("| `abc` | 0.300 (0.1") < text.index("| `sparse` | 0.000")  # the best first
    assert "| 0.900 (0.900 to 0.900) |  | 0.250 (0.250 to 0.250) |" in text
    assert "| `abc` | 0.300; 0.750 |" in page.read_text()
    assert "all tokens alike* | 0.900; 0.250 |" in page.read_text()
    rows = list(csv.DictReader((tmp_path / "truth" / "figures.csv").open()))
    assert len(rows) == 2 * 4 + 3
    assert (tmp_path / "truth" / "correlation.png").stat().st_size > 1000


def test_a_cell_is_played_scored_and_kept(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(credit_truth, "POLICIES", ("reference",))
    monkeypatch.setattr(credit_truth, "BY_MODEL", ("red",))
    monkeypatch.setattr(credit_truth, "BY_SCORE", ("scar",))
    credit_truth.run(tmp_path, seeds=1, episodes=8, tasks=["Oracle"])
    found = read_json(tmp_path / "Oracle" / "reference" / "seed-0" / "learned.json")
    assert found["episodes"] == 8
    assert found["rules"]["red"]["share"] > found["alike"]
    others = {"low", "high", "ceiling", "responses"}
    assert set(found["rules"]["red"]) == {*credit_truth.MEASURES, *others}
    assert capsys.readouterr().out.count("Cell(") == 2
    credit_truth.run(tmp_path, seeds=1, episodes=8, tasks=["Oracle"])
    assert capsys.readouterr().out == ""  # nothing is done twice
