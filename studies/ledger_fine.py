"""Cells of the ledger that are run again with a point after every update, and their table."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from studies.ledger_cells import AXES, FOLDER, RUNS, WORDS, config, make_cell
from tokengym.evaluation.report import signed
from tokengym.lab.protocol import FIGURES, GRID, SPARE_SEED, over_run, way
from tokengym.lab.study import NET, Cell, Round, Row, Runs, Study, run_of
from tokengym.lab.tables import (
    NONE,
    NOT_YET,
    Speed,
    after_holm,
    markdown_table,
    mean,
    student_mean,
    times_as_fast,
    updates_to_shares,
)

FINE = "fine.csv"
"""Published file of the runs, in the ledger's folder."""
CRITIC_RUNS = Path("critic") / RUNS
"""Runs of 48 tokens that the critic's page has measured so."""
SPARSE_LAMBDAS = {24: "0.95", 48: "0.95", 96: "1"}
"""Lambda that suits `sparse` by length, the ledger's."""
LABELS = {"attribution": "gradient x input", "red:delivery=end": "red", WORDS: "true words"}
OTHERS = {"abc-signed": "0.5", "uniform": "0.95", "random": "0.95", WORDS: "0.95"}
"""Rules that are set beside it and their lambdas, the most needed first."""
AT_EVERY_UPDATE = partial(config, evaluation=GRID)
"""Returns the comparison of a run that is measured after every update."""


def cells(length: int) -> list[Cell]:
    """Return the cells of a length, `sparse` at the lambda that suits it first."""
    sparse = make_cell(rule="sparse", gae_lambda=SPARSE_LAMBDAS[length], length=length)
    others = [make_cell(rule=r, gae_lambda=at, length=length) for r, at in OTHERS.items()]
    return [sparse, *others]


def rounds() -> Iterator[Round]:
    """Yield cells and the seeds wanted of them, in the order in which they are needed."""
    for seeds in range(5), range(10):
        for of in slice(3), slice(3, 4), slice(4, 5):  # curves, the second control, the words
            for length in SPARSE_LAMBDAS:
                yield cells(length)[of], seeds


def read(study: Study, file: Path) -> list[Row]:
    """Return the rows of a published file that are of these cells."""
    wanted = {cell for length in SPARSE_LAMBDAS for cell in cells(length)}
    return [row for row in study.read(file) if run_of(row, AXES) in wanted]


def beside(study: Study, docs: Path) -> list[Row]:
    """Return the runs of these cells on the critic's page, and the ledger's sweeps of them."""
    sweeps = [row for row in read(study, docs / FOLDER / RUNS) if row["seed"] == SPARE_SEED]
    return [*read(study, docs / CRITIC_RUNS), *sweeps]


def label(rule: str) -> str:
    """Return a rule's name on the page."""
    return LABELS.get(rule, f"`{rule}`")


def speed(fine: Runs, cell: Cell, ways: Sequence[Row]) -> Speed | None:
    """Return how many times as fast as `sparse` a cell comes three quarters of the way."""
    start, goal = way(row for row in ways if row["length"] == cell.length)
    return fine.speed(cell, cells(cell.length)[0], start, goal)


def table(fine: Runs, ways: Sequence[Row]) -> str:
    """Return each rule minus `sparse` with a point after every update, by length.

    The difference in score - c KL is bold where clear after Holm's correction; the ones in score,
    gold and KL over the run describe it. The last figures are the updates to shares of the way.
    """
    figures = {
        cell: figure
        for length in SPARSE_LAMBDAS
        for cell in cells(length)
        if cell != (sparse := cells(length)[0])
        and (figure := fine.difference(cell, sparse)) is not None
    }
    shown = after_holm(figures)
    rows = []
    for length in SPARSE_LAMBDAS:
        start, goal = way(row for row in ways if row["length"] == length)
        sparse, *others = cells(length)
        for cell in (sparse, *others):
            runs = fine.runs.get(cell, {})
            if len(runs) < 2:
                continue
            seeds = sorted(runs.keys() & fine.runs[sparse].keys())
            apart = [
                mean([over_run(runs[s], m) - over_run(fine.runs[sparse][s], m) for s in seeds])
                for m in FIGURES
            ]
            line = [f"{length}", f"{label(cell.rule)}, {cell.gae_lambda}", f"{len(runs)}"]
            line += [student_mean([*fine.areas(cell).values()])]
            if cell == sparse:
                line += [NONE] * 4
            else:
                line += [shown.get(cell, NONE), *map(signed, apart)]
            line.append(updates_to_shares([*fine.steps(cell, start, goal).values()]))
            times = None if cell == sparse else speed(fine, cell, ways)
            rows.append([*line, times_as_fast(times)])
    if not figures:
        return NOT_YET
    head = ["tokens", "rule, lambda", "runs", f"{NET} over the run", "minus `sparse`"]
    head += [f"{name}, minus `sparse`" for name in ("score", "gold", "KL")]
    return markdown_table([*head, "updates to 50 / 75 / 90 %", "times as fast to 75 %"], rows)
