"""Pictures of curves by matplotlib: curves.png beside a report; a figure and a table for a paper.

They are for those who look at a folder, or write: an image that stands in a README or in LaTeX. The
page's own charts (`charts`) are SVG in the page, for those who read it: they point at a line, hide
one, or change the axis, which no image can do.
"""

import io
import re
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tokengym.base.files import write_bytes
from tokengym.envs import printable
from tokengym.evaluation.measure.measures import AXES, check_measures, measure_of
from tokengym.evaluation.report.curves import Panel, group_label, make_panels
from tokengym.evaluation.report.facts import Summary
from tokengym.evaluation.report.sentences import against
from tokengym.evaluation.report.tables import Style, group_table, reference_levels
from tokengym.evaluation.statistics import student_interval
from tokengym.evaluation.statistics.curve import Curve

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
LINE = 0.055
"""Share of a chart's height that a line of a level's name takes."""
AGAINST_KL = "score against KL"
"""Panel of the frontier, which is no measurement over time."""
LONG_NAME = 12
"""Letters of a name; of longer ones no three stand beside each other over one chart."""


def save_figure(path: Path, summary: Summary, curves: Sequence[Curve]) -> None:
    """Draw every setting's curves: a panel per measurement, and score against KL."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels = make_panels(curves, kl_coef=summary.kl_coef)
    references = {group.key: group.reference for group in summary.groups}
    lines = line_styles(summary)
    labels = {
        name: m.label
        for name, m in summary.table.items()
        if (m.short or m.ranked) and all(name in panel.measures for panel in panels)
    }
    if len(labels) == 1 and len(panels) > 1:  # only scores: groups side by side
        cells = [(panel, "score", group_label(panel.group)) for panel in panels]
        width = 2 if len(cells) == 4 else min(len(cells), 3)
    else:
        if all(group.compares_kl for group in summary.groups):
            labels[AGAINST_KL] = against(labels["score"], measure_of("kl").word)
        cells = [
            (panel, name, f"{label} ({group_label(panel.group)})" if panel.group else label)
            for panel in panels
            for name, label in labels.items()
        ]
        is_long = len(panels) == 1 and len(labels) > 3
        width = -(-len(labels) // 2) if is_long else len(labels)
    height = -(-len(cells) // width)
    # Not pyplot: a library leaves the user's figures, backend and settings alone.
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.3 * width + 0.4, 3.3 * height + 0.5), layout="constrained")
        axes = figure.subplots(height, width, squeeze=False)
        for axis in axes.flat[len(cells) :]:
            axis.set_visible(False)
        for axis, (panel, measure, title) in zip(axes.flat, cells, strict=False):
            axis.set_title(plain(title))
            if measure == AGAINST_KL:
                draw_against_kl(axis, panel, lines)
                axis.set_xlabel(measure_of("kl").label)
                continue
            draw(axis, panel, measure, lines, summary.level)
            draw_levels(axis, reference_levels(references[panel.group], measure))
            axis.set_xlabel(AXES[summary.axis])
        longest = max(map(len, lines))
        figure.legend(
            [Line2D([], [], **style) for style in lines.values()],
            [plain(name) for name in lines],
            loc="outside upper center",
            ncols=min(len(lines), 2 if width == 1 and longest > LONG_NAME else 2 * width + 1),
        )
        write_picture(path, figure, dpi=150)


def plot_curves(
    axis: "Axes",
    summary: Summary,
    curves: Sequence[Curve],
    *,
    y: str = "score",
    x: str | None = None,
    group: int = 0,
    intervals: bool = True,
    taken: int = 0,
) -> "Axes":
    """Draw one measurement of every reward, as in curves.png, with a legend.

    Args:
        axis: Axes to draw into.
        summary: Summary of the curves.
        curves: The curves.
        y: Measurement, see `tokengym.evaluation.measure.measures`.
        x: What it is drawn against: a name of `AXES`, or "kl"; None takes what runs are compared
            at equal amounts of.
        group: Index of the setting.
        intervals: Whether to draw the intervals over seeds.
        taken: Number of lines that others have drawn there, whose colours are left out.

    Returns:
        ``axis``.

    Raises:
        ValueError: if there is no such measurement.
    """
    from matplotlib.lines import Line2D

    panels = {panel.group: panel for panel in make_panels(curves, kl_coef=summary.kl_coef)}
    panel = panels[summary.groups[group].key]
    check_measures([y], panel.measures)
    lines, x = line_styles(summary, taken), x or summary.axis
    if x == "kl":
        check_measures(["kl"], panel.measures)
        draw_against_kl(axis, panel, lines, y)
    else:
        spent = [n for n in AXES if all(n in runs.values for runs in panel.rewards.values())]
        check_measures([x], [*dict.fromkeys([summary.axis, *spent]), "kl"])
        level = summary.level if intervals else None
        draw(axis, panel, y, lines, level, None if x == summary.axis else x)
        if not taken:  # what is beside others has the levels of the first
            draw_levels(axis, reference_levels(summary.groups[group].reference, y))
    axis.set_xlabel(summary.table["kl"].label if x == "kl" else AXES[x])
    axis.set_ylabel(plain(summary.measure(y).label))
    shown = _having(lines, panel, y, *(["kl"] if x == "kl" else []))
    handles = [Line2D([], [], **lines[name]) for name in shown]
    axis.legend(handles, [plain(name) for name in shown], frameon=False)
    return axis


def line_styles(summary: Summary, taken: int = 0) -> dict[str, dict[str, Any]]:
    """Return the style of each reward's line, by its name; the baseline's is dashed, if it is one.

    ``taken`` lines of others leave their colours out; no line is dashed then.
    """
    names = summary.arms
    baseline = None if taken or len(names) == 1 else summary.groups[0].baseline
    return {
        name: {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": "--" if name == baseline else "-",
            "linewidth": 1.8,
        }
        for index, name in enumerate(names, taken or len(names) == 1)
    }


def draw_levels(axis: "Axes", heights: Sequence[tuple[str, float]]) -> None:
    """Draw named horizontal lines, the names right of the chart, where no curve is."""
    for _, value in heights:
        axis.axhline(value, color=COLOURS[0], linestyle=":", linewidth=1)
    low, high = axis.get_ylim()
    room = np.inf
    for name, value in sorted(heights, key=lambda level: level[1], reverse=True):
        text = name.replace(", ", ",\n")
        size = LINE * (high - low) * (1 + text.count("\n"))
        middle = min(value, room - size / 2)
        place = axis.get_yaxis_transform()
        axis.text(1.01, middle, text, transform=place, va="center", fontsize=8, linespacing=1.0)
        room = middle - size / 2


def write_picture(path: Path, figure: "Figure", *, dpi: int) -> None:
    """Write a matplotlib figure as its file's ending says; the same figure gives the same bytes."""
    buffer, format = io.BytesIO(), path.suffix[1:]
    dated = {"png": "Software", "pdf": "CreationDate", "svg": "Date"}[format]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # names in other scripts
        figure.savefig(buffer, dpi=dpi, format=format, metadata={dated: None})
    write_bytes(path, buffer.getvalue())


