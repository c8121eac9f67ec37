"""The named levels of learning curves do not overlap."""

import pytest

from tokengym.evaluation.report.figures import STYLE, draw_levels


@pytest.mark.parametrize("gap", [0.0, 0.04, 0.2, 1.5])
def test_names_of_levels_do_not_overlap(gap):
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
