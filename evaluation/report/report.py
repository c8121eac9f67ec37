"""The report of a comparison: one HTML file that needs no network.

The template escapes every text, and the page's content policy allows only the one script whose hash
it names, so that nothing a model writes can become markup or code.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokengym.base.bundle import bundle_names, bundled
from tokengym.base.models import title_of
from tokengym.base.text import level_percent, number, printable_value
from tokengym.evaluation.measure.measures import AXES, MEASURES, NUMBERS, OF_MEASURING, measure_of
from tokengym.evaluation.report.charts import REFERENCE, Chart, Series, line_chart, thinned
from tokengym.evaluation.report.curves import SPENT, Panel, make_panels
from tokengym.evaluation.report.facts import Group, Summary
from tokengym.evaluation.report.intro import address, introduction
from tokengym.evaluation.report.learning import Log, learning_charts
from tokengym.evaluation.report.sentences import (
    NOTHING,
    against,
    best_of_n,
    plural,
    seed_counts,
    steps,
)
from tokengym.evaluation.report.tables import (
    Sample,
    cells,
    columns,
    first_columns,
    forests,
    group_table,
    reference_levels,
    says,
    side_by_side,
    untrained,
)
from tokengym.evaluation.statistics import student_interval
from tokengym.evaluation.statistics.curve import Curve
from tokengym.version import REPOSITORY, __version__

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parent / "templates"
"""Folder of the report's templates and styles."""
COLOURS = REFERENCE
"""Number of colours in the palette; further rewards reuse them."""
BIBTEX = f"""@software{{tokengym,
  title   = {{tokengym: {{Gymnasium}} environments for text generation with interchangeable token rewards}},
  author  = {{{{The tokengym developers}}}},
  year    = {{2026}},
{f"  url     = {{{REPOSITORY}}},{chr(10)}" if REPOSITORY else ""}  version = {{{__version__}}}
}}"""  # noqa: E501


def render_report(
    summary: Summary,
    curves: Sequence[Curve],
    episodes: Sequence[Mapping[str, Any]] = (),
    logs: Sequence[Log] = (),
) -> str:
    """Return the report of a comparison as one HTML page; ``episodes`` are rows of samples."""
    samples = Sample.of(episodes)
    # The page forbids all scripts but the one of this hash, so that no text in it can be one. It
    # is taken of the script as the page includes it, to the byte.
    script = render(TEMPLATES / "report.js", {})
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    panels = {panel.group: panel for panel in make_panels(curves, kl_coef=summary.kl_coef)}
    names = summary.arms
    # The first is the baseline's, which one reward alone is not.
    colours = {name: n % COLOURS for n, name in enumerate(names, len(names) == 1)}
    level, about = summary.level, summary.about
    score, definitions = summary.table["score"], _definitions(summary)
    page = {
        "title": about.get("title") or "tokengym: which reward learns faster",
        "subtitle": _subtitle(summary),
        "script_hash": f"sha256-{digest}",
        "level": level_percent(level),
        "curves_note": (
            f"Mean over seeds; the band is its {level_percent(level)} t interval. "
            "Point at a chart to read values; press a name to hide it."
        ),
        "figures_note": (
            f"Mean over seeds, below it its {level_percent(level)} interval; \u00b1 is "
            "the standard error of measuring, over prompts and draws: more responses lower it. "
            "Point at a number, or a heading, for what it means and how sure it is."
        ),
        "groups": [
            {
                **_group(group, panels[group.key], colours, level, logs),
                "compared": introduction(summary, group, score, samples),
            }
            for group in summary.groups
        ],
        "samples": side_by_side(samples, colours),
        "command": about.get("command"),
        "failed": summary.failed,
        "facts": _facts(about),
        "definitions": definitions,
        "terms": {row["term"]: row["id"] for row in definitions},
        "bibtex": BIBTEX,
    }
    return render(TEMPLATES / "report.html.jinja", page)


