"""Pictures of the tests: drawn and written, and laid out where a test looks at them.

The layout of a chart takes four fifths of its time, in each command and comparison of the tests.
"""

from typing import Any

from matplotlib.figure import Figure

LOOKED_AT = ("evaluation/report/",)
"""Folders whose tests are of pictures."""
_savefig: Any = Figure.savefig
_is_laid_out = False  # of processes too that the tests' server forks


def lay_out_for(test: str) -> None:
    """Lay pictures out from here on if the test of that address is of pictures."""
    global _is_laid_out
    _is_laid_out = any(folder in test for folder in LOOKED_AT)


def _draw_and_write(figure: Figure, *arguments: Any, **settings: Any) -> None:
    if not _is_laid_out:
        figure.set_layout_engine(None)
        settings |= {"dpi": 40}
    _savefig(figure, *arguments, **settings)


Figure.savefig = _draw_and_write  # type: ignore[method-assign, assignment]
