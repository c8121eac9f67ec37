"""When does training lose what it is for? Fills docs/results/overoptimisation.md.

    python -m studies.overoptimisation run --out runs/overoptimisation [--until 22:00]
    python -m studies.overoptimisation publish --out runs/overoptimisation    # writes curves.csv
    python -m studies.overoptimisation page

The page's tables are of runs.csv, made at commit 0138b9c6, until curves.csv is whole.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from tokengym import Comparison
from tokengym.evaluation.report import number
from tokengym.evaluation.runs import EvaluationSettings, RunRecord
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.protocol import MEASURES, NS
from tokengym.lab.study import Cell, Published, Round, Row, Study, read_rows, single_run
from tokengym.lab.tables import after_holm, grouped, markdown_table, mean, student_mean

TASKS = ("Summarize", "Dialogue")
PRICES, RULES = (0.0, 0.01, 0.05), ("sparse", "abc")
SHOWN = ("score", "gold_score", "kl")
UPDATES, RATE, SEEDS = 16, 1e-3, range(70, 80)
"""Of the runs: the rate is three times the tasks' own."""
GRID = EvaluationSettings(every=1, episodes=128, samples=0)
READ_BY_ALARMS = ("length", "copy_rate", "repetition")
"""Measurements that are kept beside the usual ones: alarms read them."""


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them: five of each, then the other five."""
    cells = [
        STUDY.cell(task=task, price=price, rule=rule)
        for task, price, rule in product(TASKS, PRICES, RULES)
    ]
    for seeds in (SEEDS[:5], SEEDS[5:]):
        for seed in seeds:
            yield cells, (seed,)


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
    """Return the rows of a run, with what alarms read."""
    del run
    names = (*MEASURES, *READ_BY_ALARMS)
    return [{name: round(point[name], 4) for name in names} for point in record.points]


def falls_table(rows: Sequence[Row]) -> str:
    """Return proxy, gold and KL where gold is best in the mean of the runs, and at the end."""
    made, changes = {}, {}
    groups = grouped(rows, lambda row: (row["task"], row["price"], row["rule"]))
    for key in ((task, price, rule) for task in TASKS for price in PRICES for rule in RULES):
        by_step = grouped(groups[key], lambda row: row["step"])
        gold = {step: mean([row["gold_score"] for row in at]) for step, at in by_step.items()}
        best, last = max(gold, key=lambda step: gold[step]), max(gold)
        made[key] = best, [by_step[best], by_step[last]]
        end, top = ([row["gold_score"] for row in by_step[step]] for step in (last, best))
        if best != last:
            changes[key] = paired_difference(end, top)
    shown = after_holm(changes)
    lines = []
    for key, (best, points) in made.items():
        task, price, rule = key
        moved = [
            " to ".join(number(mean([row[name] for row in at])) for at in points) for name in SHOWN
        ]
        lines.append([task, f"{price:g}", f"`{rule}`", f"{best:g}", *moved, shown.get(key, "best")])
    head = ["task", "price c", "reward", "gold's best at update", "proxy, then to the end", "gold"]
    return markdown_table([*head, "KL, nats", "gold's change"], lines)


def lines_table(rows: Sequence[Row]) -> str:
    """Return proxy and gold of the best of n untrained responses by the proxy, over the prompts."""
    groups = grouped(rows, lambda row: (row["task"], row["n"]))
    lines = []
    for n in NS:
        bound = number(float(np.log(n)) - (n - 1) / n)
        figures = [
            student_mean([row[name] for row in groups[task, float(n)]])
            for task in TASKS
            for name in SHOWN[:2]
        ]
        lines.append([str(n), bound, *figures])
    heads = [f"{task}: {name}" for task in TASKS for name in ("proxy", "gold")]
    return markdown_table(["n", "KL at most, nats", *heads], lines)


def rows_of(published: Published) -> list[Row]:
    """Return the measurements of the study's own runs once all are made, else of the older ones."""
    wanted = [cell.but(seed=seed) for cells, seeds in rounds() for seed in seeds for cell in cells]
    made = published.runs.each
    if all(run in made for run in wanted):
        return [row for run in wanted for row in made[run]]
    older = read_rows(published.folder / "runs.csv", text=("task", "credit"))
    return [{**row, "rule": row["credit"]} for row in older]


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables by name."""
    drawn = read_rows(published.folder / "best_of_n.csv", text=("task",))
    return {"falls": falls_table(rows_of(published)), "best of n": lines_table(drawn)}


STUDY = Study(
    document="overoptimisation.md",
    folder="overoptimisation",
    runs="curves.csv",
    axes={"task": str, "price": float, "rule": str},
    rounds=rounds,
    config=config,
    measure=measure,
    tables=tables,
    first_rate=None,
    holm="table",
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
