"""Is token credit worth more than a critic that knows the score?

`sparse` and `abc-signed` on the ledger's film reviews with value networks that start from the
language model, are warmed up, or start from the reward model, measured after every update.

    python -m studies.critic run --out runs/critic [--until 22:00]
    python -m studies.critic publish --out runs/critic
    python -m studies.critic page
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from studies import ledger_cells, ledger_fine
from studies.ledger_cells import AXES, WAYS, make_cell
from studies.ledger_fine import FINE, label
from tokengym.evaluation.report import number, signed
from tokengym.lab.protocol import (
    FIGURES,
    NET_MARGIN,
    SPARE_SEED,
    Row,
    equivalence,
    level,
    net,
    over_run,
    way,
)
from tokengym.lab.study import (
    Cell,
    Published,
    Round,
    Runs,
    Study,
    draw_mean,
    read_rows,
    run_of,
)
from tokengym.lab.tables import (
    NONE,
    after_holm,
    markdown_table,
    mean,
    paired,
    student_mean,
    times_as_fast,
    updates_to_shares,
)

FOLDER = "critic"
LOW, HIGH, BETWEEN = "0.5", "0.95", "0.8"
SPARSE = make_cell(rule="sparse")
SIGNED = make_cell(rule="abc-signed", gae_lambda=LOW)
CONTROLS = make_cell(rule="uniform"), make_cell(rule="random")
PUBLISHED = (SIGNED, SPARSE, SPARSE.but(gae_lambda=LOW), *CONTROLS)
"""Cells of the ledger, whose rates are those of its sweep."""
STARTED = tuple(SPARSE.but(gae_lambda=at, critic="reward model") for at in (LOW, HIGH, BETWEEN))
"""The score under a critic that starts from the reward model."""
SIGNED_STARTED = SIGNED.but(critic="reward model")
WARM = tuple(SPARSE.but(gae_lambda=at, critic="warm-up") for at in (HIGH, LOW, BETWEEN))
SIGNED_BETWEEN = SIGNED.but(gae_lambda=BETWEEN)
"""Added on 25 November 2026, after the runs of `STARTED` at that lambda."""
SPARSE_BETWEEN = SPARSE.but(gae_lambda=BETWEEN)
LENGTHS = (24, 96)
"""Other lengths, at which the ledger's runs stand beside `AT_LENGTHS`."""
AT_LENGTHS = tuple(STARTED[2].but(length=length) for length in LENGTHS)
"""Added on 25 November 2026: the critic that did best, on shorter and longer texts."""
LONG_HIGH = STARTED[1].but(length=96)
"""Added on 25 November 2026, with six runs of 96 tokens at lambda 0.8 known: its lambda there."""
CELLS = (*PUBLISHED, *STARTED, SIGNED_STARTED, *WARM, SPARSE_BETWEEN, SIGNED_BETWEEN)
"""All cells of 48 tokens."""
STARTS = {"own": "language model", "warm-up": "warm-up", "reward model": "reward model"}
"""By the name of a critic: what it starts from."""
EVERY = 5
"""Updates between two points of the ledger's curves."""
DRAWN = (SPARSE, SIGNED, STARTED[2], STARTED[0])
COLORS = ("#0072b2", "#009e73", "#d55e00", "#e69f00")


def rounds() -> Iterator[Round]:
    """Yield cells and the seeds wanted of them, in the order in which they are needed."""
    five, ten = range(5), range(10)
    yield STARTED[:1], five
    yield [SIGNED], five
    yield STARTED[:1], ten
    yield [SIGNED], ten
    yield [SPARSE], five
    yield [SIGNED_STARTED], five
    yield STARTED[1:2], five
    yield [WARM[0]], five
    yield AT_LENGTHS, five
    yield [*WARM[1:], SPARSE_BETWEEN, SIGNED_BETWEEN], five
    yield [LONG_HIGH], five
    yield AT_LENGTHS, ten
    yield CELLS, ten


def beside(docs: Path) -> list[Row]:
    """Return the ledger's sweeps of its own cells, and its runs with a point at every update."""
    folder = docs / ledger_cells.FOLDER
    finer = (cell for length in ledger_fine.SPARSE_LAMBDAS for cell in ledger_fine.cells(length))
    own = {*PUBLISHED, *finer}
    sweeps = [
        row
        for row in STUDY.read(folder / ledger_cells.RUNS)
        if row["seed"] == SPARE_SEED and run_of(row, AXES) in own
    ]
    return [*sweeps, *STUDY.read(folder / FINE)]


