"""Results as the commands of the laboratory print them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table
from rich.text import Text

from tokengym.envs import printable, reward_colours
from tokengym.evaluation.report import number, signed
from tokengym.evaluation.statistics import DEFAULT_LEVEL
from tokengym.lab.replay.page import (
    executed_words,
    figure_columns,
    figure_rows,
    headline,
    same_scores,
    scoring_rows,
    scoring_words,
)
from tokengym.scripts.commands import fitting_tables, say

if TYPE_CHECKING:
    from rich.console import Console

    from tokengym.lab.replay.replay import Replay
    from tokengym.lab.training import TrainedProcess, TrainedReward


def show_process_metrics(console: "Console", trained: "TrainedProcess") -> None:
    """Print a process model's figures on held-out rows, and its folder."""
    metrics = trained.metrics
    low, high = metrics.accuracy_interval
    rows = [
        ("responses", str(metrics.rows), f"held out; trained on {trained.rows}"),
        ("accuracy", number(metrics.accuracy), f"of {metrics.steps} steps; {DEFAULT_LEVEL:.0%} "
         f"interval over responses {number(low)} to {number(high)}"),
        ("all steps alike", number(metrics.majority_accuracy), "accuracy of the commoner label"),
        ("loss", number(metrics.loss), "nats per step; 0.693 knows nothing"),
        ("F1 of the first error", number(metrics.first_error_f1), "as ProcessBench counts it"),
        ("folder", str(trained.path), f"for prm:model={trained.path}"),
    ]  # fmt: skip
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value, meaning in rows:
        table.add_row(name, value, Text(meaning, "dim"))
    console.print(table)


def show_pair_metrics(console: "Console", trained: "TrainedReward") -> None:
    """Print a reward model's figures on held-out pairs, and its folder."""
    metrics = trained.metrics
    low, high = metrics.accuracy_interval
    rows = [
        ("pairs", str(metrics.pairs), f"held out; trained on {trained.pairs}"),
        ("accuracy", number(metrics.accuracy), f"{DEFAULT_LEVEL:.0%} interval {number(low)} to "
         f"{number(high)}"),
        ("training accuracy", number(trained.train_accuracy), "on pairs it learned from"),
        ("loss", number(metrics.loss), f"nats; 0.693 knows nothing; {number(trained.train_loss)} "
         "in training"),
        ("calibration error", number(metrics.calibration_error), "sureness against accuracy"),
    ]  # fmt: skip
    if metrics.good_share is None:
        accuracy, correlation = metrics.longer_accuracy, metrics.length_correlation
        rows += [
            ("longer is better", number(accuracy), "accuracy of preferring length"),
            ("length correlation", number(correlation), "of preference and length"),
        ]
    else:
        rows[0] = ("labelled texts", *rows[0][1:])
        rows.append(("good", number(metrics.good_share), "share of the labels"))
    if metrics.position_bias is not None:
        rows.append(("position bias", number(metrics.position_bias), "mean P(A) - 1/2"))
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value, meaning in rows:
        table.add_row(name, value, Text(meaning, "dim"))
    console.print(table)
    console.print(_reliability(trained))
    if trained.undertrained:
        right = number(trained.train_accuracy)
        advice = (
            f"undertrained: even of the pairs it learned from, only {right} have the right order; "
            "raise --epochs or --learning-rate, or lower --batch-size"
        )
        console.print(Text(advice, "yellow"))
    if trained.skipped:
        skipped = ", ".join(f"{count} {kind}" for kind, count in trained.skipped.items())
        console.print(Text(f"left out: {skipped}", "yellow"))
    for name in ("", "measures.json", "reliability.png"):
        say(console, str(trained.path / name))


def _reliability(trained: "TrainedReward") -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("confidence", "pairs", "accuracy"):
        table.add_column(title, justify="right")
    for row in trained.metrics.reliability:
        if row.confidence is not None and row.accuracy is not None:
            table.add_row(number(row.confidence), str(row.pairs), number(row.accuracy))
    return table


def show_replay(console: "Console", result: "Replay", show: int, out: Path) -> None:
    """Print a replay: its finding, the first heat maps, and where its files are."""
    for index in range(min(show, len(result.episodes))):
        heading = Text("\n")
        heading.append(printable(result.episodes[index].prompt), "bold").append(" \u2026")
        if same_scores(result):
            score = float(next(iter(result.scores.values()))[index])
            heading.append(f"  [score {number(score)}]", "dim")
        console.print(heading)
        console.print(heat_map(result, index))
    console.print(Text(printable(f"\n{headline(result)}"), "bold"))
    rows = figure_rows(result)
    rules = [Text("rule"), *(Text(row["name"]) for row in rows)]
    for rule in rules:
        rule.truncate(console.width // 2, overflow="ellipsis")
    figures = zip(*(row["cells"] for row in rows), strict=True)
    columns = [
        [Text(text) for text in (title.lower(), *cells)]
        for title, cells in zip(figure_columns(result), figures, strict=True)
    ]
    for table in fitting_tables([rules, *columns], console.width):
        console.print(table)
    if result.truth is not None and result.truth.executed is not None:
        console.print(Text(printable(f"\n{executed_words(result.truth.executed)}")))
    if scored := scoring_rows(result):
        console.print(Text(f"\n{scoring_words(result)}"))
        console.print(_scorings(scored))
    console.print()
    for name in ("replay.html", "credit.csv", "scores.csv"):
        say(console, str(out / name))


def _scorings(rows: Sequence[Sequence[str]]) -> Table:
    """Return scorers with their means and their differences from the first."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, title in enumerate(rows[0]):
        table.add_column(Text(title), justify="right" if index else "left")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table


def heat_map(result: "Replay", index: int) -> Table:
    """Return one response as a table: a row per token, a column per rule, the truth first.

    Blue is a positive reward, red a negative one; a column's strongest has the full colour.
    """
    columns = result.columns(index)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("token", no_wrap=True, max_width=16)
    for name in columns:
        table.add_column(Text(printable(name)), justify="right")
    painted = [_cells(values) for values in columns.values()]
    for piece, *cells in zip(result.tokens[index], *painted, strict=True):
        table.add_row(Text(printable(piece).strip()), *cells)
    return table


def _cells(values: np.ndarray) -> list[Text]:
    """Return a column's numbers on their colours; what rounds to nothing has none."""
    cells = []
    largest = float(np.abs(values).max(initial=0.0))
    for value, colour in zip(values.tolist(), reward_colours(values), strict=True):
        faint = abs(value) < 0.02 * largest or value == 0
        style = "dim" if faint else "black on rgb({},{},{})".format(*colour)
        cells.append(Text(signed(value), style=style))
    return cells
