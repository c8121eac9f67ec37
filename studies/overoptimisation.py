"""When does training lose what it is for? Fills docs/results/overoptimisation.md.

python -m studies.overoptimisation run --out runs/overoptimisation [--until 22:00]
python -m studies.overoptimisation publish --out runs/overoptimisation    # fills the page
python -m studies.overoptimisation page
"""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokengym import Comparison
from tokengym.evaluation.measure import BEST_OF_SIZES
from tokengym.evaluation.report import find_alarms, number
from tokengym.evaluation.runs import EvaluationSettings, RunRecord
from tokengym.evaluation.statistics import Fall, fall, paired_difference
from tokengym.lab.protocol import MEASURES, curve_of
from tokengym.lab.study import Cell, Published, Round, Row, Runs, Study, read_rows, single_run
from tokengym.lab.tables import (
    after_holm,
    grouped,
    markdown_table,
    mean,
    paired,
    student_mean,
)

TASKS = ("Summarize", "Dialogue")
PRICES, RULES = (0.0, 0.01, 0.05), ("sparse", "abc")
COLORS, LINES = ("#0072b2", "#e69f00", "#009e73"), ("--", "-")
"""Of prices and of rules in the picture."""
SHOWN = {"score": "proxy", "gold_score": "gold", "kl": "KL, nats"}
UPDATES, RATE, SEEDS = 16, 1e-3, range(70, 80)
"""Of the runs: the rate is three times the tasks' own."""
GRID = EvaluationSettings(every=1, episodes=128, samples=0)
READ_BY_ALARMS = ("length", "copy_rate", "repetition")
"""Measurements that are kept beside the usual ones: alarms read them."""
ALARMS = {
    "gold falls while the proxy rises": ("score", "gold_score"),
    "more is copied from the prompt": ("copy_rate",),
    "responses repeat themselves more": ("repetition",),
    "the length changes": ("length",),
    "an update leaps in KL": ("kl",),
    "score - c KL is below its start": ("net_score",),
}
"""Alarm of `find_alarms` -> the measurements that it reads."""
FEWEST = 3
"""Measurements from which on alarms are read: two do not show their noise."""
EARLY, LATE = range(1, 6), range(12, UPDATES + 1)
"""Updates that are told apart at one KL."""
LEVELS = ((4, 6), (9, 13))
"""Nats between which runs are read at one KL."""
TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)
"""Of the axis of the KL, nats."""


