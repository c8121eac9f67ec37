"""One response's token rewards as a picture."""

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure

from tokengym.evaluation.statistics import Array


class HeatMap(Figure):
    """A row per rule, relative to its strongest token, and a column per token.

    Args:
        rows: Rule -> (n,) token rewards; blue is paid, red is charged.
        words: Texts of the n tokens.
    """

    def __init__(self, rows: Mapping[str, Array], words: Sequence[str]) -> None:
        size = (2 + 0.27 * len(words), 1 + 0.35 * len(rows))
        super().__init__(figsize=size, layout="constrained")
        axes = self.subplots()
        shares = [row / (np.abs(row).max() or 1.0) for row in rows.values()]
        axes.imshow(shares, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_xticks(range(len(words)), words, rotation=60, ha="right", fontsize=8)

    def _repr_png_(self) -> bytes:
        """Return the picture for a notebook; Jupyter knows pyplot's figures alone."""
        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
