"""A comparison in a paper: a figure of one column, and a table in LaTeX or Markdown."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokengym.evaluation.report.curves import Curve
from tokengym.evaluation.report.figures import write_paper_figure
from tokengym.evaluation.report.tables import Style, group_table

INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}
"""Inches of a unit; pt is TeX's, as in ``\\the\\columnwidth``."""


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
