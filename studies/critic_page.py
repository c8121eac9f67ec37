"""The tables and the picture of docs/results/critic.md, from the runs of `critic`.

python -m studies.critic_page publish --out runs/critic
python -m studies.critic_page page
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from studies.critic import (
    CELLS,
    CONTROLS,
    FOLDER,
    PUBLISHED,
    RUNS,
    SIGNED,
    SPARSE,
    STARTED,
    FineCell,
)
from studies.ledger import FOLDER as LEDGER_FOLDER
from studies.ledger import RUNS as LEDGER_RUNS
from studies.ledger import WAYS, Cell, read_runs
from studies.ledger_page import FASTER_AT, AtLength, Ledger, label
from tokengym.base import write_csv
from tokengym.evaluation.measure import BEST_OF
from tokengym.evaluation.report import number, signed
from tokengym.evaluation.statistics import equivalence, student_interval
from tokengym.lab.protocol import SPARE_SEED, Row, net, over_run
from tokengym.lab.study import DOCS, Docs, Out, command_line, read_rows
from tokengym.lab.tables import (
    NONE,
    after_holm,
    fill,
    markdown_table,
    mean,
    page_wide,
    student_mean,
)

STARTS = {"own": "language model", "warm-up": "warm-up", "reward model": "reward model"}
"""By the name of a critic: what it starts from."""
MARGIN = 0.03
"""Share of the way within which a difference counts as none, as the protocol has it."""
EVERY = 5
"""Updates between two points of the ledger's curves."""
MEASURES = ("score", "gold_score", "kl")
DRAWN = (SPARSE, SIGNED, STARTED[2], STARTED[0])
COLORS = ("#0072b2", "#009e73", "#d55e00", "#e69f00")


def plain(cell: Cell) -> Cell:
    """Return a cell as `Ledger` knows it."""
    return Cell(**vars(cell))


def publish(out: Out, docs: Docs = DOCS) -> None:
    """Write the study's runs as one csv; the ledger's own sweeps stay in the ledger's."""
    rows = read_runs(*sorted((out / "runs").glob("*.csv")))
    made = [r for r in rows if not (r["seed"] == SPARE_SEED and fine(r) in PUBLISHED)]
    write_csv(docs / FOLDER / RUNS, made, list(made[0]))
    page(docs)


def fine(row: Row) -> FineCell:
    """Return the cell of this study that a row is from."""
    return FineCell(**vars(Cell.of(row)))


class Readings:
    """The study's runs as they were measured, and read like the ledger's beside the ledger's."""

    def __init__(self, docs: Path) -> None:
        made = read_runs(docs / FOLDER / RUNS)
        known = [r for r in read_runs(docs / LEDGER_FOLDER / LEDGER_RUNS) if fine(r) in PUBLISHED]
        sweeps = [row for row in known if row["seed"] == SPARE_SEED]
        self.fine = Ledger([*made, *sweeps])
        """A point after every update."""
        again = {(fine(row), row["seed"]) for row in made}
        kept = [row for row in known if (fine(row), row["seed"]) not in again]
        self.coarse = Ledger([*kept, *(row for row in made if row["step"] % EVERY == 0)])
        """A point every 5 updates; runs of the ledger that were not made again are its own."""
        ways = read_rows(docs / LEDGER_FOLDER / WAYS, text=())
        best = {row["n"]: net(row) for row in ways if row["length"] == SPARSE.length}
        self.here = AtLength(start=best[1], goal=best[BEST_OF], sparse=plain(SPARSE))

    @property
    def margin(self) -> float:
        """Difference in score - c KL over the run that counts as none."""
        return MARGIN * (self.here.goal - self.here.start)

    def run(self) -> list[Cell]:
        """Return the cells with runs on fresh seeds."""
        return [cell for cell in map(plain, CELLS) if len(self.fine.areas(cell)) > 1]


def name(cell: Cell) -> str:
    """Return a cell's name in the tables."""
    return f"{label(cell.rule)}, {STARTS[cell.critic]}, lambda {cell.gae_lambda}"


