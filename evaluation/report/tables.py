"""The report's tables, in HTML, LaTeX and Markdown, charts of differences, and responses."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tokengym.base.text import markdown, number, printable, signed
from tokengym.evaluation.measure.measures import (
    NUMBERS,
    WHEN,
    Measure,
    check_measures,
    measure_of,
    measures_of,
)
from tokengym.evaluation.report.charts import interval_chart
from tokengym.evaluation.report.curves import group_label
from tokengym.evaluation.report.verdict import clear, difference_of, kind_of, unit_of
from tokengym.evaluation.statistics import FASTER_AT, MIN_KL

NOTHING = "\u2013"
Style = Literal["LaTeX", "Markdown"]
NORMALISED = "normalised_score"
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u2212": "$-$",
    "\u2013": "--",
    "\u221e": r"$\infty$",
    "▲": r"$\blacktriangle$",
    "▼": r"$\blacktriangledown$",
}


def columns(group: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the table's columns as (title, measurement, kind); one reward alone has no others'."""
    shown_columns: list[tuple[str, str, str]] = []
    has_others, unit = len(group["rewards"]) > 1, unit_of(group).capitalize()
    for name, measure in measures_of(group["by_gold"]).items():
        if any(name in entry["figures"] for entry in group["rewards"].values()):
            shown_columns += [(measure.heading(kind), name, kind) for kind in measure.columns]
        if name == "score" and has_others:
            if "kl" in group["measures"]:
                of_kl = " of KL" if group["equal_kl"] is not None else ""
                title = f"{measure.word.capitalize()} {at_kl(group)}{of_kl}"
                shown_columns.append((title, name, "at_kl"))
            shown_columns.append((f"{unit} to {group['baseline']}'s final level", "", "steps"))
    if ends := group["score_range"]:
        title = f"Normalised score (1: best of {ends['n']}) at the end"
        shown_columns.append((title, NORMALISED, "final"))
        shown_columns.append((f"{unit} to {FASTER_AT:.0%} of it", "", "shares"))
    if has_others:
        shown_columns.append((f"Chance to beat {group['baseline']}", "score", "chance"))
    return shown_columns


def at_kl(group: Mapping[str, Any]) -> str:
    """Return at which KL scores are compared, such as ``at 8.00 nats``."""
    kl = group["equal_kl"]
    return "at equal KL" if kl is None else f"at {number(kl)} nats"


def first_columns(group: Mapping[str, Any]) -> list[int]:
    """Return the places of the columns that a first reader needs: those of terminals, and speed."""
    table = measures_of(group["by_gold"])
    return [
        place
        for place, (_, name, kind) in enumerate(columns(group))
        if kind == "steps" or (kind in ("auc", "final") and table[name].short)
    ]


