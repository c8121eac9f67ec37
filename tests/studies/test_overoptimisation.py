"""The page's tables are of the older runs until every one of today's is made."""

from pathlib import Path

from studies import overoptimisation
from studies.overoptimisation import STUDY, rounds, rows_of
from tokengym.lab.protocol import MEASURES
from tokengym.lab.study import DOCS, Published, Row, Runs


def published(rows: list[Row], folder: Path) -> Published:
    return Published(runs=Runs(rows, STUDY.axes), drawn={}, folder=folder)


def made_today() -> list[Row]:
    """Runs whose gold rises to 5 at update 1 and ends at 4."""
    return [
        {**cell, "seed": seed, **dict.fromkeys(MEASURES, 0.0), "step": step, "gold_score": gold}
        for cells, seeds in rounds()
        for seed in seeds
        for cell in cells
        for step, gold in ((0, 0.0), (1, 5.0 + seed % 2), (2, 4.0))
    ]


def test_the_tables_are_of_todays_runs_once_they_are_whole() -> None:
    folder = DOCS / STUDY.folder
    rows = made_today()
    assert len(rows_of(published(rows, folder))) == 12 * 10 * 3
    assert rows_of(published(rows[:-3], folder)) == rows_of(published([], folder))
    (line, *_) = (
        line
        for line in overoptimisation.falls_table(rows).splitlines()
        if line.startswith("| Dialogue | 0.05 | `abc`")
    )
    assert "| 1 | 0.000 to 0.000 | 5.50 to 4.00 |" in line
    assert "\u22121.50" in line
    assert "0/10" in line
