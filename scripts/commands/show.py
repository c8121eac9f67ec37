"""Results as commands print them."""

import os
import sys
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from tokengym.base.saved_code import display_name
from tokengym.base.text import number, percent
from tokengym.envs import printable
from tokengym.evaluation.measure.measures import WHEN, measure_of
from tokengym.evaluation.measure.references import BEST_OF, ReferenceLines
from tokengym.evaluation.report.facts import Arm, Group, Summary
from tokengym.evaluation.report.learning import HELD_OUT, SHOWN
from tokengym.evaluation.report.sentences import NOTHING, at_kl, lacking_scores
from tokengym.evaluation.report.tables import NORMALISED, speed
from tokengym.evaluation.statistics import FASTER_AT

if TYPE_CHECKING:
    from rich.console import Console

    from tokengym.envs import Episode
    from tokengym.evaluation.measure.win_rate import WinRate


def terminal(**options: Any) -> "Console":
    """Return rich's console that commands print on; under NO_COLOR it writes no escapes."""
    from rich.console import Console

    plain: dict[str, Any] = {"color_system": None} if os.environ.get("NO_COLOR") else {}
    return Console(**plain, **options)


def show_summary(console: "Console", summary: Summary, out: Path) -> None:
    """Print a summary's verdicts and where its files are."""
    for group in summary.groups:
        _show_group(console, group, summary.about.get("learning", ()))
    console.print()
    for name in ("report.html", "curves.png", "curve.png", "curves.csv", "summary.json"):
        if (out / name).exists():
            say(console, str(out / name))


def _show_group(console: "Console", group: Group, learning: Sequence[Mapping[str, Any]]) -> None:
    """Print the verdict of one setting: its figures, and last how far ahead each reward is."""
    if group.group:
        console.print(line_of(f"\n{group.label}", "dim"))
    console.print(line_of(f"\n{group.verdict.headline}", "bold"))
    for note in group.verdict.notes:
        console.print(line_of(note))
    for table in _figures(group, console.width):
        console.print(table)
    if legend := _legend(group):
        console.print(line_of(legend, "dim"))
    show_references(console, group.reference)
    for learned in learning:
        if learned["group"] == group.group:
            show_learning(console, {learned["credit"]: learned["figures"]})
    for caution in group.verdict.cautions:
        console.print(line_of(f"! {caution}", "yellow"))
    for line in group.verdict.differences:
        say(console, line)


def show_references(console: "Console", lines: ReferenceLines | None) -> None:
    """Print what needs no training: the best of up to 16, and the optimum's lower bound."""
    if lines is None:
        return
    # Of fewer responses where most prompts have no more scores.
    row = max((row for row in lines.best_of_n if row.n <= BEST_OF), key=lambda row: row.n)
    gold = "" if row.gold_score is None else f"gold {number(row.gold_score)}, "
    text = f"score {number(row.score)}, {gold}KL at most {number(row.kl)} nats"
    if lines.price:
        net = f"score - {lines.price:g} KL"
        text += f", {net} {number(row.net_score)}; optimum of {net} at least "
        text += number(lines.optimum)
    elif lines.price is not None:
        text += "; at price 0 the optimum is the highest score there is"
    drawn = f"{lines.samples} responses to each of {lines.prompts} prompts"
    console.print(line_of(f"untrained, best of {row.n}: {text} ({drawn})", "dim"))
    if lines.unscored:
        say(console, lacking_scores(lines.unscored))


def show_learning(console: "Console", figures: Mapping[Any, Mapping[str, float]]) -> None:
    """Print columns of train.csv, in training and on held-out data, by what heads their rows."""
    shown = [name for name in SHOWN if any(name in row for row in figures.values())]
    table = Table("", "", *shown, box=None, pad_edge=False)
    for head, row in figures.items():
        for title, prefix in (("training", ""), ("held out", HELD_OUT)):
            cells = [row.get(prefix + name) for name in shown]
            if any(cell is not None for cell in cells):
                table.add_row(line_of(str(head)), title, *map(number, cells))
    console.print(table)


def say(console: "Console", text: str) -> None:
    """Print a line that may hold names and texts of the user's."""
    console.print(line_of(text), soft_wrap=True)


def open_page(console: "Console", address: str) -> None:
    """Open an address in the browser, for someone at a terminal who has a display."""
    displays = sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ}
    if console.is_terminal and displays:  # without one, a browser of texts would take the terminal
        webbrowser.open(address)


def line_of(text: str, style: str = "") -> Text:
    """Return a text for the terminal that is no markup and holds no escape sequence."""
    return Text(printable(text), style)


