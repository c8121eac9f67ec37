"""The report: one HTML file that needs no network and runs no script but its own.

Every text is escaped by the template, and the page's content policy names the hash of the one
script it may run, so that nothing a model writes can become markup or code.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tokengym.evaluation.charts import (
    Chart,
    Series,
    hover_data,
    interval_chart,
    line_chart,
)
from tokengym.evaluation.curves import AXES, Curve, group_label
from tokengym.evaluation.labels import AXIS_LABELS, LABELS, label_of
from tokengym.evaluation.panels import Panel, Runs, make_panels
from tokengym.evaluation.samples import side_by_side
from tokengym.evaluation.statistics import curve_interval, iqm
from tokengym.evaluation.summary import RANKED
from tokengym.evaluation.verdict import clear, number, signed

TEMPLATES = Path(__file__).parent / "templates"
COLOURS = 8
"""Colours of the palette; further rewards take them again."""
FIRST_MEASURES = ("gold_score", "net_score", "kl")
"""Shown beside the score; other measurements fold away."""
NOTHING = "\u2013"
MOST_POINTS = 240
"""Points a drawn line keeps; statistics use all."""


def render_report(
    summary: Mapping[str, Any], curves: Sequence[Curve], episodes: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Return the report of a comparison as one HTML page.

    Args:
        summary: What `tokengym.evaluation.summary.summarize` returned for the curves, with
            ``settings``, ``versions`` and ``command`` if they are known.
        curves: The runs.
        episodes: Samples, as in episodes.jsonl.

    Returns:
        The same text for the same input.
    """
    script = _source("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    panels = {
        tuple(panel.group): panel
        for panel in make_panels(
            [curve for curve in curves if not curve.fault()], kl_coef=summary["kl_coef"]
        )
    }
    names = list(dict.fromkeys(name for g in summary["groups"] for name in g["rewards"]))
    colours = {name: index % COLOURS for index, name in enumerate(names)}
    level = float(summary["level"])
    page = {
        "title": summary.get("title") or "tokengym: which reward learns faster",
        "subtitle": _subtitle(summary),
        "script_hash": f"sha256-{digest}",
        "level": f"{level:.0%}",
        "curves_note": _curves_note(level),
        "groups": [
            _group(group, panels[tuple(group["group"].items())], colours, level)
            for group in summary["groups"]
        ],
        "samples": side_by_side(episodes, colours),
        "command": summary.get("command"),
        "failed": summary["failed"],
        "facts": _facts(summary),
    }
    return _environment().get_template("report.html.jinja").render(page=page)


@cache
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _source(name: str) -> str:
    """Return what the template engine includes for a file, to the byte."""
    return str(_environment().get_template(name).render())


def _subtitle(summary: Mapping[str, Any]) -> str:
    settings = summary.get("settings") or {}
    runs = sum(entry["runs"] for g in summary["groups"] for entry in g["rewards"].values())
    first = summary["groups"][0]
    parts = [str(settings.get("env") or summary.get("source") or "learning curves")]
    parts.append(f"{len(first['rewards'])} rewards")
    parts.append(f"{runs} runs")
    parts.append(f"{first['steps'][1]:g} updates each")
    return " · ".join(parts)


def _curves_note(level: float) -> str:
    return (
        f"Interquartile mean over seeds; the band is its {level:.0%} bootstrap interval. "
        "Point at a chart to read it; press a reward's name to hide it."
    )


def _group(
    group: Mapping[str, Any], panel: Panel, colours: Mapping[str, int], level: float
) -> dict[str, Any]:
    runs = [entry["runs"] for entry in group["rewards"].values()]
    fewest, most = min(runs), max(runs)
    count = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return {
        "label": group_label(panel.group),
        "verdict": group["verdict"],
        "baseline": group["baseline"],
        "runs_note": f"Seeds per reward: {count}.",
        "legend": [{"name": name, "colour": colours[name]} for name in group["rewards"]],
        "axes": [_axis_view(panel, key, colours, level) for key in _axes(panel)],
        "columns": [title for title, _, _ in _columns(group)],
        "rows": [
            {"name": name, "colour": colours[name], "cells": _cells(group, name)}
            for name in group["rewards"]
        ],
        "forests": _forests(group, colours),
        "frontiers": _frontiers(panel, colours),
    }


