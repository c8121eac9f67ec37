"""Result files of curves, wherever they were made: table, summary, picture and report."""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokengym.base.files import json_hash, read_json, write_json, write_text
from tokengym.evaluation.measure.measures import Axis
from tokengym.evaluation.report.curves import columns_of, counts_tokens, write_curves
from tokengym.evaluation.report.facts import Summary
from tokengym.evaluation.report.figures import Paper, save_figure
from tokengym.evaluation.report.learning import Log, final_figures
from tokengym.evaluation.report.report import render_report
from tokengym.evaluation.report.summary import SummarySettings, summarize
from tokengym.evaluation.statistics.curve import Curve

CURVES = "curves.csv"
"""Name of the table of a comparison's curves."""
PICTURE = "curves.png"
"""Name of the picture of a comparison's curves."""
COUNTS = ("step", "tokens", "episodes")
"""Columns of curves.csv that hold whole numbers."""


def write_results(
    out: Path | None,
    curves: Sequence[Curve],
    settings: SummarySettings,
    *,
    about: Mapping[str, Any],
    episodes: Sequence[Mapping[str, Any]] = (),
    logs: Sequence[Log] = (),
    paper: Paper | None = None,
    picture: str = PICTURE,
    rows: Iterable[Mapping[str, Any]] | None = None,
) -> Summary:
    """Write the result files of curves, and return their summary.

    An ``out`` of None writes none. The summary repeats what is ``about`` the runs: their settings,
    versions and origin. ``episodes`` are responses with the credit of their tokens, ``logs`` those
    of the runs that learned from given data; ``paper`` is a figure and a table to write beside.
    ``rows`` are those of curves.csv; None leaves the file there as it is.
    """
    told = {**about, **({"learning": final_figures(logs)} if logs else {})}
    summary = replace(summarize(curves, settings), about=told)
    if paper is not None:
        paper.write(summary, curves)
    if out is not None:
        if rows is not None:
            write_curves(out / CURVES, rows)
        if (out / CURVES).exists():
            told["curves_hash"] = curves_hash(out / CURVES)
            summary = replace(summary, about=told)
        write_json(out / "summary.json", summary.to_json())
        save_figure(out / picture, summary, curves)
        write_text(out / "report.html", render_report(summary, curves, episodes, logs))
    return summary


def rows_of(curves: Iterable[Curve]) -> Iterator[dict[str, Any]]:
    """Yield the rows of curves.csv, by steps; what was not measured is left empty."""
    for curve in curves:
        named = {"credit": curve.credit, "seed": curve.seed, **columns_of(curve.group)}
        columns = {**curve.values, "step": curve.steps}
        for index in range(len(curve.steps)):
            values = {name: float(column[index]) for name, column in columns.items()}
            known = {name: value for name, value in values.items() if math.isfinite(value)}
            # Of a number of nine digits a cell would show eight.
            counts = {n: int(v) for n, v in known.items() if n in COUNTS and v.is_integer()}
            yield {**known, **counts, **named}


def axis_of(curves: Iterable[Curve], *, of_learners: bool, given: Axis | None = None) -> Axis:
    """Return what runs are compared at equal amounts of: learners tokens, rewards updates.

    Runs that count nothing but tokens, as those of Stable-Baselines3, are compared at these.
    """
    return given or ("tokens" if of_learners or any(map(counts_tokens, curves)) else "step")


def curves_hash(file: Path) -> str:
    """Return a digest of a table of curves, by which its summary knows it; the clock is left out.

    Raises:
        ValueError: if it is no table.
    """
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except csv.Error as error:
        raise ValueError(f"{file} cannot be read ({error})") from None
    return json_hash([{k: v for k, v in row.items() if k != "wall_s"} for row in rows])


def summary_beside(path: Path) -> dict[str, Any]:
    """Return the summary beside a file of curves, {} if there is none."""
    try:
        summary = read_json(path.with_name("summary.json"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}
