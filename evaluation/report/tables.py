"""The report's tables, in HTML, LaTeX and Markdown, charts of differences, and responses."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokengym.base.files import of_json
from tokengym.base.text import level_percent, markdown, number, printable, signed
from tokengym.evaluation.measure.measures import (
    FORMER,
    NUMBERS,
    WHEN,
    check_measures,
    measure_of,
)
from tokengym.evaluation.measure.references import BEST_OF, ReferenceLines
from tokengym.evaluation.report.charts import Interval, interval_chart
from tokengym.evaluation.report.facts import Arm, Group
from tokengym.evaluation.report.sentences import (
    NOTHING,
    at_kl,
    at_step,
    ends_of,
    lacking_scores,
    not_normalised,
    plural,
    seed_counts,
    sentence,
)
from tokengym.evaluation.statistics import MIN_KL

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


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of the table of figures, in words."""

    value: str = NOTHING
    below: str = ""
    """The interval, or why there is no value."""
    error: str = ""
    """Standard error of measuring."""
    mark: str = ""
    """Arrow of a clear difference from the baseline."""
    tone: str = ""
    """"good", "bad" or "other" of the mark."""


def columns(group: Group) -> list[tuple[str, str, str]]:
    """Return the table's columns as (title, measurement, kind); one reward alone has no others'."""
    shown_columns: list[tuple[str, str, str]] = []
    has_others = len(group.rewards) > 1
    for name, measure in group.table.items():
        if any(name in arm.figures for arm in group.rewards.values()):
            shown_columns += [(measure.heading(kind), name, kind) for kind in measure.columns]
        if name == "score" and has_others:
            if group.compares_kl:
                of_kl = "" if group.equal_kl is None else " of KL"
                title = f"{measure.word.capitalize()} {at_kl(group.equal_kl)}{of_kl}"
                shown_columns.append((title, name, "at_kl"))
            title = f"{sentence(NUMBERS['speed'].words)} ({group.baseline}: 1)"
            shown_columns.append((title, name, "speed"))
    if ends := group.score_range:
        title = f"Normalised score (1: best of {ends.n}) {NUMBERS['final'].words}"
        shown_columns.append((title, NORMALISED, "final"))
    if has_others:
        title = f"{sentence(NUMBERS['chance'].words)} {group.baseline}"
        shown_columns.append((title, "score", "chance"))
    return shown_columns


def first_columns(group: Group) -> list[int]:
    """Return the places of the columns that a first reader needs: those of terminals, and speed."""
    return [
        place
        for place, (_, name, kind) in enumerate(columns(group))
        if kind == "speed" or (kind in ("auc", "final") and group.table[name].short)
    ]


def cells(group: Group) -> dict[str, list[Cell]]:
    """Return the rewards' rows: value, interval, and the mark of a clear difference."""
    shown = columns(group)
    return {
        name: [_cell(group, name, measure, kind) for _, measure, kind in shown]
        for name in group.rewards
    }


def _cell(group: Group, name: str, measure: str, kind: str) -> Cell:
    arm = group.rewards[name]
    size = arm.measuring.get(measure, {}).get(kind)
    error = "" if size is None else f"\u00b1 {number(size)}"
    if (reason := _unknown(group, name, measure, kind)) is not None:
        return Cell(below=reason)
    if kind == "speed":
        value, below = speed(arm) or (NOTHING, "")
        return Cell(value=value, below=below, error=error)
    if kind == "chance":
        if (versus := arm.versus_baseline) is None:
            return Cell()
        chance = versus.probability_of_improvement[measure]["auc"]
        has_interval = min(arm.runs, group.rewards[group.baseline].runs) > 1
        ends = f"{chance.low:.0%} to {chance.high:.0%}" if has_interval else ""
        return Cell(value=f"{chance.probability:.0%}", below=ends, error=error)
    figure = arm.figures[measure][kind]
    below = ends_of(figure) if arm.runs > 1 else ""  # one seed has no interval
    if kind == "at_kl" and name != group.baseline:
        below += _when_at_kl(group, arm)
    mark, tone = "", ""
    if sign := arm.clear(measure, kind):
        better = measure_of(measure).better
        tone = "good" if (better == "higher") == (sign > 0) else "bad"
        mark, tone = "▲" if sign > 0 else "▼", tone if better else "other"
    return Cell(value=number(figure.mean), below=below, error=error, mark=mark, tone=tone)