# --- page -----------------------------------------------------------------------------------------


class Readings:
    """The study's runs as they were measured, and read like the ledger's beside the ledger's."""

    def __init__(self, published: Published) -> None:
        docs = published.folder.parent
        self.folder, self.fine = published.folder, published.runs
        """A point after every update."""
        made = [
            row for cell in CELLS for rows in self.fine.runs.get(cell, {}).values() for row in rows
        ]
        own = STUDY.read(published.folder / STUDY.runs)
        sweeps = [row for row in own if row["seed"] == SPARE_SEED]
        folder = docs / ledger_cells.FOLDER
        known = [r for r in STUDY.read(folder / ledger_cells.RUNS) if run_of(r, AXES) in PUBLISHED]
        again = {(run_of(row, AXES), row["seed"]) for row in made}
        kept = [row for row in known if (run_of(row, AXES), row["seed"]) not in again]
        coarse = [row for row in (*sweeps, *made) if row["step"] % EVERY == 0]
        self.coarse = Runs([*kept, *coarse], AXES)
        """A point every 5 updates; runs of the ledger that were not made again are its own."""
        ways = read_rows(folder / WAYS, text=())
        lengths = {row["length"] for row in ways}
        self.ways = {at: way(row for row in ways if row["length"] == at) for at in lengths}
        """Length -> score - c KL of the untrained policy and of the best of its responses."""
        self.way = self.ways[SPARSE.length]

    @property
    def margin(self) -> float:
        """Difference in score - c KL over the run that counts as none."""
        return NET_MARGIN * (self.way[1] - self.way[0])

    def run(self) -> list[Cell]:
        """Return the cells with runs on fresh seeds."""
        return [cell for cell in CELLS if len(self.fine.areas(cell)) > 1]


def name(cell: Cell) -> str:
    """Return a cell's name in the tables."""
    return f"{label(cell.rule)}, {STARTS[cell.critic]}, lambda {cell.gae_lambda}"


def cells_table(read: Readings) -> str:
    """Return what each cell reaches over the run and at its end, a point after every update."""
    rows = []
    for cell in read.run():
        runs = [*read.fine.runs[cell].values()]
        over = [f"{number(mean([over_run(run, m) for run in runs]))}" for m in FIGURES]
        ends = [number(mean([*read.fine.ends(cell, m).values()])) for m in FIGURES]
        areas = [*read.fine.areas(cell).values()]
        figures = (f"{read.fine.rate(cell):g}", str(len(runs)), student_mean(areas))
        rows.append([name(cell), *figures, *over, *ends])
    over_head = [f"{m} over the run" for m in ("score", "gold", "KL")]
    ends_head = [f"{m} at the end" for m in ("score", "gold", "KL")]
    head = ["rule, the critic's start, lambda", "rate", "pairs", "score - c KL over the run"]
    return markdown_table([*head, *over_head, *ends_head], rows)


def differences_table(read: Readings) -> str:
    """Return each cell minus the two references, on both grids; bold after Holm over the page."""
    columns = {
        "minus `sparse`, every update": (read.fine, SPARSE),
        "minus `abc-signed`, every update": (read.fine, SIGNED),
        "minus `sparse`, every 5": (read.coarse, SPARSE),
        "minus `abc-signed`, every 5": (read.coarse, SIGNED),
    }
    cells = [cell for cell in CELLS if cell not in (SPARSE, *CONTROLS)]
    cells = [cell for cell in cells if len(read.coarse.areas(cell)) > 1]
    figures = {
        (cell, column): figure
        for cell in cells
        for column, (runs, other) in columns.items()
        if cell != other and (figure := runs.difference(cell, other)) is not None
    }
    shown = after_holm(figures)
    rows = [[name(c), *(shown.get((c, column), NONE) for column in columns)] for c in cells]
    return markdown_table(["", *columns], rows)


