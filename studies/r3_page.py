"""The tables and the figure of docs/results/r3.md, from rows of its curves.csv."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studies.tables import iqm_with_interval, markdown_table
from tokengym.evaluation.report.figures import COLOURS, STYLE, write_picture
from tokengym.evaluation.report.verdict import number
from tokengym.evaluation.statistics import RELIABLE_SEEDS, Array

Row = Mapping[str, Any]
TITLES = {
    "length": "tokens",
    "copied_words": "words out of the question",
    "copies": "copies of the question",
    "repetition": "repeated trigrams",
    "relevance_query": "r_x",
    "relevance_reference": "r_y",
    "clean_sentences": "clean sentences (gold)",
    "right_answers": "right answers (gold)",
    "kl": "KL, nats",
}
"""Measure -> the head of its column."""
SHOWN = (
    *("relevance_query", "length", "copied_words", "repetition"),
    *("clean_sentences", "right_answers", "kl"),
)
"""Measures in the figure."""


def panels(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each world and recipe, "bundled gentle", in their order."""
    by_panel: dict[str, list[Row]] = {}
    for row in rows:
        by_panel.setdefault(f"{row['world']} {row['recipe']}", []).append(row)
    return by_panel


def table(rows: Sequence[Row]) -> str:
    """Return how the runs of a panel end, reward by reward, below how they began.

    A cell is the interquartile mean over the seeds with its 95 % interval; with fewer than
    `RELIABLE_SEEDS` seeds the mean with the lowest and the highest seed.
    """
    before = next(row for row in rows if row["step"] == 0)
    lines = [["before training", "", *(number(float(before[name])) for name in TITLES)]]
    for reward in dict.fromkeys(row["reward"] for row in rows):
        runs = [row for row in rows if row["reward"] == reward]
        last = max(row["step"] for row in runs)
        ends = [row for row in runs if row["step"] == last]
        cells = [_cell(np.array([row[name] for row in ends])) for name in TITLES]
        lines.append([reward, str(len(ends)), *cells])
    return markdown_table(["reward", "seeds", *TITLES.values()], lines)


def win_rate(one: str, other: str) -> float:
    """Return the share of questions that the first answers better, half of those both answer alike.

    Args:
        one: Gold scores of its answers, apart by spaces.
        other: Those of the second to the same questions.

    Example:
        >>> win_rate("1 2 0", "0 2 1")
        0.5
    """
    mine, theirs = (np.array(golds.split(), dtype=float) for golds in (one, other))
    return float(np.mean((mine > theirs) + 0.5 * (mine == theirs)))


def wins_table(rows: Sequence[Row]) -> str:
    """Return how often R3's answers are better by gold, at the end, than those of other runs.

    R3 is paired with each other reward seed by seed, and every reward with the start.
    """
    last = max(row["step"] for row in rows)
    ends = {(row["reward"], row["seed"]): row for row in rows if row["step"] == last}
    starts = {(row["reward"], row["seed"]): row for row in rows if row["step"] == 0}
    rewards = dict.fromkeys(reward for reward, _ in ends)
    pairs = [(reward, "the start") for reward in rewards]
    pairs += [("R3", reward) for reward in rewards if reward != "R3"] if "R3" in rewards else []
    lines = []
    for better, worse in pairs:
        opposed = [
            (row, starts[key] if worse == "the start" else ends.get((worse, key[1])))
            for key, row in ends.items()
            if key[0] == better
        ]
        both = [(row, other) for row, other in opposed if other is not None]
        cells = [
            _cell(np.array([win_rate(row[kind], other[kind]) for row, other in both]))
            for kind in ("golds_open", "golds_constrained")
        ]
        lines.append([f"{better} against {worse}", str(len(both)), *cells])
    return markdown_table(["by gold", "seeds", "open questions", "constrained questions"], lines)


def save_figure(path: Path, rows: Sequence[Row]) -> None:
    """Draw the curves: panels per world and recipe, a line per reward, a thin one per seed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    parts = panels(rows)
    rewards = list(dict.fromkeys(row["reward"] for row in rows))
    colours = {reward: COLOURS[index % len(COLOURS)] for index, reward in enumerate(rewards)}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.5 * len(SHOWN), 2.6 * len(parts) + 0.6), layout="constrained")
        axes = figure.subplots(len(parts), len(SHOWN), squeeze=False)
        for line, (name, panel_rows) in zip(axes, parts.items(), strict=True):
            for axis, measure in zip(line, SHOWN, strict=True):
                for reward, colour in colours.items():
                    _draw(axis, panel_rows, reward, measure, colour)
                axis.set_title(TITLES[measure])
                axis.set_ylim(bottom=0)
            line[0].set_ylabel(name)
        for axis in axes[-1]:
            axis.set_xlabel("updates")
        handles = [Line2D([], [], color=colours[name], label=name) for name in rewards]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(rewards))
        write_picture(path, figure, dpi=80)


def _draw(axis: Any, rows: Sequence[Row], reward: str, measure: str, colour: str) -> None:
    """Draw the runs of one reward and their mean."""
    runs: dict[int, list[Row]] = {}
    for row in rows:
        if row["reward"] == reward:
            runs.setdefault(row["seed"], []).append(row)
    for run in runs.values():
        axis.plot(
            [r["step"] for r in run], [r[measure] for r in run], color=colour, lw=0.6, alpha=0.5
        )
    if runs:
        steps = [row["step"] for row in next(iter(runs.values()))]
        mean = np.mean([[row[measure] for row in run] for run in runs.values()], axis=0)
        axis.plot(steps, mean, color=colour, lw=1.8)


def _cell(values: Array) -> str:
    """Return the middle of some runs and how far they spread."""
    if len(values) >= RELIABLE_SEEDS:
        return iqm_with_interval(values)
    spread = f" ({number(float(values.min()))} to {number(float(values.max()))})"
    return number(float(values.mean())) + (spread if len(values) > 1 else "")