def _when_at_kl(group: Group, arm: Arm) -> str:
    """Return when an arm was at the KL of a comparison, and on how many seeds, as a clause.

    One that passed earlier than the baseline had spent fewer tokens, at a higher learning rate.
    """
    at = arm.versus_baseline.at_kl if arm.versus_baseline else None
    if at is None or at.step is None or at.baseline_step is None:
        return ""
    order, when = {1: "earlier", -1: "later"}.get(at.earlier), at_step(at.baseline_step, group.axis)
    return (
        f" after {at_step(at.step, group.axis)}"
        + (f", {order} than {group.baseline} ({when})" if order else "")
        + (f", {at.pairs} of {at.of} seeds" if at.pairs < at.of else "")
    )


def says(group: Group, name: str, kind: str) -> str:
    """Return what the cells of a column mean and how sure they are."""
    measure, of = group.measure(name or "score"), NUMBERS[kind]
    return f"{measure.title}. {measure.says} {of.title}: {of.meaning} {of.error}"


def _unknown(group: Group, name: str, measure: str, kind: str) -> str | None:
    """Return why a cell has no value, "" where it was not measured, None if it has a value."""
    figures, base = (group.rewards[each].figures for each in (name, group.baseline))
    if measure == NORMALISED and group.score_range and group.score_range.noise:
        return "its range may be noise"
    versus = group.rewards[name].versus_baseline
    if kind in ("chance", "speed") and versus and versus.carried:
        return "runs ended early"
    if kind == "speed" and not (versus and versus.relative_steps):
        return f"{group.baseline} does not clearly rise" if versus else ""
    if kind == "at_kl" and not ("kl" in figures and "kl" in base):
        return ""
    if kind == "at_kl" and group.equal_kl is None:
        return f"KL below {MIN_KL:g} nats"
    if kind == "at_kl" and kind not in figures[measure]:
        at = versus.at_kl if versus else None
        return f"not known, {at.pairs} of {at.of} pairs were there" if at else "not known"
    return None if measure in figures else ""


def speed(arm: Arm) -> tuple[str, str] | None:
    """Return how many times as fast as the baseline a reward is, and the interval of it.

    None where that is not known.
    """
    if (versus := arm.versus_baseline) is None or (of := versus.relative_steps) is None:
        return None
    ends = f"{1.0 / of.high:.2f} to {1.0 / of.low:.2f}"
    return f"{1.0 / of.ratio:.2f}", ends if versus.differences["score"]["auc"].pairs > 1 else ""


def untrained(group: Group) -> dict[str, Any] | None:
    """Return the table of what needs no training: best-of-n, and the optimum's lower bound."""
    if (lines := group.reference) is None:
        return None
    best_of_n = lines.best_of_n
    shown = [name for name in best_of_n[0].figures if name in group.table]
    heads = [group.table[name].title + (", at most" if name == "kl" else "") for name in shown]
    rows = [
        [f"best of {row.n}", *(number(row.figures[name]) for name in shown)] for row in best_of_n
    ]
    note = (
        f"{lines.samples} responses of the policy that training starts from to each of "
        f"{lines.prompts} held-out prompts, {lines.tokens:,} tokens in all. Best of n is the best "
        "of n fresh responses by the score: it costs n times the tokens at every use."
    )
    if lines.optimum is not None:
        note += (
            " The best policy by score minus the KL penalty has at least c log mean exp(score / c) "
            "over these responses, c the price, and at least what any best of n has: the larger is "
            "shown."
        )
        bound = {"net_score": f"at least {number(lines.optimum)}"}
        rows.append(["optimum", *(bound.get(name, NOTHING) for name in shown)])
    elif lines.price is not None:
        note += (
            " At price 0 the best policy has the highest score there is, which no sample bounds."
        )
    if lines.unscored:
        note += f" {lacking_scores(lines.unscored)}"
    return {"columns": ["", *heads], "rows": rows, "note": note, "largest": best_of_n[-1].n}


