"""The report's table of figures and its charts of differences, from a summary."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tokengym.evaluation.measure.measures import measure_of, measures_of
from tokengym.evaluation.report.charts import interval_chart
from tokengym.evaluation.report.verdict import clear, difference_of, number, signed, unit_of
from tokengym.evaluation.statistics import SHARES

NOTHING = "\u2013"


def columns(group: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the table's columns as (title, measurement, kind)."""
    found: list[tuple[str, str, str]] = []
    for name, measure in measures_of(group["by_gold"]).items():
        shown = all(name in entry["figures"] for entry in group["rewards"].values())
        found += [(measure.heading(kind), name, kind) for kind in measure.columns if shown]
        if name == "score":
            found.append((f"Updates to {group['baseline']}'s final level", "", "steps"))
    if along := group["way"]:
        parts = " / ".join(f"{share:.0%}" for share in SHARES)
        found.append(
            (f"Share of the way to best of {along['n']} at the end", "share_of_way", "final")
        )
        found.append((f"{unit_of(group).capitalize()} to {parts} of it", "", "shares"))
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
    elif kind == "shares":
        reached = [entry["steps_to_shares"][f"{share:g}"] for share in SHARES]
        value = " / ".join(_steps(steps["iqm_curve"]) for steps in reached)
        arrived = " / ".join(f"{steps['reached']:.0%}" for steps in reached)
        below = f"{arrived} of seeds arrive"
    elif kind == "chance" and entry.get("versus_baseline"):
        chance = entry["versus_baseline"]["probability_of_improvement"][measure]["auc"]
        value = f"{chance['probability']:.0%}"
        below = f"{chance['low']:.0%} to {chance['high']:.0%}"
    elif kind != "chance":
        figure = entry["figures"][measure][kind]
        value, below = number(figure["iqm"]), f"{number(figure['low'])} to {number(figure['high'])}"
        mark, tone = _mark(measure, clear(difference_of(group, name, measure, kind)))
    return {"value": value, "below": below, "mark": mark, "tone": tone}


def _steps(steps: float) -> str:
    return NOTHING if np.isinf(steps) else f"{steps:.0f}"


def untrained(group: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the table of what needs no training: best-of-n, and the optimum's lower bound."""
    lines = group["reference"]
    if lines is None:
        return None
    table = measures_of(group["by_gold"])
    shown = [name for name in lines["best_of_n"][0] if name in table]
    heads = {name: table[name].title + (", at most" if name == "kl" else "") for name in shown}
    rows = [
        [f"best of {row['n']}", *(number(row[name]) for name in shown)]
        for row in lines["best_of_n"]
    ]
    if lines["optimum"] is not None:
        bound = {"net_score": f"at least {number(lines['optimum'])}"}
        rows.append(["optimum", *(bound.get(name, NOTHING) for name in shown)])
    note = (
        f"{lines['samples']} responses of the policy that training starts from to each of "
        f"{lines['prompts']} held-out prompts, {lines['tokens']:,} tokens in all. Best of n "
        "is the best of n fresh responses by the score: it costs n times the tokens at every use. "
    )
    if lines["optimum"] is not None:
        note += (
            "The best policy by score minus the KL penalty has at least c log mean exp(score / c) "
            "over these responses, c the price; each best of n is a lower bound too."
        )
    elif "net_score" in lines["best_of_n"][0]:
        note += "At price 0 the best policy has the highest score there is, which no sample bounds."
    largest = lines["best_of_n"][-1]["n"]
    return {"columns": ["", *heads.values()], "rows": rows, "note": note, "largest": largest}


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
