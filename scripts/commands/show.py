"""What commands print when they are done."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from tokengym.evaluation.measure.measures import MEASURES, WHEN, measure_of
from tokengym.evaluation.report.verdict import number

if TYPE_CHECKING:
    from rich.console import Console

    from tokengym.envs import Episode


def show_summary(console: "Console", summary: Mapping[str, Any], out: Path) -> None:
    """Print a summary's verdicts and where its files are."""
    for group in summary["groups"]:
        if group["group"]:
            label = ", ".join(f"{name} {value}" for name, value in group["group"].items())
            console.print(Text(f"\n{label}", style="dim"))
        console.print(Text(f"\n{group['verdict']['headline']}", style="bold"))
        console.print(_figures(group))
        console.print(Text(f"arrives: updates to {group['baseline']}'s final level", "dim"))
        for caution in group["verdict"]["cautions"]:
            console.print(Text(f"! {caution}", style="yellow"))
    console.print()
    for name in ("report.html", "curves.png", "curves.csv", "summary.json"):
        if (out / name).exists():
            console.print(Text(str(out / name)), soft_wrap=True)


def show_evaluation(
    console: "Console", metrics: Mapping[str, float], episodes: Sequence["Episode"]
) -> None:
    """Print what was measured of a policy, and responses that it wrote."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in metrics.items():
        table.add_row(measure_of(name).title, number(value), Text(measure_of(name).meaning, "dim"))
    console.print(table)
    for episode in episodes:
        line = Text("\n")
        line.append(episode.prompt, "bold").append(f" {episode.response.lstrip()}")
        console.print(line.append(f"  [score {number(episode.score)}]", "dim"))


def _figures(group: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    columns = [(WHEN["auc"], "score", "auc")]
    for name, measure in MEASURES.items():
        if measure.short and name in group["measures"]:
            columns.append((measure.short, name, "final"))
    table.add_column("reward", no_wrap=True)
    for title, _, _ in columns:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("arrives", justify="right", no_wrap=True)
    for name, entry in group["rewards"].items():
        cells = []
        for _, measure, kind in columns:
            figure = entry["figures"][measure][kind]
            ends = f"{number(figure['low'])}, {number(figure['high'])}"
            cells.append(Text(number(figure["iqm"])).append(f"\n{ends}", "dim"))
        steps = entry["steps_to_threshold"]["iqm_curve"]
        arrives = "never" if math.isinf(steps) else f"at {steps:.0f}"
        cells.append(Text(arrives if group["baseline_rises"] else "n/a"))
        table.add_row(Text(name), *cells)
    return table