def _axes(panel: Panel) -> list[str]:
    known = [name for name in AXES if all(name in runs.values for runs in panel.rewards.values())]
    return ["step", *known]


def _axis_view(panel: Panel, axis: str, colours: Mapping[str, int], level: float) -> dict[str, Any]:
    first = [name for name in FIRST_MEASURES if name in panel.measures]
    more = [name for name in LABELS if name in panel.measures and name not in (*first, "score")]
    score = _series(panel, "score", axis, colours, level)
    return {
        "key": axis,
        "label": AXIS_LABELS[axis],
        "main": {
            "label": label_of("score"),
            "wide": _drawn(score, 1000.0, 400.0),
            "narrow": _drawn(score, 400.0, 340.0),
        },
        "first": [_small(panel, name, axis, colours, level) for name in first],
        "more": [_small(panel, name, axis, colours, level) for name in more],
    }


def _small(
    panel: Panel, measure: str, axis: str, colours: Mapping[str, int], level: float
) -> dict[str, Any]:
    series = _series(panel, measure, axis, colours, level)
    return {"label": label_of(measure), "chart": _drawn(series, 400.0, 250.0)}


def _drawn(series: Sequence[Series], width: float, height: float) -> Chart:
    chart = line_chart(series, width=width, height=height, whole_x=True)
    return replace(chart, hover=hover_data(series, chart))


def _series(
    panel: Panel, measure: str, axis: str, colours: Mapping[str, int], level: float
) -> list[Series]:
    keep = np.unique(np.linspace(0, len(panel.steps) - 1, MOST_POINTS).round().astype(int))
    series = []
    for name, runs in panel.rewards.items():
        values = runs.values[measure][:, keep]
        low, high = curve_interval(values, level, resamples=1_000)
        x = panel.steps if axis == "step" else runs.values[axis].mean(axis=0)
        series.append(
            Series(
                name=name,
                colour=colours[name],
                x=x[keep],
                y=iqm(values, 0),
                low=low,
                high=high,
                runs=values,
            )
        )
    return series


