"""The board of tokengym-credit v2 lite, from the rows that `tokengym bench` wrote.

tokengym bench --v2 --lite RULE --published docs/results/v2-lite   # a row, and its runs
python -m studies.credit_v2              # fills docs/results/tasks.md
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokengym.evaluation.report import number, signed
from tokengym.evaluation.statistics import student_interval
from tokengym.lab.benchmark.board import draw_tasks, read_rows_of, tasks_of
from tokengym.lab.benchmark.definition import CONTROLS, V2_LITE
from tokengym.lab.study import DOCS, NET, Docs, command_line
from tokengym.lab.tables import NONE, fill, markdown_table, mean

FOLDER, PICTURE = "v2-lite", "tasks.png"
STRONGEST = "recency"
"""Control with the largest mean lead, which pays late tokens most."""
DOCUMENT = "tasks.md"
"""The page, and where its rows are beside it."""


def page(docs: Docs = DOCS) -> None:
    """Fill the page's tables from the published rows, and draw one dot a task.

    Args:
        docs: Folder of the page.
    """
    rows = published(docs)
    fill(docs / DOCUMENT, tables(rows))
    draw_tasks(docs / FOLDER / PICTURE, once(rows))


def published(docs: Path) -> list[dict[str, Any]]:
    """Return the published rows that have a setting, best mean lead first.

    Args:
        docs: Folder of the page.

    Raises:
        ValueError: if a file is no row of this version, or was changed.
    """
    rows = [row for row in read_rows_of(docs / FOLDER, V2_LITE) if row["settings"]]
    return sorted(rows, key=lambda row: -mean(_by_task(row, "net")))


def tables(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the page's tables by name."""
    return {"board": board_table(once(rows))}


def once(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows without those that repeat another: a control is on both tracks."""
    return [
        row
        for at, row in enumerate(rows)
        if (row["subject"], row["settings"])
        not in [(before["subject"], before["settings"]) for before in rows[:at]]
    ]


def _by_task(row: Mapping[str, Any], figure: str) -> list[float]:
    """Return a figure's mean in each task of a row, % of the way."""
    return [100 * mean(each[figure]) for each in tasks_of(row).values()]


def board_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return each row's mean lead over its tasks, and what it has more than a control.

    The control is `STRONGEST`, over the tasks of both.
    """
    (control,) = (tasks_of(row) for row in rows if row["subject"] == STRONGEST)
    lines = []
    for row in rows:
        net = _by_task(row, "net")
        own = tasks_of(row)
        more = [100 * (mean(own[t]["net"]) - mean(control[t]["net"])) for t in own if t in control]
        beside = NONE if row["subject"] in CONTROLS else _with_interval(more)
        lines.append([_title(row), _with_interval(net), beside])
    return markdown_table(["rule or arm", f"{NET} over the run", f"minus `{STRONGEST}`"], lines)


def _with_interval(values: Sequence[float]) -> str:
    """Return a mean over tasks with Student's 95 % interval over them, of two tasks or more."""
    if len(values) < 2:
        return signed(mean(values))
    middle, low, high, _ = (float(value) for value in student_interval(values))
    return f"{signed(middle)} ({number(low)} to {number(high)})"


def _title(row: Mapping[str, Any]) -> str:
    name = f"`{row['subject']}`" if row["is_rule"] else row["subject"]
    return f"{name}{', a control' * (row['subject'] in CONTROLS)}"


if __name__ == "__main__":
    command_line(__doc__, page)
