"""The diagram of a reward model's calibration, and the named levels of learning curves."""

from pathlib import Path

import numpy as np
import pytest

from tokengym.evaluation.report.figures import STYLE, draw_levels, save_reliability
from tokengym.rewards.maths.pairwise import reliability


def test_it_is_a_small_picture_and_the_same_each_time(tmp_path: Path) -> None:
    table = reliability(np.random.default_rng(0).normal(0.5, 2.0, 200))
    for name in ("one", "two"):
        save_reliability(tmp_path / f"{name}.png", table, title="reward model")
    one, two = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "two"))
    assert one.startswith(b"\x89PNG")
    assert one == two
    assert len(one) < 60_000


def test_empty_bins_are_left_out(tmp_path: Path) -> None:
    save_reliability(tmp_path / "a.png", reliability([3.0]))
    assert (tmp_path / "a.png").stat().st_size > 0


@pytest.mark.parametrize("gap", [0.0, 0.04, 0.2, 1.5])
def test_names_of_levels_do_not_overlap(gap: float) -> None:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.3, 3.3), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axis = figure.subplots()
        axis.plot([0.0, 8.0], [0.0, 2.5])
        draw_levels(axis, [("optimum, at least", 3.0 - gap), ("best of 16", 3.0)])
        canvas.draw()
        first, second = (text.get_window_extent() for text in axis.texts)
    assert first.y0 >= second.y1  # pixels, from below
    assert {text.get_text() for text in axis.texts} == {"best of 16", "optimum, at least"}