def _columns(group: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the table's columns as (title, measurement, kind)."""
    columns = [("Score over the run", "score", "auc"), ("Score at the end", "score", "final")]
    columns.append((f"Updates to {group['baseline']}'s final level", "", "steps"))
    for title, measure in (
        ("Gold score at the end", "gold_score"),
        ("KL at the end", "kl"),
        ("Score less KL penalty, end", "net_score"),
    ):
        if measure in group["measures"]:
            columns.append((title, measure, "final"))
    columns.append((f"Chance to beat {group['baseline']}", "score", "chance"))
    return columns


def _cells(group: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    return [_cell(group, name, measure, kind) for _, measure, kind in _columns(group)]


def _cell(group: Mapping[str, Any], name: str, measure: str, kind: str) -> dict[str, str]:
    entry = group["rewards"][name]
    versus = entry.get("versus_baseline")
    if kind == "steps":
        steps = entry["steps_to_threshold"]
        if not group["baseline_rises"]:
            below = f"{group['baseline']} does not rise"
            return {"value": NOTHING, "below": below, "mark": "", "tone": ""}
        below = f"{steps['reached']:.0%} of seeds arrive"
        value = "not reached" if np.isinf(steps["iqm_curve"]) else f"{steps['iqm_curve']:.0f}"
        return {"value": value, "below": below, "mark": "", "tone": ""}
    if kind == "chance":
        if not versus:
            return {"value": NOTHING, "below": "", "mark": "", "tone": ""}
        chance = versus["probability_of_improvement"][measure]["auc"]
        below = f"{chance['low']:.0%} to {chance['high']:.0%}"
        return {"value": f"{chance['probability']:.0%}", "below": below, "mark": "", "tone": ""}
    figure = entry["figures"][measure][kind]
    difference = versus["differences"].get(measure, {}).get(kind) if versus else None
    mark, tone = _mark(measure, clear(difference))
    below = f"{number(figure['low'])} to {number(figure['high'])}"
    return {"value": number(figure["iqm"]), "below": below, "mark": mark, "tone": tone}


def _mark(measure: str, sign: int) -> tuple[str, str]:
    """Return the arrow of a clear difference and whether it is good."""
    if sign == 0:
        return "", ""
    better = label_of(measure).better
    good = (better == "higher") == (sign > 0)
    return ("▲" if sign > 0 else "▼"), ("good" if good else "bad") if better else "other"


def _forests(group: Mapping[str, Any], colours: Mapping[str, int]) -> list[dict[str, Any]]:
    wanted = [
        ("Score over the run", "score", "auc"),
        ("Score at the end", "score", "final"),
        ("Gold score at the end", "gold_score", "final"),
        ("KL at the end", "kl", "final"),
        ("Score less KL penalty, over the run", "net_score", "auc"),
    ]
    forests = []
    for title, measure, kind in wanted:
        rows = []
        for name, entry in group["rewards"].items():
            differences = (entry.get("versus_baseline") or {}).get("differences", {})
            d = differences.get(measure, {}).get(kind)
            if d:
                label = f"{name}  {signed(d['difference'])}  ({d['wins']} of {d['pairs']} higher)"
                rows.append((label, colours[name], d["low"], d["difference"], d["high"]))
        if rows:
            chart, whiskers, zero = interval_chart(rows, width=400.0)
            note = {"higher": "Right of 0 is better.", "lower": "Left of 0 is better."}
            forests.append(
                {
                    "title": title,
                    "note": note.get(label_of(measure).better, ""),
                    "chart": chart,
                    "rows": whiskers,
                    "zero": zero,
                }
            )
    return forests


def _frontiers(panel: Panel, colours: Mapping[str, int]) -> list[dict[str, Any]]:
    frontiers = []
    for x, y, title, note in (
        ("kl", "score", "Score against KL", "Higher at the same KL is a better bargain."),
        ("kl", "gold_score", "Gold score against KL", "Where it bends down, the score is gamed."),
        ("score", "gold_score", "Gold score against score", "The two should rise together."),
    ):
        if x in panel.measures and y in panel.measures:
            series = [_way(name, runs, x, y, colours) for name, runs in panel.rewards.items()]
            chart = line_chart(series, width=400.0, height=270.0)
            frontiers.append(
                {"title": title, "note": note, "chart": chart, "x_label": label_of(x).title}
            )
    return frontiers


def _way(name: str, runs: Runs, x: str, y: str, colours: Mapping[str, int]) -> Series:
    return Series(
        name=name, colour=colours[name], x=iqm(runs.values[x], 0), y=iqm(runs.values[y], 0)
    )


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    facts = [
        (title, [(str(key).replace("_", " "), _plain(value)) for key, value in table.items()])
        for title, table in (
            ("Settings", summary.get("settings")),
            ("Versions", summary.get("versions")),
        )
        if table
    ]
    meanings = [
        (label_of(name).title, label_of(name).meaning) for name in summary["groups"][0]["measures"]
    ]
    anchor = summary["anchors"]["reference"]
    if anchor:
        values = ", ".join(f"{label_of(k).title} {number(v)}" for k, v in anchor.items())
        meanings.append(("Fixed anchor", f"The reference policy, before training: {values}."))
    facts.append(("What was measured", [row for row in meanings if row[1]] + _definitions()))
    return facts


def _definitions() -> list[tuple[str, str]]:
    ranked = ", ".join(label_of(name).title.lower() for name in RANKED)
    return [
        ("Over the run", "Area under the curve by updates, divided by their number: mean height."),
        ("At the end", "Mean of the last tenth of a run's evaluations."),
        ("Interquartile mean", "Mean over seeds without the lowest and the highest quarter."),
        ("Interval", "Percentile bootstrap over seeds; differences draw both runs of a seed."),
        (
            "Updates to a level",
            "Where the interquartile mean curve first crosses the level; seeds that never do count "
            "as not arrived, they are not left out.",
        ),
        ("Chance to beat", "That a run drawn from one reward has more area than one of the other."),
        ("Ranked", f"Only these have a better end: {ranked}."),
    ]


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return NOTHING if value is None else f"{value:g}" if isinstance(value, float) else str(value)