def cells() -> list[Cell]:
    """Return the cells of the page, in the order of its tables."""
    return [
        STUDY.cell(task=task, price=price, rule=rule)
        for task, price, rule in product(TASKS, PRICES, RULES)
    ]


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, seed by seed."""
    for seed in SEEDS:
        yield cells(), (seed,)


def config(run: Cell, out: Path) -> Comparison:
    """Return the comparison that a run is of."""
    del out
    return single_run(
        f"tokengym/{run.task}-v0",
        run.rule,
        updates=UPDATES,
        learning_rate=RATE,
        kl_coef=run.price,
        evaluation=GRID,
        stream="run",
    )


def measure(run: Cell, record: RunRecord) -> list[Row]:
    """Return the rows of a run, with what alarms read; None where responses are too short."""
    del run
    names = (*MEASURES, *READ_BY_ALARMS)
    return [
        {name: round(point[name], 4) if name in point else None for name in names}
        for point in record.points
    ]


# --- page -----------------------------------------------------------------------------------------


def column(points: Sequence[Row], name: str) -> NDArray[np.float64]:
    """Return a measurement of a run, (time,); "net_score" is score - c KL."""
    if name == "net_score":
        return np.array([point["score"] - point["price"] * point["kl"] for point in points])
    return np.array([point[name] for point in points], dtype=np.float64)


def end(points: Sequence[Row], name: str) -> float:
    """Return a measurement of a run at its end, the mean of the last tenth."""
    return curve_of(points).end(name)


def fall_of(points: Sequence[Row]) -> Fall | None:
    """Return where the gold score of a run was best before it fell; None if it did not."""
    return fall(column(points, "gold_score"))


def fallen(runs: Runs, cell: Cell) -> str:
    """Return in how many runs of a cell gold fell, of how many."""
    made = runs.runs[cell].values()
    return f"{sum(fall_of(points) is not None for points in made)}/{len(made)}"


def falls_table(runs: Runs) -> str:
    """Return proxy, gold and KL where gold is best in the mean of the runs, and at the end.

    Gold's change is tested from where it is best in the mean of the other runs: the best of a run's
    own noise would be above its end wherever that lies.
    """
    shown, changes = {}, {}
    for cell in cells():
        made = [*runs.runs[cell].values()]
        gold = np.array([column(points, "gold_score") for points in made])
        best = int(np.argmax(gold.mean(axis=0)))
        tops = {name: [column(points, name)[best] for points in made] for name in SHOWN}
        ends = {name: [end(points, name) for points in made] for name in SHOWN}
        shown[cell] = best, tops, ends
        if best < gold.shape[1] - 2:  # else it is part of the end
            others = [np.delete(gold, run, axis=0).mean(axis=0) for run in range(len(gold))]
            at_best = [float(run[np.argmax(of)]) for run, of in zip(gold, others, strict=True)]
            changes[cell] = paired_difference(ends["gold_score"], at_best)
    texts = after_holm(changes)
    lines = []
    for cell, (best, tops, ends) in shown.items():
        moved = [f"{number(mean(tops[name]))} to {number(mean(ends[name]))}" for name in SHOWN]
        change = texts.get(cell, "best at the end")
        about = [cell.task, f"{cell.price:g}", f"`{cell.rule}`", str(best)]
        lines.append([*about, *moved, change, fallen(runs, cell)])
    head = ["task", "price c", "reward", "gold's best at update", "proxy, then to the end", "gold"]
    return markdown_table([*head, "KL, nats", "gold's change", "runs that fell"], lines)


def count_table(runs: Runs) -> str:
    """Return in how many runs gold fell, by price and task."""
    lines = []
    for price in PRICES:
        fell = {
            task: [
                fall_of(points) is not None
                for run, points in runs.each.items()
                if (run.task, run.price) == (task, price)
            ]
            for task in TASKS
        }
        fell["both"] = [one for of_task in fell.values() for one in of_task]
        lines.append([f"{price:g}", *(f"{sum(of)} of {len(of)}" for of in fell.values())])
    return markdown_table(["price c", *TASKS, "both"], lines)


def pairs_of() -> Iterator[tuple[str, Cell, Cell]]:
    """Yield what differs, a cell, and the one that it is compared with."""
    for task, price in product(TASKS, PRICES):
        abc, sparse = (STUDY.cell(task=task, price=price, rule=rule) for rule in RULES[::-1])
        yield f"{task}, c = {price:g}: `abc` minus `sparse`", abc, sparse
    for task, rule in product(TASKS, RULES):
        free, *_, dear = (STUDY.cell(task=task, price=price, rule=rule) for price in PRICES)
        yield f"{task}, `{rule}`: c = {dear.price:g} minus {free.price:g}", dear, free


def pairs_table(runs: Runs) -> str:
    """Return differences between rewards and between prices at the end, paired by seed.

    That of KL is without its interval.
    """
    differences = {
        (what, name): paired_difference(
            *paired(
                *(
                    {seed: end(points, name) for seed, points in runs.runs[cell].items()}
                    for cell in (one, other)
                )
            )
        )
        for what, one, other in pairs_of()
        for name in SHOWN
    }
    shown = after_holm(differences, with_wins=False)
    lines = []
    for what, _, _ in pairs_of():
        *scores, kl = (shown[what, name] for name in SHOWN)
        lines.append([what, *scores, kl.partition(" ")[0]])
    return markdown_table(["at the end", *SHOWN.values()], lines)


def first_alarm(points: Sequence[Row], names: Sequence[str]) -> int | None:
    """Return at which measurement an alarm first fires on what was measured until then."""
    curves = {name: column(points, name) for name in {*names, "score"}}
    steps = column(points, "step")
    for count in range(FEWEST, len(steps) + 1):
        seen = {name: curve[:count] for name, curve in curves.items() if name in names}
        if find_alarms(seen, steps[:count]):
            return count - 1
    return None


def lines_table(rows: Sequence[Row]) -> str:
    """Return proxy and gold of the best of n untrained responses by the proxy, over the prompts."""
    groups = grouped(rows, lambda row: (row["task"], row["n"]))
    lines = []
    for n in (1, 4, 16, 64):
        figures = [
            student_mean([row[name] for row in groups[task, float(n)]])
            for task in TASKS
            for name in ("score", "gold_score")
        ]
        lines.append([str(n), number(bound(n)), *figures])
    heads = [f"{task}: {name}" for task in TASKS for name in ("proxy", "gold")]
    return markdown_table(["n", "KL at most, nats", *heads], lines)


def bound(n: int) -> float:
    """Return the KL of the best of n responses at most, nats."""
    return float(np.log(n)) - (n - 1) / n


def best_of(published: Published) -> list[Row]:
    """Return a row for each task, n and prompt: scores of the best of n untrained responses."""
    return [*read_rows(published.folder / "best_of_n.csv", text=("task",))]


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables by name."""
    runs = published.runs
    return {
        "falls": falls_table(runs),
        "counts": count_table(runs),
        "pairs": pairs_table(runs),
        "best of n": lines_table(best_of(published)),
    }


def draw(published: Published) -> None:
    """Draw proxy and gold over the KL, means of the seeds, a color for each price."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    grid = figure.subplots(len(TASKS), 2)
    drawn = grouped(best_of(published), lambda row: (row["task"], row["n"]))
    for (row, task), (place, name) in product(enumerate(TASKS), enumerate([*SHOWN][:2])):
        axes = grid[row, place]
        for cell in (cell for cell in cells() if cell.task == task):
            made = published.runs.runs[cell].values()
            kl, values = (
                np.mean([column(points, at) for points in made], axis=0) for at in ("kl", name)
            )
            color, line = COLORS[PRICES.index(cell.price)], LINES[RULES.index(cell.rule)]
            label = f"{cell.rule}, c = {cell.price:g}"
            axes.plot(kl, values, line, color=color, label=label)
            axes.plot(kl[-1], values[-1], "o", color=color, markersize=4)
        levels = [mean([at[name] for at in drawn[task, float(n)]]) for n in BEST_OF_SIZES]
        label = "best of n untrained (KL at most)"
        axes.plot([*map(bound, BEST_OF_SIZES)], levels, ":.", color="#56616f", label=label)
        axes.set(title=f"{task}: {SHOWN[name]}", xlabel="KL to the reference, nats")
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xlim(0, None)
        ticks = [tick for tick in TICKS if tick <= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=4, fontsize=9)
    file = published.folder / "curves.png"
    figure.savefig(file, dpi=110, metadata={"Software": None})


STUDY = Study(
    document="overoptimisation.md",
    folder="overoptimisation",
    axes={"task": str, "price": float, "rule": str},
    rounds=rounds,
    config=config,
    measure=measure,
    tables=tables,
    pictures=draw,
    first_rate=None,
    holm="table",
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
