"""A comparison in a paper: a figure of one column, and a table in LaTeX or Markdown."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokengym.evaluation.measure.measures import AXES, check_measures, measure_of
from tokengym.evaluation.report.curves import Curve, group_label, make_panels
from tokengym.evaluation.report.figures import draw, plain, write_picture
from tokengym.evaluation.report.tables import Style, group_table

INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}
"""Inches of a unit; pt is TeX's, as in ``\\the\\columnwidth``."""
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito 2008, which colour-blind readers tell apart; the first is the baseline's."""
DASHES: tuple[Any, ...] = ("--", "-", (0, (5, 1)), (0, (1, 1)), (0, (4, 1, 1, 1)), "-.")
MARKERS = ("", "o", "s", "^", "D", "v", "P", "X")
"""Styles of lines: each has a combination of its own, so that it can be told in grey too."""
LETTER = 0.065
"""Inches that a letter of a title takes on average."""
STYLE: dict[Any, Any] = {
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
        ValueError: if the width or the figure's ending is not known.
    """

    figure: Path | None = None
    """Write the learning curves as a figure: a .pdf, .svg or .png."""
    table: Literal["latex", "markdown"] | None = None
    """Print the table of results, and nothing else."""
    measure: tuple[str, ...] = ()
    """Measurements: a panel each in the figure (default: score), the columns of the table."""
    width: str = "3.25in"
    """Width of the figure in in, cm, mm or TeX's pt."""

    def __post_init__(self) -> None:
        self.inches  # noqa: B018  refuses a wrong one
        if self.figure is not None and self.figure.suffix not in (".pdf", ".svg", ".png"):
            raise ValueError(f"figure must end in .pdf, .svg or .png, got {str(self.figure)!r}")

    @property
    def is_asked(self) -> bool:
        """Whether there is something to write."""
        return self.figure is not None or self.table is not None

    @property
    def inches(self) -> float:
        """The figure's width."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(in|cm|mm|pt)", self.width)
        if match is None or not 1 <= (inches := float(match[1]) * INCHES[match[2]]) <= 40:
            raise ValueError(
                f"width must be 1 to 40 inches, such as 3.25in, 84mm or 240pt; got {self.width!r}"
            )
        return inches

    def write(self, summary: Mapping[str, Any], curves: Sequence[Curve]) -> None:
        """Write the figure and print the table, whichever is asked for."""
        if self.figure is not None:
            write_paper_figure(self.figure, summary, curves, self.measure, self.inches)
        if self.table is not None:
            style: Style = "LaTeX" if self.table == "latex" else "Markdown"
            level = float(summary["level"])
            tables = [group_table(g, level, style, self.measure) for g in summary["groups"]]
            print("\n\n".join(tables))


def write_paper_figure(
    path: Path,
    summary: Mapping[str, Any],
    curves: Sequence[Curve],
    measures: Sequence[str] = (),
    inches: float = 3.25,
) -> None:
    """Draw learning curves: a column of panels per measurement, a row per setting.

    Args:
        path: A .pdf, .svg or .png.
        summary: Summary of the curves.
        curves: The runs.
        measures: Measurements; none takes the score.
        inches: Width of the figure.

    Raises:
        ValueError: if a measurement was not taken.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels = make_panels(curves, kl_coef=summary["kl_coef"])
    measures = measures or ("score",)
    for panel in panels:
        check_measures(measures, panel.measures)
    names = list(dict.fromkeys(name for group in summary["groups"] for name in group["rewards"]))
    lines: dict[str, dict[str, Any]] = {}
    baseline = summary["groups"][0]["baseline"]
    for name in sorted(names, key=lambda name: name != baseline):
        number = len(lines)
        lines[name] = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": DASHES[number % len(DASHES)],
            "marker": MARKERS[number % len(MARKERS)],
            "markevery": (number % 3, 3),
            "clip_on": False,  # a marker at the end is drawn whole
        }
    across, down = len(measures), len(panels)
    # Not pyplot: a library leaves the user's figures, backend and settings alone.
    with mpl.rc_context(STYLE):
        height = down * ((0.68 if across == 1 else 1.05) * inches / across) + 0.25
        figure = Figure(figsize=(inches, height), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False, sharex="row")
        for row, panel in zip(axes, panels, strict=True):
            for axis, measure in zip(row, measures, strict=True):
                draw(axis, panel, measure, lines, float(summary["level"]))
                title = plain(measure_of(measure, summary["by_gold"]).label)
                room = int((0.5 if across == 1 else 0.8) * inches / across / LETTER)
                (axis.set_ylabel if across == 1 else axis.set_title)(textwrap.fill(title, room))
                axis.set_xlabel(AXES[summary["axis"]].capitalize())
            if panel.group:
                row[0].annotate(
                    plain(group_label(panel.group)), (0.02, 1), xycoords="axes fraction"
                )
        figure.legend(
            [Line2D([], [], **{**lines[name], "markevery": None}) for name in names],
            [plain(name) for name in names],
            loc="outside upper center",
            ncols=max(1, min(len(names), int(inches / 1.05))),
        )
        write_picture(path, figure, dpi=300)