def cells(group: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Return the rewards' rows: value, interval, and the mark of a clear difference."""
    shown = columns(group)
    return {
        name: [_cell(group, name, measure, kind) for _, measure, kind in shown]
        for name in group["rewards"]
    }


def _cell(group: Mapping[str, Any], name: str, measure: str, kind: str) -> dict[str, str]:
    entry = group["rewards"][name]
    value, below, mark, tone = NOTHING, "", "", ""
    if (reason := _unknown(group, name, measure, kind)) is not None:
        below = reason
    elif kind == "steps":
        value, below = _arrival(entry, entry["steps_to_threshold"])
    elif kind == "shares":
        value, below = _arrival(entry, entry["steps_to_shares"][f"{FASTER_AT:g}"])
    elif kind == "chance" and entry.get("versus_baseline"):
        chance = entry["versus_baseline"]["probability_of_improvement"][measure]["auc"]
        value = f"{chance['probability']:.0%}"
        if min(entry["runs"], group["rewards"][group["baseline"]]["runs"]) > 1:
            below = f"{chance['low']:.0%} to {chance['high']:.0%}"
    elif kind != "chance":
        figure = entry["figures"][measure][kind]
        value = number(figure["iqm"])
        if entry["runs"] > 1:  # one seed has no interval
            below = f"{number(figure['low'])} to {number(figure['high'])}"
        if kind == "at_kl" and name != group["baseline"]:
            below += _when(group, name)
        if sign := clear(difference_of(group, name, measure, kind)):
            better = measure_of(measure).better
            tone = "good" if (better == "higher") == (sign > 0) else "bad"
            mark, tone = "▲" if sign > 0 else "▼", tone if better else "other"
    size = None if value == NOTHING else entry["measuring"].get(measure, {}).get(kind)
    error = "" if size is None else f"\u00b1 {number(size)}"
    return {"value": value, "below": below, "error": error, "mark": mark, "tone": tone}


def says(group: Mapping[str, Any], name: str, kind: str, score: Measure) -> str:
    """Return what the cells of a column mean and how sure they are; ``score`` is what it is of."""
    measure = score if name in ("", "score") else measure_of(name, group["by_gold"])
    number_of = NUMBERS["steps" if kind == "shares" else kind]
    return (
        f"{measure.title}. {measure.says} {number_of.title}: {number_of.meaning} {number_of.error}"
    )


def _unknown(group: Mapping[str, Any], name: str, measure: str, kind: str) -> str | None:
    """Return why a cell has no value, "" where it was not measured, None if it has a value."""
    figures, base = (group["rewards"][each]["figures"] for each in (name, group["baseline"]))
    if (measure == NORMALISED or kind == "shares") and group["score_range"]["noise"]:
        return "its range may be noise"
    if kind == "chance" and (group["rewards"][name].get("versus_baseline") or {}).get("carried"):
        return "runs ended early"
    if kind == "steps" and not group["baseline_rises"]:
        return f"{group['baseline']} does not rise"
    if kind == "at_kl" and not ("kl" in figures and "kl" in base):
        return ""
    if kind == "at_kl" and group["equal_kl"] is None:
        return f"KL below {MIN_KL:g} nats"
    if kind == "at_kl" and kind not in figures[measure]:
        return _not_at_kl((group["rewards"][name].get("versus_baseline") or {}).get("at_kl"))
    needed = NORMALISED if kind == "shares" else measure or "score"
    return None if needed in figures else ""


def _not_at_kl(at: Mapping[str, Any] | None) -> str:
    """Return why a reward's score at equal KL is not known."""
    if not at:
        return "not known"
    passed = at["of"] - at["pairs"] - at["short"]
    counts = {"ended below it": at["short"], "passed it unmeasured": passed}
    reasons = [f"{count} of {at['of']} {what}" for what, count in counts.items() if count]
    return ", ".join(["not known", *reasons])


def _arrival(entry: Mapping[str, Any], steps: Mapping[str, float]) -> tuple[str, str]:
    """Return the steps to a level, the median over seeds, and how many seeds arrive."""
    arrived, runs = round(steps["reached"] * entry["runs"]), entry["runs"]
    if not arrived:
        return "not reached", ""
    median = NOTHING if np.isinf(steps["median"]) else f"{steps['median']:.0f}"
    return median, f"{arrived} of {runs} seeds reach it"


def _when(group: Mapping[str, Any], name: str) -> str:
    """Return when a reward was at the KL of a comparison, and on how many seeds, as a clause.

    One that passed earlier than the baseline had spent fewer tokens, at a higher learning rate.
    """
    at = group["rewards"][name]["versus_baseline"]["at_kl"]
    step = f"{at['step']:,.0f}"
    when = f"{step} tokens" if group["axis"] == "tokens" else f"update {step}"
    seeds = f", {at['pairs']} of {at['of']} seeds" if at["pairs"] < at["of"] else ""
    return f" after {when}{seeds}"


def untrained(group: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the table of what needs no training: best-of-n, and the optimum's lower bound."""
    lines = group["reference"]
    if lines is None:
        return None
    table, best_of_n = measures_of(group["by_gold"]), lines["best_of_n"]
    shown = [name for name in best_of_n[0] if name in table]
    heads = [table[name].title + (", at most" if name == "kl" else "") for name in shown]
    rows = [[f"best of {row['n']}", *(number(row[name]) for name in shown)] for row in best_of_n]
    note = (
        f"{lines['samples']} responses of the policy that training starts from to each of "
        f"{lines['prompts']} held-out prompts, {lines['tokens']:,} tokens in all. Best of n "
        "is the best of n fresh responses by the score: it costs n times the tokens at every use. "
    )
    if lines["optimum"] is not None:
        bound = {"net_score": f"at least {number(lines['optimum'])}"}
        rows.append(["optimum", *(bound.get(name, NOTHING) for name in shown)])
        note += (
            "The best policy by score minus the KL penalty has at least c log mean exp(score / c) "
            "over these responses, c the price, and at least what any best of n has: the larger is "
            "shown."
        )
    elif "net_score" in best_of_n[0]:
        note += "At price 0 the best policy has the highest score there is, which no sample bounds."
    return {"columns": ["", *heads], "rows": rows, "note": note, "largest": best_of_n[-1]["n"]}


def forests(group: Mapping[str, Any], colours: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return a chart of paired differences per measurement."""
    notes = {
        "higher": "Right of 0 is better.",
        "lower": "Left of 0 is better.",
        "": "Neither side of 0 is better in itself.",
    }
    table, charts = measures_of(group["by_gold"]), []
    for measure, kind in [(m, kind) for m in table.values() for kind in m.differences]:
        rows = []
        for name in group["rewards"]:
            if d := difference_of(group, name, measure.name, kind):
                versus = group["rewards"][name]["versus_baseline"]
                size = versus["measuring"].get(measure.name, {}).get(kind)
                sure = f"; measuring \u00b1 {number(size)}" if size else ""
                of_pairs = f"{d['wins']} of {d['pairs']} higher{sure}"
                label = f"{name}  {signed(d['difference'])}  ({of_pairs})"
                ends = (d["low"], d["difference"], d["high"])
                rows.append((label, colours[name], *ends, clear(d) != 0))
        if rows:
            title, note = measure.heading(kind), notes[measure.better]
            charts.append({"title": title, "note": note, **interval_chart(rows, width=400.0)})
    return charts


def short_table(
    group: Mapping[str, Any], measures: Sequence[str] = ()
) -> tuple[list[tuple[str, str]], dict[str, list[dict[str, str]]]]:
    """Return the columns that terminals and papers show, and the rewards' cells in them.

    A heading is of the measurement and of the number taken of it; without ``measures`` the columns
    are those of the terminal.
    """
    every_column = columns(group)
    check_measures(measures, list(dict.fromkeys(name for _, name, _ in every_column if name)))
    on_terminal = [m.name for m in measures_of(group["by_gold"]).values() if m.short]
    shown = [
        column
        for column, (_, name, kind) in enumerate(every_column)
        if name in (measures or on_terminal) and kind in ("auc", "final", "at_kl")
    ]
    heads = []
    for column in shown:
        title, name, kind = every_column[column]
        measure = measure_of(name, group["by_gold"])
        unit = measure.in_brackets
        if kind == "at_kl":
            heads.append((measure.word.capitalize(), at_kl(group)))
        else:
            heads.append((title.removesuffix(f" {WHEN[kind]}") + unit, WHEN[kind]))
    return heads, {name: [row[column] for column in shown] for name, row in cells(group).items()}


def group_table(
    group: Mapping[str, Any], level: float, style: Style, measures: Sequence[str] = ()
) -> str:
    """Return one setting's table of results, a row per reward."""
    heads, rewards = short_table(group, measures)
    counts = counts_of(group)
    note = (
        f"Interquartile mean and {level:.0%} bootstrap interval over "
        f"{counts} seed{'' if counts == '1' else 's'}; ▲ and ▼ mark what "
        f"is clearly above or below {group['baseline']}"
    )
    if (ends := group["score_range"]) and ends["noise"]:
        note = f"{note}. No normalised score: {ends['noise']}"
    if group["group"]:
        note = f"{group_label(tuple(group['group'].items()))}. {note}"
    note = " ".join(printable(note).split())
    first = kind_of(group).capitalize()
    if style == "Markdown":

        def in_words(cell: Mapping[str, str]) -> str:
            below = f" ({cell['below']})" if cell["below"] else ""
            return f"{cell['value']}{below} {cell['mark']}".strip()

        grid = [
            [first, *map(" ".join, heads)],
            ["---", *("---:" for _ in heads)],
            *([name, *map(in_words, row)] for name, row in rewards.items()),
        ]
        shown_rows = (f"| {' | '.join(map(markdown, row))} |" for row in grid)
        return "\n".join([*shown_rows, "", f"{note}."])
    rows = [[first, *(latex(above) for above, _ in heads)], ["", *(below for _, below in heads)]]
    for name, row in rewards.items():  # the interval under the value, so that columns are narrow
        rows.append([latex(name), *(latex(f"{c['mark']} {c['value']}".strip()) for c in row)])
        rows.append(["", *(rf"\scriptsize {latex(c['below'])}" if c["below"] else "" for c in row)])
    lines = [" & ".join(row) + r" \\" for row in rows]
    begin = [f"% {note}.", f"\\begin{{tabular}}{{l{'r' * len(heads)}}}", r"\toprule", *lines[:2]]
    return "\n".join([*begin, r"\midrule", *lines[2:], r"\bottomrule", r"\end{tabular}"])


def counts_of(group: Mapping[str, Any]) -> str:
    """Return the number of runs per reward, such as ``3 to 10`` where it differs."""
    counts = [entry["runs"] for entry in group["rewards"].values()]
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def latex(text: str) -> str:
    r"""Return a text as LaTeX shows it.

    Example:
        >>> latex("abc:beta=1_000 & 5%")
        'abc:beta=1\\_000 \\& 5\\%'
    """
    line = " ".join(printable(text).split())
    return "".join(_LATEX.get(character, character) for character in line)


# --- responses ------------------------------------------------------------------------------------

MAX_SHOWN_TOKENS = 400
"""Longer responses are cut in the report; episodes.jsonl has them whole."""


def side_by_side(
    episodes: Sequence[Mapping[str, Any]], colours: Mapping[str, int], *, num_prompts: int = 4
) -> list[dict[str, Any]]:
    """Return the responses of each reward's policy per prompt, for the report's template.

    Of each reward the last step of its lowest seed is shown, and before them the reference
    policy's response (step 0), which is the same for all.
    """
    rows = [row for row in episodes if isinstance(row.get("prompt"), str) and "response" in row]
    last: dict[str, tuple[int, int]] = {}
    for row in rows:
        seed, step = int(row["seed"]), int(row["step"])
        lowest, latest = last.get(row["credit"], (seed, step))
        if (seed, -step) <= (lowest, -latest):
            last[row["credit"]] = seed, step
    chosen = [row for row in rows if row["credit"] in colours]
    before: dict[str, Mapping[str, Any]] = {}
    after: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in chosen:
        if row["step"] == 0:
            before.setdefault(row["prompt"], row)
        if (row["seed"], row["step"]) == last[row["credit"]]:
            after.setdefault(row["prompt"], {}).setdefault(row["credit"], row)
    samples = []
    for prompt, responses in after.items():
        shown = []
        if prompt in before and not all(row["step"] == 0 for row in responses.values()):
            shown.append({**_response(before[prompt]), "name": "before training", "colour": None})
            shown[0]["tokens"] = [{**token, "tone": ""} for token in shown[0]["tokens"]]
        for credit in colours:
            if credit in responses:
                entry = _response(responses[credit])
                shown.append({**entry, "name": credit, "colour": colours[credit]})
        samples.append({"prompt": prompt, "responses": shown})
    samples.sort(key=lambda sample: -len(sample["responses"]))  # stable: the fullest rows first
    return samples[:num_prompts]


def coloured_tokens(pieces: Sequence[str], rewards: Sequence[float]) -> list[dict[str, str]]:
    """Return each token's text, and its reward as a colour, for the templates.

    The strongest reward of the response has the full colour.

    Args:
        pieces: (n,) the tokens' texts.
        rewards: (n,) the tokens' rewards.
    """
    largest = max((abs(float(reward)) for reward in rewards), default=0.0) or 1.0
    tokens = [
        {
            "space": piece[: len(piece) - len(piece.lstrip())],  # uncoloured: lines break there
            "text": piece.lstrip(),
            "tone": "gain" if reward > 0 else "loss" if reward < 0 else "",
            "strength": f"{abs(float(reward)) / largest:.2f}",
            "value": signed(float(reward)),
        }
        for piece, reward in zip(pieces[:MAX_SHOWN_TOKENS], rewards[:MAX_SHOWN_TOKENS], strict=True)
    ]
    if tokens:
        tokens[0]["space"] = ""
    if len(pieces) > MAX_SHOWN_TOKENS:
        tokens.append({"space": " ", "text": "…", "tone": "", "strength": "0", "value": ""})
    return tokens


def _response(row: Mapping[str, Any]) -> dict[str, Any]:
    pieces, rewards = row.get("tokens"), row.get("token_rewards")
    if not pieces or not rewards or len(pieces) != len(rewards):
        pieces, rewards = [row["response"]], [0.0]
    tokens = coloured_tokens(pieces, rewards)
    figures = [f"score {number(row.get('score'))}"]
    if row.get("gold_score") is not None:
        figures.append(f"gold {number(row['gold_score'])}")
    return {"tokens": tokens, "figures": " · ".join(figures)}