def level_table(read: Readings) -> str:
    """Return the two one-sided tests of cells against `abc-signed` at the protocol's margin."""
    rows = []
    for cell in (*STARTED, SIGNED):
        for grid, ledger in (("every update", read.fine), ("every 5", read.coarse)):
            one, two = paired(ledger.areas(cell), ledger.areas(SIGNED))
            if cell == SIGNED or len(one) < 2:
                continue
            result = equivalence(one, two, read.margin)
            apart = signed(mean(np.subtract(one, two)))
            ends = f"{signed(result.low)} to {signed(result.high)}"
            verdict = "level" if result.equivalent else "not shown"
            p_value = number(result.p_value)
            rows.append([name(cell), grid, str(len(one)), apart, ends, p_value, verdict])
    head = ["minus `abc-signed`, language model, lambda 0.5", "grid", "pairs", "difference"]
    return markdown_table([*head, "90 % interval", "p", f"within {number(read.margin)}"], rows)


def speeds_table(read: Readings) -> str:
    """Return the updates to shares of the way to best-of-16, and how many times `sparse` takes."""
    rows = []
    for cell in read.run():
        steps = updates_to_shares([*read.fine.steps(cell, *read.way).values()])
        times = None if cell == SPARSE else read.fine.speed(cell, SPARSE, *read.way)
        rows.append([name(cell), steps, times_as_fast(times)])
    return markdown_table(["", "updates to 50 / 75 / 90 %", "times as fast to 75 %"], rows)


def lengths_table(read: Readings) -> str:
    """Return `sparse` from the reward model beside the ledger's rules at each length.

    Differences in score - c KL over the run are bold after Holm over the page. The last figures are
    two one-sided tests against `abc-signed`, and how many times as fast as `sparse` a cell is.
    """
    runs, rows = read.fine, []
    lines = {
        length: [*ledger_fine.cells(length)[:2], STARTED[2].but(length=length)]
        for length in ledger_fine.SPARSE_LAMBDAS
    }
    lines[LONG_HIGH.length].append(LONG_HIGH)
    figures = {
        (cell, base): figure
        for first, second, *others in lines.values()
        for cell, bases in ((second, (first,)), *((one, (first, second)) for one in others))
        for base in bases
        if (figure := runs.difference(cell, base)) is not None
    }
    shown = after_holm(figures)
    for length, (first, second, *others) in lines.items():
        start, goal = read.ways[length]
        for cell in (first, second, *others):
            areas, leader = runs.areas(cell), runs.areas(second)
            if len(areas) < 2:
                continue
            over = [mean([over_run(p, m) for p in runs.runs[cell].values()]) for m in FIGURES]
            line = [f"{length}", name(cell), f"{len(areas)}", student_mean([*areas.values()])]
            line += [shown.get((cell, base), NONE) for base in (first, second)]
            verdict = NONE
            if cell in others and (pairs := paired(areas, leader))[0]:
                verdict = "yes" if level(*pairs, goal - start).equivalent else "not shown"
            times = None if cell == first else runs.speed(cell, first, start, goal)
            rows.append([*line, verdict, *map(number, over), times_as_fast(times)])
    head = ["tokens", "rule, the critic's start, lambda", "runs", "score - c KL over the run"]
    head += ["minus `sparse`", "minus `abc-signed`", "level with it", "score", "gold", "KL"]
    return markdown_table([*head, "times as fast to 75 %"], rows)


def draw(read: Readings) -> None:
    """Draw score - c KL, score and KL over the updates, means with 95 % intervals."""
    from matplotlib.figure import Figure

    panels: dict[str, Callable[[Row], float]] = {
        "score - c KL": net,
        "score": lambda row: float(row["score"]),
        "KL, nats per response": lambda row: float(row["kl"]),
    }
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, (title, of) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for cell, color in zip(DRAWN, COLORS, strict=True):
            runs = [*read.fine.runs.get(cell, {}).values()]
            if len(runs) < 2:
                continue
            draw_mean(axes, runs, of, color=color, label=name(cell).replace("`", ""))
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("updates")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2, fontsize=8)
    figure.savefig(read.folder / "curves.png", dpi=150, metadata={"Software": None})


def tables(read: Readings) -> dict[str, str]:
    """Return the page's tables by name."""
    return {
        "level": level_table(read),
        "differences": differences_table(read),
        "cells": cells_table(read),
        "speeds": speeds_table(read),
        "lengths": lengths_table(read),
    }


STUDY = Study(
    document="critic.md",
    folder=FOLDER,
    axes=AXES,
    rounds=rounds,
    config=ledger_fine.AT_EVERY_UPDATE,
    beside=beside,
    readings=Readings,
    tables=tables,
    pictures=draw,
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