def _subtitle(summary: Summary) -> str:
    """Return what a report is of, how many runs, and how long they are, or the longest of them."""
    settings, first = summary.about.get("settings") or {}, summary.groups[0]
    source = settings.get("env") or summary.about.get("source") or "learning curves"
    runs = sum(arm.runs for group in summary.groups for arm in group.rewards.values())
    arms = len(summary.arms)
    counted = f"{arms} {plural(arms, first.kind)} · {runs} {plural(runs, 'run')}"
    ends = {end for group in summary.groups for end in (group.steps[1], group.longest)}
    length = steps(max(ends), first.unit)
    if len(ends) > 1:
        return f"{source} · {counted} · up to {length}"
    return f"{source} · {counted} · {length}{' each' * (runs > 1)}"


def render(template: Path, page: Mapping[str, Any]) -> str:
    """Return a page made from a template; every text in it is escaped.

    Args:
        template: Its file. It may extend and include those beside it and those of the report.
        page: Values that the template shows, ``title`` and ``subtitle`` among them.
    """
    values = {"script_hash": "", **page}
    return str(_templates(template.parent).get_template(template.name).render(page=values))


@cache
def _templates(folder: Path) -> "jinja2.Environment":
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        finalize=printable_value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _group(
    group: Group,
    panel: Panel,
    colours: Mapping[str, int],
    level: float,
    logs: Sequence[Log],
) -> dict[str, Any]:
    # What the curves can be drawn against: first what the panel's steps are.
    spent = [name for name in SPENT if all(name in r.values for r in panel.rewards.values())]
    axes = [group.axis, *(name for name in spent if name != group.axis)]
    series = {m: _series(panel, m, colours, level) for m in panel.measures if m in group.table}
    return {
        "label": group.label,
        "verdict": group.verdict,
        "baseline": group.baseline,
        "kind": group.kind,
        "runs_note": f"Seeds per {group.kind}: {seed_counts(group)}.",
        "legend": [{"name": name, "colour": colours[name]} for name in group.rewards],
        "axes": [_axis_view(panel, key, series, group) for key in axes],
        "untrained": untrained(group),
        "columns": [
            {"title": title, "says": says(group, measure, kind)}
            for title, measure, kind in columns(group)
        ],
        "first_columns": first_columns(group),
        "rows": [
            {"name": name, "colour": colours[name], "cells": row}
            for name, row in cells(group).items()
        ],
        "tables": {style: group_table(group, level, style) for style in ("Markdown", "LaTeX")},
        "forests": forests(group, colours),
        "learning": learning_charts(logs, panel.group, colours),
        "frontiers": _frontiers(panel, colours, group),
    }


def _axis_view(
    panel: Panel,
    axis: str,
    series: Mapping[str, Sequence[Series]],
    group: Group,
) -> dict[str, Any]:
    """Return the charts of all measurements' lines against what runs have spent."""
    spent = {
        name: (runs.values[axis].mean(axis=0) if axis in runs.values else runs.steps)[
            thinned(len(runs.steps))
        ]
        for name, runs in panel.rewards.items()
    }

    def chart(measure: str, width: float, height: float) -> Chart:
        against = [replace(one, x=spent[one.name]) for one in series[measure]]
        sizes: dict[str, Any] = {"width": width, "height": height, "whole_x": True, "hovers": True}
        return line_chart(against, levels=reference_levels(group.reference, measure), **sizes)

    small: list[dict[str, Any]] = [
        {"label": measure, "chart": chart(name, 400.0, 250.0)}
        for name, measure in group.table.items()
        if name in series and name != "score"
    ]
    return {
        "key": axis,
        "label": AXES[axis],
        "main": {"label": group.table["score"], "chart": chart("score", 640.0, 420.0)},
        "first": [chart for chart in small if chart["label"].word],
        "more": [chart for chart in small if not chart["label"].word],  # these fold away
    }


def _series(panel: Panel, measure: str, colours: Mapping[str, int], level: float) -> list[Series]:
    """Return a measurement's lines with their bands, one per reward."""
    series = []
    for name, runs in panel.rewards.items():
        if measure not in runs.values:
            continue
        keep = thinned(len(runs.steps))  # or the page would grow with long runs
        values = runs.values[measure][:, keep]
        middle, low, high, _ = student_interval(values.T, level)
        series.append(
            Series(
                name=name,
                colour=colours[name],
                x=runs.steps[keep],
                y=middle,
                low=low,
                high=high,
                runs=values,
            )
        )
    return series


