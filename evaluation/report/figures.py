"""The picture beside a report, curves.png, and what every picture of curves is drawn with."""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.base.files import write_bytes
from tokengym.envs import printable
from tokengym.evaluation.measure.measures import AXES, measure_of, measures_of
from tokengym.evaluation.measure.references import levels
from tokengym.evaluation.report.curves import Curve, Panel, group_label, make_panels
from tokengym.evaluation.statistics import curve_interval, iqm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#56616f", "#1f77c9", "#d9620a", "#10845b", "#b0338b", "#6f52c8", "#8a6d00", "#00839a")
"""The report's light palette; the first, drawn dashed, is the baseline's."""
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa1a8",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e8eae6",
    "text.color": "#1d2329",
    "axes.labelcolor": "#59636e",
    "xtick.color": "#59636e",
    "ytick.color": "#59636e",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
NEAR = 0.08
"""Share of a chart's height in which the name of a line has room."""
LONG_NAME = 12
"""Letters of a name; of longer ones no three stand beside each other over one chart."""


def save_figure(path: Path, summary: Mapping[str, Any], curves: Sequence[Curve]) -> None:
    """Draw score, gold score, KL, score minus its price and toxicity of every group."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels = make_panels(curves, kl_coef=summary["kl_coef"])
    groups = summary["groups"]
    references = {tuple(group["group"].items()): group["reference"] for group in groups}
    names = list(dict.fromkeys(name for group in groups for name in group["rewards"]))
    baseline = groups[0]["baseline"]
    lines: dict[str, dict[str, Any]] = {
        name: {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": "--" if name == baseline else "-",
            "linewidth": 1.8,
        }
        for index, name in enumerate(names)
    }
    columns = [
        name
        for name, m in measures_of(summary["by_gold"]).items()
        if (m.short or m.ranked) and all(name in panel.measures for panel in panels)
    ]
    if len(columns) == 1 and len(panels) > 1:  # only scores: groups side by side
        cells = [(panel, "score", group_label(panel.group)) for panel in panels]
        width = 2 if len(cells) == 4 else min(len(cells), 3)
    else:
        labels = {name: measure_of(name, summary["by_gold"]).label for name in columns}
        cells = [
            (panel, name, f"{label} ({group_label(panel.group)})" if panel.group else label)
            for panel in panels
            for name, label in labels.items()
        ]
        width = len(columns)
    height = -(-len(cells) // width)
    # Not pyplot: a library leaves the user's figures, backend and settings alone.
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.3 * width + 0.4, 3.3 * height + 0.5), layout="constrained")
        axes = figure.subplots(height, width, squeeze=False)
        for axis in axes.flat[len(cells) :]:
            axis.set_visible(False)
        for axis, (panel, measure, title) in zip(axes.flat, cells, strict=False):
            draw(axis, panel, measure, lines, float(summary["level"]))
            draw_levels(axis, levels(references[panel.group], measure))
            axis.set_title(plain(title))
            axis.set_xlabel(AXES[summary["axis"]])
        longest = max(map(len, names))
        figure.legend(
            [Line2D([], [], **lines[name]) for name in names],
            [plain(name) for name in names],
            loc="outside upper center",
            ncols=min(len(names), 2 if width == 1 and longest > LONG_NAME else 2 * width + 1),
        )
        write_picture(path, figure, dpi=150)


def draw_levels(axis: "Axes", heights: Sequence[tuple[str, float]]) -> None:
    """Draw named horizontal lines; the name of one close below another stands below its line.

    Args:
        axis: Chart, on which all else is drawn.
        heights: Names and heights of the lines.
    """
    for _, value in heights:
        axis.axhline(value, color=COLOURS[0], linestyle=":", linewidth=1)
    low, high = axis.get_ylim()
    above = high + (high - low)
    for name, value in sorted(heights, key=lambda level: level[1], reverse=True):
        side = "top" if above - value < NEAR * (high - low) else "bottom"
        axis.text(0.01, value, name, transform=axis.get_yaxis_transform(), va=side, fontsize=8)
        above = value


def write_picture(path: Path, figure: "Figure", *, dpi: int) -> None:
    """Write a matplotlib figure as its file's ending says; the same figure gives the same bytes."""
    buffer, format = io.BytesIO(), path.suffix[1:]
    dated = {"png": "Software", "pdf": "CreationDate", "svg": "Date"}[format]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # names in other scripts
        figure.savefig(buffer, dpi=dpi, format=format, metadata={dated: None})
    write_bytes(path, buffer.getvalue())


def draw(
    axis: "Axes", panel: Panel, measure: str, lines: Mapping[str, Mapping[str, Any]], level: float
) -> None:
    """Draw a measurement's curves with their intervals.

    Args:
        axis: Matplotlib's axes.
        panel: The runs.
        measure: Name of the measurement.
        lines: Style of each reward's line, in the order of drawing.
        level: Confidence level of the intervals.
    """
    for name in [name for name in lines if name in panel.rewards]:
        values = panel.rewards[name].values[measure]
        low, high = curve_interval(values, level, resamples=1_000)
        axis.plot(panel.steps, iqm(values, 0), **lines[name])
        colour = lines[name]["color"]
        axis.fill_between(panel.steps, low, high, color=colour, alpha=0.14, linewidth=0)
    axis.set_xlim(float(panel.steps[0]), float(panel.steps[-1]))


def plain(text: str) -> str:
    """Return a text that matplotlib does not read as a formula."""
    return printable(text).replace("$", r"\$")