def show_evaluation(
    console: "Console",
    metrics: Mapping[str, float],
    errors: Mapping[str, float],
    episodes: Sequence["Episode"],
    measured_by: str,
) -> None:
    """Print a policy's measurements, the scorers that they are of, and some of its responses.

    Behind a measurement stands its standard error over the responses, where one is known.
    """
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in metrics.items():
        error = f"\u00b1 {number(errors[name])}" if name in errors else ""
        meaning = Text(measure_of(name).meaning, "dim")
        table.add_row(measure_of(name).title, number(value), error, meaning)
    console.print(table)
    console.print(f"measured by {printable(measured_by)}", markup=False, highlight=False)
    for episode in episodes:
        line = Text("\n")
        line.append(printable(episode.prompt), "bold")
        line.append(f" {printable(episode.response.lstrip())}")
        console.print(line.append(f"  [score {number(episode.score)}]", "dim"))


def show_win_rate(console: "Console", versus: "WinRate", against: Path | None) -> None:
    """Print the win rate over a second agent."""
    line = (
        f"\nagainst {against}: {versus.wins} won, {versus.ties} tied, {versus.losses} lost; "
        f"win rate {versus.rate:.0%} ({versus.low:.0%} to {versus.high:.0%})"
    )
    console.print(line_of(line))


def _figures(group: Group, width: int) -> Iterator[Table]:
    """Yield the table of figures, in parts that are no wider than the terminal."""
    arms = list(group.rewards.values())
    names, titles = [*group.rewards], [*map(display_name, group.rewards)]
    names = titles if len({*titles}) == len(titles) else names  # without the files that define them
    columns = [_column(arms, WHEN["auc"], "score", "auc")]
    if group.compares_kl and len(arms) > 1:
        columns.append(_column(arms, WHEN["at_kl"], "score", "at_kl"))
    for name, measure in group.table.items():
        is_shown = any(name in arm.figures for arm in arms)
        if measure.short and (is_shown or (name == NORMALISED and group.score_range)):
            columns.append(_column(arms, measure.short, name, "final"))
    if len(arms) > 1:
        columns.append([Text(WHEN["speed"], "bold"), *map(_speed, arms)])
    first = [Text(text) for text in (group.kind, *map(printable, names))]
    yield from fitting_tables([first, *columns], width)


def fitting_tables(columns: Sequence[Sequence[Text]], width: int) -> Iterator[Table]:
    """Yield a table in parts that are no wider than the terminal, the first column in each.

    Args:
        columns: The cells of each column, its heading first.
        width: Letters of a line.
    """
    first, *others = columns
    room, parts, used = width - max(text.cell_len for text in first), [[first]], 0
    for column in others:
        size = 2 + max(len(line) for cell in column for line in cell.plain.split("\n"))
        if used and used + size > room:
            parts.append([first])
            used = 0
        parts[-1].append(column)
        used += size
    for part in parts:
        table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 2), show_header=False)
        for place in range(len(part)):
            table.add_column(justify="right" if place else "left", no_wrap=True)
        for row in zip(*part, strict=True):
            table.add_row(*row)
        yield table


def _legend(group: Group) -> str:
    """Return what the columns of a group's table mean."""
    ends = group.score_range
    parts = []
    if any(arm.figure("score", "at_kl") for arm in group.rewards.values()):
        parts.append(f"{WHEN['at_kl']}: {group.score.word} {at_kl(group.equal_kl)} of KL")
    elif group.compares_kl and len(group.rewards) > 1:
        parts.append(f"{WHEN['at_kl']}: not known, see the report")
    if ends and not ends.noise:
        word = measure_of(ends.measure, group.by_gold).word
        parts.append(f"norm.: 0 at the start, 1 at best of {ends.n}, by {word}")
    if len(group.rewards) > 1:
        base = group.baseline
        parts.append(f"speed: times as fast as {base}, up to {FASTER_AT:.0%} of {base}'s way")
    return "; ".join(parts)


def _speed(arm: Arm) -> Text:
    """Return how many times as fast as the baseline a reward is, as the report has it."""
    value, ends = speed(arm) or (NOTHING, "")
    return Text(value).append(f"\n{ends}" if ends else "", "dim")


def _column(arms: Sequence[Arm], title: str, measure: str, kind: str) -> list[Text]:
    """Return a column's title and its cells: a value above its interval, if there is one."""
    cells = [Text(title, "bold")]
    shown = percent if measure == NORMALISED else number
    for arm in arms:
        figure = arm.figure(measure, kind)
        # None was not measured, or no equal KL is known.
        cells.append(Text(NOTHING if figure is None else shown(figure.mean)))
        if figure and shown is number and arm.runs > 1:  # one seed has no interval
            cells[-1].append(f"\n{number(figure.low)}, {number(figure.high)}", "dim")
    return cells
