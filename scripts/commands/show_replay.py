"""What ``tokengym replay`` prints: figures, and a heat map of tokens by rules."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table
from rich.text import Text

from tokengym.envs.render import reward_colours
from tokengym.evaluation.replay.page import (
    figure_columns,
    figure_rows,
    headline,
    same_scores,
)
from tokengym.evaluation.report.samples import printable
from tokengym.evaluation.report.verdict import number, signed

if TYPE_CHECKING:
    from rich.console import Console

    from tokengym.evaluation.replay.replay import Replay


def show_replay(console: "Console", result: "Replay", show: int, out: Path) -> None:
    """Print a replay: its finding, the first heat maps, and where its files are.

    Args:
        console: Where to.
        result: What was replayed.
        show: How many responses.
        out: The folder of the files.
    """
    for index in range(min(show, len(result.episodes))):
        console.print(_heading(result, index))
        console.print(heat_map(result, index))
    console.print(Text(f"\n{headline(result)}", style="bold"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("rule", no_wrap=True)
    for title in figure_columns(result):
        table.add_column(title.lower(), justify="right")
    for row in figure_rows(result):
        table.add_row(Text(row["name"]), *map(Text, row["cells"]))
    console.print(table)
    console.print()
    for name in ("replay.html", "credit.csv"):
        console.print(Text(str(out / name)), soft_wrap=True)


def heat_map(result: "Replay", index: int) -> Table:
    """Return one response as a table: a row per token, a column per rule, the truth first.

    Blue earns, red takes away; a column's strongest token has the full colour.

    Args:
        result: What was replayed.
        index: Which response.
    """
    columns = {name: rule[index] for name, rule in result.credits.items()}
    if result.truth is not None:
        columns = {"truth": result.truth.values[index], **columns}
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("token", no_wrap=True, max_width=16)
    for name in columns:
        table.add_column(Text(name), justify="right")
    painted = [_cells(values) for values in columns.values()]
    for piece, *cells in zip(result.tokens[index], *painted, strict=True):
        table.add_row(Text(printable(piece).strip()), *cells)
    return table


def _heading(result: "Replay", index: int) -> Text:
    line = Text("\n")
    line.append(printable(result.episodes[index].prompt), "bold").append(" \u2026")
    if same_scores(result):
        score = float(next(iter(result.scores.values()))[index])
        line.append(f"  [score {number(score)}]", "dim")
    return line


def _cells(values: np.ndarray) -> list[Text]:
    """Return a column's numbers on their colours; what rounds to nothing has none."""
    cells = []
    largest = float(np.abs(values).max(initial=0.0))
    for value, colour in zip(values.tolist(), reward_colours(values), strict=True):
        faint = abs(value) < 0.02 * largest or value == 0
        style = "dim" if faint else "black on rgb({},{},{})".format(*colour)
        cells.append(Text(signed(value), style=style))
    return cells
