"""The report's tables, in HTML, LaTeX and Markdown, charts of differences, and responses."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tokengym.base.text import markdown, number, printable, signed
from tokengym.evaluation.measure.measures import (
    FORMER,
    WHEN,
    check_measures,
    measure_of,
    measures_in,
)
from tokengym.evaluation.measure.references import BEST_OF
from tokengym.evaluation.report import sentences
from tokengym.evaluation.report.charts import Interval, interval_chart
from tokengym.evaluation.report.curves import group_label
from tokengym.evaluation.report.sentences import NOTHING, kind_of
from tokengym.evaluation.report.verdict import clear, difference_of

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
    has_others = len(group["rewards"]) > 1
    for name, measure in measures_in(group).items():
        if any(name in entry["figures"] for entry in group["rewards"].values()):
            shown_columns += [(measure.heading(kind), name, kind) for kind in measure.columns]
        if name == "score" and has_others:
            if compares_kl(group):
                title = sentences.score_at_kl(measure.word, group["equal_kl"])
                shown_columns.append((title, name, "at_kl"))
            shown_columns.append((sentences.speed(group["baseline"]), name, "speed"))
    if ends := group["score_range"]:
        shown_columns.append((sentences.normalised(ends["n"]), NORMALISED, "final"))
    if has_others:
        shown_columns.append((sentences.chance_to_beat(group["baseline"]), "score", "chance"))
    return shown_columns


def compares_kl(group: Mapping[str, Any]) -> bool:
    """Return whether arms are compared at equal KL, which those of a tool's own KL are not."""
    return "kl" in group["measures"] and "kl" not in (group.get("logged") or {})


