"""One response's token rewards as a picture."""

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure

from tokengym.envs import Turn
from tokengym.lab.replay.agreement import Array


class HeatMap(Figure):
    """A row per rule, relative to its strongest token, and a column per token.

    Args:
        rows: Rule -> (n,) token rewards; blue is paid, red is charged.
        words: Texts of the n tokens.
        turns: Turns of a conversation; lines divide them, and the tokens of replies are hatched.
    """

    def __init__(
        self, rows: Mapping[str, Array], words: Sequence[str], turns: Sequence[Turn] = ()
    ) -> None:
        size = (2 + 0.27 * len(words), 1 + 0.35 * len(rows))
        super().__init__(figsize=size, layout="constrained")
        axes = self.subplots()
        shares = [row / (np.abs(row).max() or 1.0) for row in rows.values()]
        axes.imshow(shares, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_xticks(range(len(words)), words, rotation=60, ha="right", fontsize=8)
        for role, _, (begin, end), _ in turns:
            if end == begin:
                continue
            axes.text(begin - 0.4, -0.6, role, fontsize=8, va="bottom")
            axes.axvline(begin - 0.5, color="black", linewidth=1)
            if role != "assistant":
                axes.axvspan(begin - 0.5, end - 0.5, facecolor="0.93", edgecolor="0.6", hatch="//")

    def _repr_png_(self) -> bytes:
        """Return the picture for a notebook; Jupyter knows pyplot's figures alone."""
        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