def cells_table(read: Readings) -> str:
    """Return what each cell reaches over the run and at its end, a point after every update."""
    rows = []
    for cell in read.run():
        runs = [*read.fine.runs[cell].values()]
        over = [f"{number(mean([over_run(run, m) for run in runs]))}" for m in MEASURES]
        ends = [number(mean(read.fine.ends(cell, m))) for m in MEASURES]
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
        "minus `sparse`, every update": (read.fine, plain(SPARSE)),
        "minus `abc-signed`, every update": (read.fine, plain(SIGNED)),
        "minus `sparse`, every 5": (read.coarse, plain(SPARSE)),
        "minus `abc-signed`, every 5": (read.coarse, plain(SIGNED)),
    }
    cells = [plain(cell) for cell in CELLS if cell not in (SPARSE, *CONTROLS)]
    cells = [cell for cell in cells if len(read.coarse.areas(cell)) > 1]
    figures = {
        (cell, column): figure
        for cell in cells
        for column, (ledger, other) in columns.items()
        if cell != other and (figure := ledger.difference(cell, other)) is not None
    }
    shown = after_holm(figures)
    rows = [[name(c), *(shown.get((c, column), NONE) for column in columns)] for c in cells]
    return markdown_table(["", *columns], rows)


def level_table(read: Readings) -> str:
    """Return the two one-sided tests of cells against `abc-signed` at the protocol's margin."""
    rows = []
    for cell in map(plain, (*STARTED, SIGNED)):
        for grid, ledger in (("every update", read.fine), ("every 5", read.coarse)):
            one, two = ledger.areas(cell), ledger.areas(plain(SIGNED))
            seeds = sorted(set(one) & set(two))
            if cell == plain(SIGNED) or len(seeds) < 2:
                continue
            result = equivalence([one[s] for s in seeds], [two[s] for s in seeds], read.margin)
            apart = signed(mean([one[s] - two[s] for s in seeds]))
            ends = f"{signed(result.low)} to {signed(result.high)}"
            verdict = "level" if result.equivalent else "not shown"
            p_value = number(result.p_value)
            rows.append([name(cell), grid, str(len(seeds)), apart, ends, p_value, verdict])
    head = ["minus `abc-signed`, language model, lambda 0.5", "grid", "pairs", "difference"]
    return markdown_table([*head, "90 % interval", "p", f"within {number(read.margin)}"], rows)


def speeds_table(read: Readings) -> str:
    """Return the updates to shares of the way to best-of-16, and how many times `sparse` takes."""
    rows = []
    for cell in read.run():
        steps = [*read.fine.steps(cell, read.here).values()]
        times = read.fine.speed(cell, read.here, FASTER_AT)
        text = NONE
        if times is not None and cell != read.here.sparse:
            text = f"{number(times[0])} ({number(times[1])} to {number(times[2])})"
        rows.append([name(cell), " / ".join(f"{at:.1f}" for at in np.mean(steps, axis=0)), text])
    return markdown_table(["", "updates to 50 / 75 / 90 %", "times as fast to 75 %"], rows)


def draw(file: Path, read: Readings) -> None:
    """Draw score - c KL, score and KL over the updates, means with 95 % intervals."""
    from matplotlib.figure import Figure

    panels: dict[str, Callable[[Row], float]] = {
        "score - c KL": net,
        "score": lambda row: float(row["score"]),
        "KL, nats per response": lambda row: float(row["kl"]),
    }
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, (title, of) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for cell, color in zip(map(plain, DRAWN), COLORS, strict=True):
            runs = [*read.fine.runs.get(cell, {}).values()]
            if len(runs) < 2:
                continue
            steps = [row["step"] for row in runs[0]]
            bands = [student_interval([of(run[at]) for run in runs]) for at in range(len(steps))]
            middle, low, high, _ = np.array([[float(v) for v in band] for band in bands]).T
            axes.plot(steps, middle, color=color, label=name(cell).replace("`", ""))
            axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("updates")
        axes.grid(alpha=0.3)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2, fontsize=8)
    figure.savefig(file, dpi=150, metadata={"Software": None})


def result_tables(read: Readings) -> dict[str, str]:
    """Return the page's tables by name."""
    return {
        "level": level_table(read),
        "differences": differences_table(read),
        "cells": cells_table(read),
        "speeds": speeds_table(read),
    }


def page(docs: Docs = DOCS) -> None:
    """Fill the page from the published runs."""
    read = Readings(docs)
    fill(docs / "critic.md", dict(page_wide(partial(result_tables, read))))
    draw(docs / FOLDER / "curves.png", read)


if __name__ == "__main__":
    command_line(__doc__, publish, page)