def draw(
    axis: "Axes",
    panel: Panel,
    measure: str,
    lines: Mapping[str, Mapping[str, Any]],
    level: float | None,
    against: str | None = None,
) -> None:
    """Draw a measurement's curves, with their intervals at a level, if one is given.

    ``lines`` has the style of each reward's line; ``against`` is what runs have spent, in place of
    the panel's steps.
    """
    from matplotlib.ticker import MaxNLocator

    ends = []
    for name in _having(lines, panel, measure):
        runs = panel.rewards[name]
        x = runs.steps if against is None else runs.values[against].mean(axis=0)
        ends += [float(x[0]), float(x[-1])]
        axis.plot(x, runs.values[measure].mean(axis=0), **lines[name])
        if level is not None:
            _, low, high, _ = student_interval(runs.values[measure].T, level)
            colour = lines[name]["color"]
            axis.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)
    axis.set_xlim(min(ends), max(ends))
    # Updates and tokens are counts.
    axis.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))


def _having(names: Iterable[str], panel: Panel, *measures: str) -> list[str]:
    """Return the rewards of a panel, of these names, that have measurements."""
    runs = {name: panel.rewards[name] for name in names if name in panel.rewards}
    return [name for name, one in runs.items() if {*measures} <= one.values.keys()]


def draw_against_kl(
    axis: "Axes", panel: Panel, lines: Mapping[str, Mapping[str, Any]], measure: str = "score"
) -> None:
    """Draw the path of each reward's score over its KL, thin and dotted where an update leaps."""
    for name in _having(lines, panel, "kl", measure):
        runs = panel.rewards[name]
        kl, score = (runs.values[each].mean(axis=0) for each in ("kl", measure))
        at = np.flatnonzero(runs.gaps)
        axis.plot(np.insert(kl, at + 1, np.nan), np.insert(score, at + 1, np.nan), **lines[name])
        colour = lines[name]["color"]
        axis.plot(kl, score, "o", color=colour, markersize=2.5)
        for leap in at:
            ends = slice(leap, leap + 2)
            axis.plot(kl[ends], score[ends], color=colour, linestyle=":", linewidth=0.9)


def plain(text: str) -> str:
    """Return a text that matplotlib does not read as a formula."""
    return printable(text).replace("$", r"\$")


# --- for a paper ----------------------------------------------------------------------------------

INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}
"""Inches of a unit; pt is TeX's, as in ``\\the\\columnwidth``."""
COLUMN_WIDTHS = {1: 3.25, 2: 6.75}
"""Inches of a figure by the columns that it spans, as in ICML's style."""
PAPER_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito 2008, which colour-blind readers tell apart; the first is the baseline's."""
DASHES: tuple[Any, ...] = ("--", "-", (0, (5, 1)), (0, (1, 1)), (0, (4, 1, 1, 1)), "-.")
MARKERS = ("", "o", "s", "^", "D", "v", "P", "X")
"""Styles of lines: each has a combination of its own, so that it can be told in grey too."""
LETTER = 0.065
"""Inches that a letter of a title takes on average."""
PAPER_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # TrueType: type 3 is refused by many conferences
    "svg.hashsalt": "tokengym",  # the same figure gives the same bytes
}


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Figure and table of a comparison for a paper.

    Raises:
        ValueError: if the width or the figure's ending is not known, or a setting has no effect.
    """

    figure: Path | None = None
    """Write the learning curves as a figure: a .pdf, .svg or .png."""
    table: Literal["latex", "markdown"] | None = None
    """Print the table of results, and nothing else."""
    measure: tuple[str, ...] = ()
    """Measurements: a panel each in the figure (default: score), the columns of the table."""
    columns: Literal[1, 2] = 1
    """Columns of the paper that the figure spans: one is 3.25 in wide, two are 6.75 in."""
    width: str | None = None
    """Any other width of the figure, in in, cm, mm or TeX's pt (default: that of its columns)."""

    def __post_init__(self) -> None:
        self.inches  # noqa: B018  refuses a wrong one
        if self.figure is not None and self.figure.suffix not in (".pdf", ".svg", ".png"):
            raise ValueError(f"figure must end in .pdf, .svg or .png, got {str(self.figure)!r}")
        if self.measure and self.figure is None and self.table is None:
            raise ValueError(
                f"measure {', '.join(self.measure)} has no effect without a figure or a table; ask "
                "for one, or leave it out"
            )
        for name in ("columns", "width") if self.figure is None else ():
            if (value := getattr(self, name)) not in (None, 1):
                raise ValueError(
                    f"{name} {value} has no effect without a figure; name its file, or leave it out"
                )

    @property
    def inches(self) -> float:
        """The figure's width."""
        if self.width is None:
            return COLUMN_WIDTHS[self.columns]
        if self.columns != 1:
            raise ValueError(
                f"columns={self.columns} has no effect beside width {self.width}; leave one out"
            )
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(in|cm|mm|pt)", self.width)
        if match is None or not 1 <= (inches := float(match[1]) * INCHES[match[2]]) <= 40:
            raise ValueError(
                f"width must be 1 to 40 inches, such as 3.25in, 84mm or 240pt; got {self.width!r}"
            )
        return inches

    def write(self, summary: Summary, curves: Sequence[Curve]) -> None:
        """Write the figure and print the table, whichever is asked for."""
        if self.figure is not None:
            self._draw(self.figure, summary, curves)
        if self.table is not None:
            style: Style = "LaTeX" if self.table == "latex" else "Markdown"
            tables = [group_table(g, summary.level, style, self.measure) for g in summary.groups]
            print("\n\n".join(tables))

    def _draw(self, path: Path, summary: Summary, curves: Sequence[Curve]) -> None:
        """Draw learning curves: a column of panels per measurement, a row per setting."""
        import matplotlib as mpl
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D

        panels = make_panels(curves, kl_coef=summary.kl_coef)
        measures, inches = self.measure or ("score",), self.inches
        for panel in panels:
            check_measures(measures, panel.measures)
        names, baseline = summary.arms, summary.groups[0].baseline
        lines: dict[str, dict[str, Any]] = {
            name: {
                "color": PAPER_COLOURS[number % len(PAPER_COLOURS)],
                "linestyle": DASHES[number % len(DASHES)],
                "marker": MARKERS[number % len(MARKERS)],
                "markevery": (number % 3, 3),
                "clip_on": False,  # a marker at the end is drawn whole
            }
            for number, name in enumerate(sorted(names, key=lambda name: name != baseline))
        }
        across, down = len(measures), len(panels)
        with mpl.rc_context(PAPER_STYLE):
            height = down * ((0.68 if across == 1 else 1.05) * inches / across) + 0.25
            figure = Figure(figsize=(inches, height), layout="constrained")
            axes = figure.subplots(down, across, squeeze=False, sharex="row")
            for row, panel in zip(axes, panels, strict=True):
                for axis, measure in zip(row, measures, strict=True):
                    draw(axis, panel, measure, lines, summary.level)
                    title = plain(summary.measure(measure).label)
                    room = int((0.5 if across == 1 else 0.8) * inches / across / LETTER)
                    (axis.set_ylabel if across == 1 else axis.set_title)(textwrap.fill(title, room))
                    axis.set_xlabel(AXES[summary.axis].capitalize())
                if label := plain(group_label(panel.group)):
                    row[0].annotate(label, (0.02, 1), xycoords="axes fraction")
            figure.legend(
                [Line2D([], [], **{**lines[name], "markevery": None}) for name in names],
                [plain(name) for name in names],
                loc="outside upper center",
                ncols=max(1, min(len(names), int(inches / 1.05))),
            )
            write_picture(path, figure, dpi=300)