def _frontiers(panel: Panel, colours: Mapping[str, int], group: Group) -> list[dict[str, Any]]:
    """Return charts of one measurement over another."""
    table, frontiers = group.table, []
    rows = [row.figures for row in group.reference.best_of_n] if group.reference else []
    for x, y, note in (
        ("kl", "score", "Higher at the same KL is better."),
        ("kl", "gold_score", "A fall means that the score is gamed."),
        ("score", "gold_score", "The two should rise together."),
    ):
        if {x, y} <= {*table} & {*panel.measures} and (x != "kl" or group.compares_kl):
            series = [
                Series(
                    name=name,
                    colour=colours[name],
                    x=runs.values[x].mean(axis=0),
                    y=runs.values[y].mean(axis=0),
                    gaps=runs.gaps if x == "kl" else None,
                )
                for name, runs in panel.rewards.items()
                if {x, y} <= runs.values.keys()
            ]
            if not series:  # each arm has but one of the two
                continue
            if rows and {x, y} <= {*rows[0]}:
                at, height = (np.array([row[name] for row in rows]) for name in (x, y))
                series.append(Series(name="best of n", colour=REFERENCE, x=at, y=height))
            chart = line_chart(series, width=400.0, height=270.0)
            title = against(table[y].title, measure_of(x).word)
            frontiers.append(
                {"title": title, "note": note, "chart": chart, "x_label": measure_of(x).title}
            )
    return frontiers


def _facts(about: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the tables of what is told of the runs."""
    settings = about.get("settings")
    if settings and not settings.get("model") and settings.get("bundle") in bundle_names():
        settings = {**settings, "model": bundled(settings["bundle"]).model_name("policy")}

    def shown(key: str, value: object) -> str:
        if key in ("model", "encoder", "reward_model") and isinstance(value, str):
            return title_of(value)
        if isinstance(value, (list, tuple)):
            return ", ".join(map(str, value))
        if value is None:
            return NOTHING
        return f"{value:g}" if isinstance(value, float) else str(value)

    tables = {
        "Settings": settings,
        "Versions": about.get("versions"),
        "Made on": about.get("made"),
    }
    return [
        (title, [(str(key).replace("_", " "), shown(key, value)) for key, value in table.items()])
        for title, table in tables.items()
        if table
    ]


def _definitions(summary: Summary) -> list[dict[str, str]]:
    """Return the terms of the page, with the sentences and the pages on them."""
    glossary, about = "guide/glossary.md", summary.about
    compared = about.get("compared") or {}
    rows = [
        (name, entry["summary"], entry["page"])
        for kind in ("task", "rewards", "agents")
        for name, entry in compared.get(kind, {}).items()
    ]
    for name in summary.groups[0].measures:
        if not (name == "gold_score" and summary.by_gold):  # which is the score
            measure = summary.measure(name)
            rows.append((measure.title, measure.says, ""))
    if any(group.reference for group in summary.groups):
        rows.append((*best_of_n(summary.groups), glossary))
    rows.append(("Measured by", about.get("measured_by") or "", ""))
    if anchor := summary.anchors.reference:
        levels = [f"{measure_of(name).title} {number(value)}" for name, value in anchor.items()]
        text = f"The reference policy, before training: {', '.join(levels)}."
        rows.append(("Fixed anchor", text, ""))
    numbers = [one for one in NUMBERS.values() if one.name != "at_kl" or "kl" not in summary.logged]
    rows += [(one.title, one.meaning, glossary) for one in numbers]
    interval = (
        "Student's t interval over seeds. Of normal scores a 95% interval holds the mean in 95 of "
        "100 experiments; of differences of which one side fails in a run of five, in 82."
    )
    ranked = ", ".join(measure.word for measure in MEASURES.values() if measure.ranked)
    rows += [
        ("Error of measuring", OF_MEASURING, glossary),
        ("Interval", interval, glossary),
        ("Ranked", f"Rewards are ranked only by {ranked}.", glossary),
        ("All terms", f"The glossary of the documentation, docs/{glossary}.", glossary),
    ]
    return [
        {"term": term, "text": text, "address": address(page), "id": f"term-{place}"}
        for place, (term, text, page) in enumerate(row for row in rows if row[1])
    ]