def forests(group: Group, colours: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return a chart of paired differences per measurement."""
    charts = []
    side = {"higher": "Right of 0 is better.", "lower": "Left of 0 is better."}
    for measure, kind in [(m, kind) for m in group.table.values() for kind in m.differences]:
        rows = []
        for name, arm in group.rewards.items():
            d, versus = arm.difference(measure.name, kind), arm.versus_baseline
            if d is not None and versus is not None:
                size = versus.measuring.get(measure.name, {}).get(kind)
                sure = f"; measuring \u00b1 {number(size)}" if size else ""
                said = name, signed(d.difference), f"{d.wins} of {d.pairs} higher{sure}"
                rows.append(
                    Interval(*said, colours[name], d.low, d.difference, d.high, d.clear != 0)
                )
        if rows:
            note = side.get(measure.better, "Neither side of 0 is better in itself.")
            drawn = interval_chart(rows, width=400.0)
            charts.append({"title": measure.heading(kind), "note": note, **drawn})
    return charts


def short_table(
    group: Group, measures: Sequence[str] = ()
) -> tuple[list[tuple[str, str]], dict[str, list[Cell]]]:
    """Return the columns that terminals and papers show, and the rewards' cells in them.

    A heading is of the measurement and of the number taken of it; without ``measures`` the columns
    are those of the terminal.
    """
    every_column, measures = columns(group), [FORMER.get(name, name) for name in measures]
    check_measures(measures, list(dict.fromkeys(name for _, name, _ in every_column if name)))
    on_terminal = [m.name for m in group.table.values() if m.short]
    shown = [
        column
        for column, (_, name, kind) in enumerate(every_column)
        if name in (measures or on_terminal) and kind in ("auc", "final", "at_kl")
    ]
    heads = []
    for column in shown:
        title, name, kind = every_column[column]
        measure = group.measure(name)
        if kind == "at_kl":
            heads.append((measure.word.capitalize(), at_kl(group.equal_kl)))
        else:
            heads.append((title.removesuffix(f" {WHEN[kind]}") + measure.in_brackets, WHEN[kind]))
    return heads, {name: [row[column] for column in shown] for name, row in cells(group).items()}


def group_table(group: Group, level: float, style: Style, measures: Sequence[str] = ()) -> str:
    """Return one setting's table of results, a row per reward."""
    heads, rewards = short_table(group, measures)
    seeds = seed_counts(group)
    note = (
        f"Mean and {level_percent(level)} t interval over {seeds} "
        f"{plural(1 if seeds == '1' else 2, 'seed')}; ▲ and ▼ mark what is clearly above or below "
        f"{group.baseline}"
    )
    if group.score_range and group.score_range.noise:
        note = f"{note}. {not_normalised(group.score_range.noise)}"
    note = " ".join(printable(f"{group.label}. {note}" if group.group else note).split())
    first = group.kind.capitalize()
    if style == "Markdown":

        def in_words(cell: Cell) -> str:
            below = f" ({cell.below})" if cell.below else ""
            return f"{cell.value}{below} {cell.mark}".strip()

        grid = [
            [first, *map(" ".join, heads)],
            ["---", *("---:" for _ in heads)],
            *([name, *map(in_words, row)] for name, row in rewards.items()),
        ]
        shown_rows = (f"| {' | '.join(map(markdown, row))} |" for row in grid)
        return "\n".join([*shown_rows, "", f"{note}."])
    rows = [[first, *(latex(above) for above, _ in heads)], ["", *(below for _, below in heads)]]
    for name, row in rewards.items():  # the interval under the value, so that columns are narrow
        rows.append([latex(name), *(latex(f"{c.mark} {c.value}".strip()) for c in row)])
        rows.append(["", *(rf"\scriptsize {latex(c.below)}" if c.below else "" for c in row)])
    lines = [" & ".join(row) + r" \\" for row in rows]
    begin = [f"% {note}.", f"\\begin{{tabular}}{{l{'r' * len(heads)}}}", r"\toprule", *lines[:2]]
    return "\n".join([*begin, r"\midrule", *lines[2:], r"\bottomrule", r"\end{tabular}"])


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


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A response that a run kept at an evaluation, a row of episodes.jsonl."""

    credit: str
    seed: int
    step: int
    prompt: str
    response: str
    tokens: Sequence[str] | None = None
    token_rewards: Sequence[float] | None = None
    score: float | None = None
    gold_score: float | None = None

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> "list[Sample]":
        """Return the rows that have a prompt and a response."""
        whole = (r for r in rows if isinstance(r.get("prompt"), str) and "response" in r)
        return [of_json(cls, row) for row in whole]


def side_by_side(
    samples: Sequence[Sample], colours: Mapping[str, int], *, num_prompts: int = 4
) -> list[dict[str, Any]]:
    """Return the responses of each reward's policy per prompt, for the report's template.

    Of each reward the last step of its lowest seed is shown, and before them the reference
    policy's response (step 0), which is the same for all.
    """
    last: dict[str, tuple[int, int]] = {}
    for one in samples:
        lowest, latest = last.get(one.credit, (one.seed, one.step))
        if (one.seed, -one.step) <= (lowest, -latest):
            last[one.credit] = one.seed, one.step
    before: dict[str, Sample] = {}
    after: dict[str, dict[str, Sample]] = {}
    for one in samples:
        if one.credit in colours and one.step == 0:
            before.setdefault(one.prompt, one)
        if one.credit in colours and (one.seed, one.step) == last[one.credit]:
            after.setdefault(one.prompt, {}).setdefault(one.credit, one)
    rows = []
    for prompt, responses in after.items():
        shown = []
        if prompt in before and not all(one.step == 0 for one in responses.values()):
            first = _response(before[prompt], "before training")
            shown.append(first | {"tokens": [token | {"tone": ""} for token in first["tokens"]]})
        shown += [_response(responses[c], c, colours[c]) for c in colours if c in responses]
        rows.append({"prompt": prompt, "responses": shown})
    rows.sort(key=lambda row: -len(row["responses"]))  # stable: the fullest rows first
    return rows[:num_prompts]


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


def _response(sample: Sample, name: str, colour: int | None = None) -> dict[str, Any]:
    pieces, rewards = sample.tokens, sample.token_rewards
    if not pieces or not rewards or len(pieces) != len(rewards):
        pieces, rewards = [sample.response], [0.0]
    gold = "" if sample.gold_score is None else f" · gold {number(sample.gold_score)}"
    return {
        "tokens": coloured_tokens(pieces, rewards),
        "figures": f"score {number(sample.score)}{gold}",
        "name": name,
        "colour": colour,
    }


def reference_levels(lines: ReferenceLines | None, measure: str) -> list[tuple[str, float]]:
    """Return the lines that a chart of a measurement shows: names and levels."""
    if lines is None or measure not in lines.best_of_n[0].figures:
        return []
    rows, sizes = lines.best_of_n, (BEST_OF,) if measure == "kl" else (4, BEST_OF, 64)
    shown = [row for row in rows if row.n in sizes]
    if measure == "net_score":  # at a high price fewer are better
        within = (row for row in rows if row.n <= BEST_OF)
        shown = [max(within, key=lambda row: row.figures[measure])]
    bound = ", at most" if measure == "kl" else ""
    levels = [(f"best of {row.n}{bound}", row.figures[measure]) for row in shown]
    if measure == "net_score" and lines.optimum is not None:
        levels.append(("optimum, at least", lines.optimum))
    return levels
