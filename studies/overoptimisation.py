"""When does training lose what it is for? Fills docs/results/overoptimisation.md.

    python -m studies.overoptimisation

The runs were made at commit 0138b9c6.
"""

from collections.abc import Sequence

import numpy as np

from tokengym.evaluation.report import number
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.protocol import NS
from tokengym.lab.study import DOCS, Docs, Row, command_line, read_rows
from tokengym.lab.tables import after_holm, fill, grouped, markdown_table, mean, student_mean

TASKS = ("Summarize", "Dialogue")
PRICES, RULES = (0.0, 0.01, 0.05), ("sparse", "abc")
MEASURES = ("score", "gold_score", "kl")


def falls_table(rows: Sequence[Row]) -> str:
    """Return proxy, gold and KL where gold is best in the mean of the runs, and at the end."""
    made, changes = {}, {}
    groups = grouped(rows, lambda row: (row["task"], row["price"], row["credit"]))
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
            " to ".join(number(mean([row[name] for row in at])) for at in points)
            for name in MEASURES
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
            for name in MEASURES[:2]
        ]
        lines.append([str(n), bound, *figures])
    heads = [f"{task}: {name}" for task in TASKS for name in ("proxy", "gold")]
    return markdown_table(["n", "KL at most, nats", *heads], lines)


def page(docs: Docs = DOCS) -> None:
    """Fill the page from the published files.

    Args:
        docs: Folder of the page.
    """
    folder = docs / "overoptimisation"
    runs = read_rows(folder / "runs.csv", text=("task", "credit"))
    drawn = read_rows(folder / "best_of_n.csv", text=("task",))
    fill(
        docs / "overoptimisation.md",
        {"falls": falls_table(runs), "best of n": lines_table(drawn)},
    )


if __name__ == "__main__":
    command_line(__doc__, page)
