"""The runner of studies: cells, the order of runs, what is published and restored, and levels."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.comparisons import comparison
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.lab import study as module
from tokengym.lab.protocol import SPARE_SEED, best_of_rows
from tokengym.lab.study import Cell, Drawn, Published, Row, Runs, Study, deadline, write_rows

SPARSE, ABC = Cell(rule="sparse", length=48), Cell(rule="abc", length=48)


def rows_of(run: Cell, score: float, kl: float = 0.0) -> list[dict[str, Any]]:
    """Return a run whose score stays the same, and whose KL grows in a straight line."""
    return [
        {**run, "step": s, "tokens": 10.0 * s, "score": score, "gold_score": 0.5, "kl": s * kl}
        for s in (0, 1)
    ]


def tables(published: Published) -> dict[str, str]:
    """Return one table: every run with its area."""
    runs = published.runs
    lines = [f"{cell!r} {seed}" for cell in runs.runs for seed in runs.runs[cell]]
    return {"runs": "\n".join(lines), "lines": str(len(published.drawn["lines.csv"]))}


def study(**changes: Any) -> Study:
    """Return a study of two rules, three seeds each."""
    settings: dict[str, Any] = {
        "document": "page.md",
        "folder": "data",
        "axes": {"rule": str, "length": 48},
        "rounds": lambda: [([SPARSE, ABC], range(3))],
        "config": lambda run, out: comparison(env="Oracle", rewards=(run.rule,), seeds=1),
        "tables": tables,
        "drawn": (Drawn(file="lines.csv", parts={"lines.csv": lambda out: [{"n": 1}]}),),
    }
    return Study(**{**settings, **changes})


def do(work: Study, out: Path, reached: dict[float, float]) -> list[tuple[Any, ...]]:
    """Write what is missing, without training, and return the order of it."""
    order = []
    for run in work.pending(out):
        order.append((run.rule, run.get("rate"), run.seed))
        write_rows(work.file(run, out), rows_of(run, reached.get(run.get("rate", 0.0), 0.0)))
    return order


def test_cells_are_mappings_with_the_axes_as_attributes() -> None:
    cell = Cell(rule="red:delivery=end", length=48.0, rate=3e-4)
    assert (cell.rule, cell["length"], len(cell)) == ("red:delivery=end", 48.0, 3)
    assert cell == Cell(rule="red:delivery=end", length=48, rate=3e-4)
    assert {cell: 1}[cell.but(length=48)] == 1
    assert cell.without("rate") == Cell(rule="red:delivery=end", length=48)
    assert repr(cell) == "red.delivery=end_48_0.0003"
    with pytest.raises(AttributeError, match="seeds"):
        _ = cell.seeds
    assert study().cell(rule="abc") == ABC


def test_a_sweep_comes_before_the_seeds_which_take_its_best_rate(tmp_path: Path) -> None:
    order = do(study(), tmp_path, {1e-3: 2.0, 3e-3: 3.0, 1e-2: 1.0})
    sweep = [(rule, rate, SPARE_SEED) for rule in ("sparse", "abc") for rate in (1e-3, 3e-3, 1e-2)]
    assert order == sweep + [(rule, 3e-3, s) for s in range(3) for rule in ("sparse", "abc")]
    assert list(study().pending(tmp_path)) == []


def test_a_cell_may_take_the_rate_of_another_and_a_rate_be_chosen_by_another_figure(
    tmp_path: Path,
) -> None:
    """`abc` has the rate of `sparse`, which is the lowest score there is: 3e-4 has -1."""
    work = study(criterion=lambda rows, price: -rows[-1]["score"], tuned_as=lambda _: SPARSE)
    order = do(work, tmp_path, {1e-3: 2.0, 3e-3: 3.0, 3e-4: -1.0})
    sweep = [("sparse", rate, SPARE_SEED) for rate in (1e-3, 3e-3, 3e-4, 1e-4)]
    assert order == sweep + [(rule, 3e-4, s) for s in range(3) for rule in ("sparse", "abc")]
    rows = work.read(*sorted((tmp_path / "runs").glob("*.csv")))
    runs = Runs(rows, work.axes, criterion=work.criterion, tuned_as=work.tuned_as)
    assert runs.rate(ABC) == 3e-4
    assert {cell.rule: len(of_cell) for cell, of_cell in runs.runs.items()} == {
        "sparse": 3,
        "abc": 3,
    }


def test_without_a_sweep_runs_have_no_rate(tmp_path: Path) -> None:
    plain = study(first_rate=None)
    assert do(plain, tmp_path, {})[:2] == [("sparse", None, 0), ("abc", None, 0)]
    assert (tmp_path / "runs" / "sparse_48_2.csv").exists()


def test_parts_share_the_cells(tmp_path: Path) -> None:
    plain = study(first_rate=None)
    first, second = ({run.rule for run in plain.pending(tmp_path, f"{i}/2")} for i in (0, 1))
    assert (first, second) == ({"sparse"}, {"abc"})


@pytest.mark.parametrize("part", ["2/2", "1/1", "0/0", "-1/2", "a/b", "1", ""])
def test_a_part_that_does_not_exist_is_refused(tmp_path: Path, part: str) -> None:
    for use in (
        lambda: list(study().pending(tmp_path, part)),
        lambda: study().run(tmp_path, tmp_path, part),
    ):
        with pytest.raises(ValueError, match=rf"part must.*got {part!r}"):
            use()


def test_published_runs_are_restored_and_not_run_again(tmp_path: Path) -> None:
    out, docs = tmp_path / "out", tmp_path / "docs"
    docs.mkdir()
    (docs / "page.md").write_text(
        "<!-- runs -->\n<!-- end runs -->\n<!-- lines -->\n<!-- end lines -->\n"
    )
    work = study()
    do(work, out, {1e-3: 2.0})
    write_rows(out / "lines.csv", [{"n": 1}, {"n": 2}])
    work.publish(out, docs)
    assert "sparse_48 0\nsparse_48 1" in (docs / "page.md").read_text()
    assert "<!-- lines -->\n2\n" in (docs / "page.md").read_text()
    before = (docs / "data" / "runs.csv").read_text()
    work.publish(tmp_path / "part", docs)  # a folder without them loses none
    assert (docs / "data" / "runs.csv").read_text() == before
    again = tmp_path / "again"
    work.restore(again, docs)
    assert list(work.pending(again)) == []
    assert (again / "lines.csv").read_text() == (out / "lines.csv").read_text()
    for file in (out / "runs").iterdir():
        assert (again / "runs" / file.name).read_text() == file.read_text()


def test_rows_from_before_an_axis_have_its_default(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("rule,seed,step,tokens,score,kl\nabc,0,0,0,1,0\n")
    (row,) = study().read(tmp_path / "runs.csv")
    assert (row["length"], row["rule"], row["score"]) == (48, "abc", 1.0)


def test_run_draws_trains_and_stops_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def train(config: Comparison, rule: str, seed: int) -> SimpleNamespace:
        trained.append((rule, seed))
        point = {"step": 1, "tokens": 4, "score": 0.123456, "gold_score": 0.0, "kl": 0.0}
        return SimpleNamespace(points=[point])

    monkeypatch.setattr(module, "run_one", train)
    work = study(first_rate=None)
    work.run(tmp_path / "out", tmp_path / "docs")
    assert trained == [(rule, seed) for seed in range(3) for rule in ("sparse", "abc")]
    (row,) = work.read(tmp_path / "out" / "runs" / "abc_48_2.csv")
    assert row == {"rule": "abc", "length": 48, "seed": 2, "score": 0.1235, "gold_score": 0} | {
        "step": 1,
        "tokens": 4,
        "kl": 0,
    }
    assert (tmp_path / "out" / "lines.csv").exists()
    trained.clear()
    monkeypatch.setattr(module, "deadline", lambda until: datetime.min)
    work.run(tmp_path / "late", tmp_path / "docs")
    assert trained == []
    assert not (tmp_path / "late").exists()


def test_runs_by_hand() -> None:
    def runs_of(cell: Cell, scores: Iterable[float]) -> Sequence[Row]:
        runs = [cell.but(rate=1e-3, seed=seed) for seed in (SPARE_SEED, 0, 1, 2)]
        return [
            row
            for run, score in zip(runs, scores, strict=True)
            for row in rows_of(run, score, kl=2.0)
        ]

    other = rows_of(ABC.but(rate=3e-3, seed=SPARE_SEED), 0.0)
    ignored = rows_of(ABC.but(rate=3e-3, seed=0), 9.0)  # not the sweep's best rate
    rows = [*runs_of(SPARSE, (1, 1, 2, 3)), *runs_of(ABC, (2, 2, 3, 4)), *other, *ignored]
    runs = Runs(rows, ("rule", "length"))
    # The KL rises from 0 to 2 in a straight line: 1 on average, at .05 a nat.
    assert runs.areas(SPARSE) == pytest.approx({0: 0.95, 1: 1.95, 2: 2.95})
    assert runs.rate(ABC) == 1e-3
    gain = runs.difference(ABC, SPARSE)
    assert gain is not None
    assert (gain.difference, gain.wins, gain.pairs) == (pytest.approx(1.0), 3, 3)
    assert runs.difference(ABC, Cell(rule="red", length=48)) is None
    assert runs.chosen([SPARSE, ABC, Cell(rule="red", length=48)]) == ABC


@pytest.mark.parametrize(
    ("now", "until", "end"),
    [
        (datetime(2026, 3, 1, 9, 30), "12:25", datetime(2026, 3, 1, 12, 25)),
        (datetime(2026, 3, 1, 22, 0), "00:15", datetime(2026, 3, 2, 0, 15)),
        (datetime(2026, 3, 1, 12, 26), "12:25", datetime(2026, 3, 2, 12, 25)),
        (datetime(2026, 12, 31, 23, 0), None, datetime.max),
    ],
    ids=["the same day", "over midnight", "just past", "none"],
)
def test_deadline_is_the_next_time_that_clocks_show_it(
    now: datetime, until: str | None, end: datetime
) -> None:
    assert deadline(until, now) == end


def test_best_of_n_by_hand() -> None:
    """The largest of n of 0, ..., N - 1 is n (N + 1) / (n + 1) - 1 on average."""
    proxy = np.arange(64.0)[None]
    rows = {row["n"]: row for row in best_of_rows(proxy, -proxy)}
    assert rows[1]["score"] == pytest.approx(31.5)
    assert rows[1]["kl"] == 0.0
    assert rows[2]["score"] == pytest.approx(2 * 65 / 3 - 1)
    assert rows[2]["gold_score"] == pytest.approx(1 - 2 * 65 / 3)
    assert rows[2]["kl"] == pytest.approx(np.log(2) - 0.5)
    assert rows[64]["score"] == 63.0
