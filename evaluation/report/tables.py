"""The report's table of figures and its charts of differences, from a summary."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tokengym.evaluation.measure.measures import measure_of, measures_of
from tokengym.evaluation.report.charts import interval_chart
from tokengym.evaluation.report.verdict import clear, difference_of, number, signed

NOTHING = "\u2013"


def columns(group: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the table's columns as (title, measurement, kind)."""
    found: list[tuple[str, str, str]] = []
    for name, measure in measures_of(group["by_gold"]).items():
        shown = all(name in entry["figures"] for entry in group["rewards"].values())
        found += [(measure.heading(kind), name, kind) for kind in measure.columns if shown]
        if name == "score":
            found.append((f"Updates to {group['baseline']}'s final level", "", "steps"))
    return [*found, (f"Chance to beat {group['baseline']}", "score", "chance")]


def cells(group: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    """Return one reward's row: value, interval, and the mark of a clear difference."""
    return [_cell(group, name, measure, kind) for _, measure, kind in columns(group)]


def _cell(group: Mapping[str, Any], name: str, measure: str, kind: str) -> dict[str, str]:
    entry = group["rewards"][name]
    value, below, mark, tone = NOTHING, "", "", ""
    if kind == "steps" and not group["baseline_rises"]:
        below = f"{group['baseline']} does not rise"
    elif kind == "steps":
        steps = entry["steps_to_threshold"]
        value = "not reached" if np.isinf(steps["iqm_curve"]) else f"{steps['iqm_curve']:.0f}"
        below = f"{steps['reached']:.0%} of seeds arrive"
    elif kind == "chance" and entry.get("versus_baseline"):
        chance = entry["versus_baseline"]["probability_of_improvement"][measure]["auc"]
        value = f"{chance['probability']:.0%}"
        below = f"{chance['low']:.0%} to {chance['high']:.0%}"
    elif kind != "chance":
        figure = entry["figures"][measure][kind]
        value, below = number(figure["iqm"]), f"{number(figure['low'])} to {number(figure['high'])}"
        mark, tone = _mark(measure, clear(difference_of(group, name, measure, kind)))
    return {"value": value, "below": below, "mark": mark, "tone": tone}


def _mark(measure: str, sign: int) -> tuple[str, str]:
    """Return the arrow of a clear difference and whether it is good."""
    if sign == 0:
        return "", ""
    better = measure_of(measure).better
    good = (better == "higher") == (sign > 0)
    return ("▲" if sign > 0 else "▼"), ("good" if good else "bad") if better else "other"


def forests(group: Mapping[str, Any], colours: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return a chart of paired differences per measurement."""
    table = measures_of(group["by_gold"])
    wanted = [(measure, kind) for measure in table.values() for kind in measure.differences]
    charts = []
    for measure, kind in wanted:
        rows = []
        for name in group["rewards"]:
            if d := difference_of(group, name, measure.name, kind):
                label = f"{name}  {signed(d['difference'])}  ({d['wins']} of {d['pairs']} higher)"
                ends = (d["low"], d["difference"], d["high"])
                rows.append((label, colours[name], *ends, clear(d) != 0))
        if rows:
            chart, whiskers, zero = interval_chart(rows, width=400.0)
            note = {"higher": "Right of 0 is better.", "lower": "Left of 0 is better."}
            charts.append(
                {
                    "title": measure.heading(kind),
                    "note": note.get(measure.better, ""),
                    "chart": chart,
                    "rows": whiskers,
                    "zero": zero,
                }
            )
    return charts
