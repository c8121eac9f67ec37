"""reliability.png: how often a reward or preference model is right when it is so sure."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.envs.files import write_bytes
from tokengym.evaluation.report.figures import COLOURS, STYLE

if TYPE_CHECKING:
    from tokengym.rewards.maths.pairwise import ReliabilityBin


def save_reliability(path: Path, table: "Sequence[ReliabilityBin]", *, title: str = "") -> None:
    """Draw accuracy against confidence, with the share of the pairs in each bin below.

    On the diagonal a model is right as often as it says. The intervals are Wilson's, 95 %.

    Args:
        path: The PNG to write.
        table: From `tokengym.rewards.maths.pairwise.reliability`.
        title: Above the figure.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from tokengym.rewards.maths.pairwise import wilson_interval

    total = sum(row.pairs for row in table)
    # Not pyplot: a library leaves the user's figures, backend and settings alone.
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6, 4.0), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        above.plot([0.5, 1], [0.5, 1], color=COLOURS[0], linestyle="--", linewidth=1)
        for row in table:
            if row.accuracy is None or row.confidence is None:
                continue
            low, high = wilson_interval(row.accuracy, row.pairs)
            above.plot([row.confidence] * 2, [low, high], color=COLOURS[1], linewidth=1)
            above.plot(row.confidence, row.accuracy, "o", color=COLOURS[1], markersize=4)
        below.bar(
            [row.low for row in table],
            [row.pairs / total for row in table],
            width=[row.high - row.low for row in table],
            align="edge",
            color=COLOURS[1],
            alpha=0.5,
        )
        above.set(xlim=(0.5, 1), ylim=(0, 1), ylabel="accuracy", title=title)
        below.set(xlabel="confidence", ylabel="pairs")
        below.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
        _write(figure, path)


def _write(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
