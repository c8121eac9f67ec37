"""Pictures of the tests: drawn and written, and laid out where a test looks at them.

The layout of a chart takes four fifths of its time, in each command and comparison of the tests,
and the marks of its axes half of the rest. Its lines, bands, titles and legends are always drawn.
"""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

LOOKED_AT = (
    *("evaluation/report/test_figures.py", "evaluation/report/test_paper.py"),
    *("evaluation/report/test_report.py", "test_prices_of_the_kl_are_compared"),
)
"""Tests that are of pictures, and one that draws several groups of runs."""
_savefig: Any = Figure.savefig
_is_laid_out = False  # of processes too that the tests' server forks


def lay_out_for(test: str) -> None:
    """Lay pictures out whole from here on if the test of that address is of pictures."""
    global _is_laid_out
    _is_laid_out = any(folder in test for folder in LOOKED_AT)


def _draw_and_write(figure: Figure, *arguments: Any, **settings: Any) -> None:
    if not _is_laid_out:
        figure.set_layout_engine(None)
        for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
            axis.set_major_locator(NullLocator())
            axis.set_minor_locator(NullLocator())
        settings |= {"dpi": 40}
    _savefig(figure, *arguments, **settings)


Figure.savefig = _draw_and_write  # type: ignore[method-assign, assignment]