def first_columns(group: Mapping[str, Any]) -> list[int]:
    """Return the places of the columns that a first reader needs: those of terminals, and speed."""
    table = measures_in(group)
    return [
        place
        for place, (_, name, kind) in enumerate(columns(group))
        if kind == "speed" or (kind in ("auc", "final") and table[name].short)
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
    elif kind == "speed":
        value, below = speed(entry)
    elif kind == "chance" and entry.get("versus_baseline"):
        chance = entry["versus_baseline"]["probability_of_improvement"][measure]["auc"]
        value = f"{chance['probability']:.0%}"
        if min(entry["runs"], group["rewards"][group["baseline"]]["runs"]) > 1:
            below = sentences.percents(chance)
    elif kind != "chance":
        figure = entry["figures"][measure][kind]
        value = number(figure["mean"])
        if entry["runs"] > 1:  # one seed has no interval
            below = sentences.ends(figure)
        if kind == "at_kl" and name != group["baseline"]:
            at = entry["versus_baseline"]["at_kl"]
            below += sentences.when_at_kl(at, group["axis"], group["baseline"])
        if sign := clear(difference_of(group, name, measure, kind)):
            better = measure_of(measure).better
            tone = "good" if (better == "higher") == (sign > 0) else "bad"
            mark, tone = "▲" if sign > 0 else "▼", tone if better else "other"
    size = None if value == NOTHING else entry["measuring"].get(measure, {}).get(kind)
    error = "" if size is None else f"\u00b1 {number(size)}"
    return {"value": value, "below": below, "error": error, "mark": mark, "tone": tone}


def says(group: Mapping[str, Any], name: str, kind: str) -> str:
    """Return what the cells of a column mean and how sure they are."""
    measure = measures_in(group).get(name or "score") or measure_of(name)
    return sentences.column(measure, kind)


def _unknown(group: Mapping[str, Any], name: str, measure: str, kind: str) -> str | None:
    """Return why a cell has no value, "" where it was not measured, None if it has a value."""
    figures, base = (group["rewards"][each]["figures"] for each in (name, group["baseline"]))
    if measure == NORMALISED and group["score_range"]["noise"]:
        return sentences.RANGE_IS_NOISE
    versus = group["rewards"][name].get("versus_baseline") or {}
    if kind in ("chance", "speed") and versus.get("carried"):
        return sentences.ENDED_EARLY
    if kind == "speed" and not versus.get("relative_steps"):
        return sentences.no_way(group["baseline"]) if versus else ""
    if kind == "at_kl" and not ("kl" in figures and "kl" in base):
        return ""
    if kind == "at_kl" and group["equal_kl"] is None:
        return sentences.NOT_MOVED
    if kind == "at_kl" and kind not in figures[measure]:
        return sentences.not_at_kl(versus.get("at_kl") or {})
    return None if measure in figures else ""


def speed(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Return how many times as fast as the baseline a reward is, and the interval of it."""
    of = entry["versus_baseline"]["relative_steps"]
    low, high = (f"{1.0 / of[end]:.2f}" for end in ("high", "low"))
    pairs = entry["versus_baseline"]["differences"]["score"]["auc"]["pairs"]
    return f"{1.0 / of['ratio']:.2f}", f"{low} to {high}" if pairs > 1 else ""


def untrained(group: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the table of what needs no training: best-of-n, and the optimum's lower bound."""
    lines = group["reference"]
    if lines is None:
        return None
    table, best_of_n = measures_in(group), lines["best_of_n"]
    shown = [name for name in best_of_n[0] if name in table]
    heads = [sentences.best_of_heading(table[name]) for name in shown]
    rows = [
        [sentences.best_of_row(row["n"]), *(number(row[name]) for name in shown)]
        for row in best_of_n
    ]
    note = sentences.untrained_note(
        *(lines[of] for of in ("samples", "prompts", "tokens")),
        has_optimum=lines["optimum"] is not None,
        is_priced="net_score" in best_of_n[0],
    )
    if unscored := lines.get("unscored"):
        note = f"{note.rstrip()} {sentences.lacking_scores(unscored)}"
    if lines["optimum"] is not None:
        bound = {"net_score": sentences.at_least(lines["optimum"])}
        rows.append([sentences.OPTIMUM, *(bound.get(name, NOTHING) for name in shown)])
    return {"columns": ["", *heads], "rows": rows, "note": note, "largest": best_of_n[-1]["n"]}


def forests(group: Mapping[str, Any], colours: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return a chart of paired differences per measurement."""
    table, charts = measures_in(group), []
    for measure, kind in [(m, kind) for m in table.values() for kind in m.differences]:
        rows = []
        for name in group["rewards"]:
            if d := difference_of(group, name, measure.name, kind):
                versus = group["rewards"][name]["versus_baseline"]
                size = versus["measuring"].get(measure.name, {}).get(kind)
                said = (name, signed(d["difference"]), sentences.difference_note(d, size))
                ends = (d["low"], d["difference"], d["high"])
                rows.append(Interval(*said, colours[name], *ends, clear(d) != 0))
        if rows:
            title, note = measure.heading(kind), sentences.LEFT_OR_RIGHT[measure.better]
            charts.append({"title": title, "note": note, **interval_chart(rows, width=400.0)})
    return charts


def short_table(
    group: Mapping[str, Any], measures: Sequence[str] = ()
) -> tuple[list[tuple[str, str]], dict[str, list[dict[str, str]]]]:
    """Return the columns that terminals and papers show, and the rewards' cells in them.

    A heading is of the measurement and of the number taken of it; without ``measures`` the columns
    are those of the terminal.
    """
    every_column, measures = columns(group), [FORMER.get(name, name) for name in measures]
    check_measures(measures, list(dict.fromkeys(name for _, name, _ in every_column if name)))
    on_terminal = [m.name for m in measures_in(group).values() if m.short]
    shown = [
        column
        for column, (_, name, kind) in enumerate(every_column)
        if name in (measures or on_terminal) and kind in ("auc", "final", "at_kl")
    ]
    heads = []
    for column in shown:
        title, name, kind = every_column[column]
        measure = measures_in(group).get(name) or measure_of(name)
        unit = measure.in_brackets
        if kind == "at_kl":
            heads.append((measure.word.capitalize(), sentences.at_kl(group["equal_kl"])))
        else:
            heads.append((title.removesuffix(f" {WHEN[kind]}") + unit, WHEN[kind]))
    return heads, {name: [row[column] for column in shown] for name, row in cells(group).items()}


def group_table(
    group: Mapping[str, Any], level: float, style: Style, measures: Sequence[str] = ()
) -> str:
    """Return one setting's table of results, a row per reward."""
    heads, rewards = short_table(group, measures)
    note = sentences.table_note(
        level,
        runs_of(group),
        group["baseline"],
        noise=(group["score_range"] or {}).get("noise"),
        group=group_label(tuple(group["group"].items())),
    )
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


def runs_of(group: Mapping[str, Any]) -> list[int]:
    """Return the number of runs of each reward."""
    return [entry["runs"] for entry in group["rewards"].values()]


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
            shown.append(
                {**_response(before[prompt]), "name": sentences.BEFORE_TRAINING, "colour": None}
            )
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
    figures = sentences.response_figures(row.get("score"), row.get("gold_score"))
    return {"tokens": tokens, "figures": figures}


def reference_levels(lines: Mapping[str, Any] | None, measure: str) -> list[tuple[str, float]]:
    """Return the lines that a chart of a measurement shows: names and levels."""
    if lines is None or measure not in (rows := lines["best_of_n"])[0]:
        return []
    sizes = (BEST_OF,) if measure == "kl" else (4, BEST_OF, 64)
    shown = [row for row in rows if row["n"] in sizes]
    if measure == "net_score":  # at a high price fewer are better
        shown = [max((row for row in rows if row["n"] <= BEST_OF), key=lambda row: row[measure])]
    levels = [(sentences.best_of_line(row["n"], measure), row[measure]) for row in shown]
    if measure == "net_score" and lines["optimum"] is not None:
        levels.append((sentences.OPTIMUM_LINE, lines["optimum"]))
    return levels
