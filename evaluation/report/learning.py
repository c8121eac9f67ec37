"""What learners from given data log: loss and figures, in training and on held-out data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokengym.evaluation.measure.measures import measure_of
from tokengym.evaluation.report.charts import Series, line_chart, thinned
from tokengym.evaluation.statistics import Array
from tokengym.evaluation.statistics.curve import GroupKey

SHOWN = ("loss", "rewards/accuracies", "rewards/margins", "mean_token_accuracy")
"""Columns of train.csv that are shown; those of held-out data begin with `HELD_OUT`."""
HELD_OUT = "eval_"
LogRow = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Log:
    """Log of one run, which is named as its `Curve` is."""

    credit: str
    seed: int
    group: GroupKey = ()
    rows: Sequence[LogRow]
    """A row per optimiser step, as train.csv has them."""

    def line(self, column: str) -> tuple[Array, Array]:
        """Return the epochs at which a column was logged, and its values, (points,) each."""
        known = [row for row in self.rows if row.get(column) is not None]
        return np.array([row["epoch"] for row in known]), np.array([row[column] for row in known])


def by_epoch(rows: Sequence[LogRow]) -> dict[int, dict[str, float]]:
    """Return the shown columns of every epoch: means of its steps, held-out values at its end."""
    epochs: dict[int, dict[str, list[float]]] = {}
    for row in rows:
        if row.get("epoch") is None:
            continue
        columns = epochs.setdefault(math.ceil(row["epoch"] - 1e-6), {})
        for name in (*SHOWN, *(HELD_OUT + name for name in SHOWN)):
            if row.get(name) is not None:
                columns.setdefault(name, []).append(row[name])
    return {
        epoch: {name: float(np.mean(values)) for name, values in columns.items()}
        for epoch, columns in sorted(epochs.items())
    }


def final_figures(logs: Iterable[Log]) -> list[dict[str, Any]]:
    """Return the figures of the last epoch by name and group, means over seeds."""
    ends: dict[tuple[GroupKey, str], dict[str, list[float]]] = {}
    for log in logs:
        epochs = by_epoch(log.rows)
        for name, value in epochs[max(epochs)].items() if epochs else ():
            ends.setdefault((log.group, log.credit), {}).setdefault(name, []).append(value)
    return [
        {
            "credit": credit,
            "group": dict(group),
            "figures": {name: float(np.mean(values)) for name, values in columns.items()},
        }
        for (group, credit), columns in ends.items()
    ]


def learning_charts(
    logs: Sequence[Log], group: GroupKey, colours: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return a chart per figure against epochs: a line per learner, and one for held-out data."""
    # The runs of a learner without a colour are all invalid: no other chart shows it.
    members = [log for log in logs if log.group == group and log.credit in colours]
    charts = []
    for name in SHOWN:
        series = [
            one
            for credit in dict.fromkeys(log.credit for log in members)
            for column, title in ((name, credit), (HELD_OUT + name, f"{credit}, held out"))
            for one in _series([m for m in members if m.credit == credit], column, title, colours)
        ]
        if series:
            chart = line_chart(series, width=400.0, height=250.0, hovers=True)
            charts.append({"label": measure_of(name), "chart": chart})
    return charts


def _series(
    logs: Sequence[Log], column: str, title: str, colours: Mapping[str, int]
) -> list[Series]:
    """Return the mean line of a learner's runs, over the epochs that all reached; maybe none."""
    lines = [line for line in (log.line(column) for log in logs) if len(line[0]) > 1]
    if not lines:
        return []
    first, last = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    grid = np.unique(np.concatenate([x for x, _ in lines]))
    grid = grid[(grid >= first) & (grid <= last)]
    grid = grid[thinned(len(grid))]
    rows = np.stack([np.interp(grid, x, y) for x, y in lines])
    return [
        Series(
            name=title,
            colour=colours[logs[0].credit],
            x=grid,
            y=rows.mean(axis=0),
            runs=rows,
            dashed=column.startswith(HELD_OUT),
        )
    ]
