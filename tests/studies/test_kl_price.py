"""The table of docs/results/kl.md, from rows made by hand and from the published curves."""

from pathlib import Path

import pytest

from studies.kl_price import (
    DOCS,
    PLACES,
    TEXT,
    Cell,
    cells,
    measure_on_oracle,
    oracle_cells,
    publish,
    stopped_cells,
    stopped_table,
    table,
)

ROOT = Path(__file__).parents[2]


def test_a_cell_is_score_minus_price_times_kl():
    rows = [
        dict(zip(TEXT, place, strict=True))
        | dict(price=0.5, rate=1e-3, seed=seed, step=step, score=score, kl=kl)
        for place, kl in zip(PLACES, (10.0, 2.0, 1.0), strict=True)
        for seed, score in ((0, 1.0), (1, 2.0))
        for step in (0, 20)
    ]
    (line,) = table(rows).splitlines()[2:]
    assert "**\N{MINUS SIGN}3.50** (1.50, 10.0 nats) | **0.500** (1.50, 2.00 nats)" in line
    assert "| **1.00** (1.50, 1.00 nats)" in line


def test_runs_that_stop_early_have_cells_of_their_own():
    rows = [
        dict(kl_in="reward", kl_estimator=estimator, price=0.5, rate=1e-3, seed=0, step=20)
        | dict(score=score, kl=1.0, target_kl=stop)
        for estimator, stop, score in (("k1", 0.01, 1.0), ("k1", 0.003, 2.0), ("exact", 0.01, 3.0))
    ]
    (line,) = stopped_table(rows).splitlines()[2:]
    cells_of_line = [cell.split("**")[1] for cell in line.split("|") if "**" in cell]
    assert cells_of_line == ["0.500", "1.50", "2.50"]


def test_the_gap_on_the_oracle_is_that_of_its_values(monkeypatch: pytest.MonkeyPatch):
    """The untrained policy has gap 1; learning closes some of it."""
    monkeypatch.setattr("studies.kl_price.ORACLE_UPDATES", 10)
    first, last = measure_on_oracle(Cell("reward", "exact", 0.2, 1e-3, 0))
    assert (first["gap"], first["kl"]) == (1.0, 0.0)
    assert last["gap"] < 0.6
    assert last["kl"] > 1.0


def test_the_number_of_runs():
    assert len(list(cells())) == len({cell.name for cell in cells()}) == 78
    assert len(list(oracle_cells())) == 108
    assert len({cell.name for cell in stopped_cells()} - {cell.name for cell in cells()}) == 32


def test_the_page_is_current(tmp_path: Path):
    page = ROOT / DOCS / "kl.md"
    (tmp_path / "kl.md").write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    publish(ROOT / DOCS / "kl", tmp_path)
    assert (tmp_path / "kl.md").read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
