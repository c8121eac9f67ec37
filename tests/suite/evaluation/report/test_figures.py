"""Pictures of learning curves."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.support.evaluation.common import references
from tokengym.evaluation.report.figures import STYLE, draw_levels, plot_curves
from tokengym.evaluation.report.summary import SummarySettings, summarize


@pytest.mark.parametrize("gap", [0.0, 0.04, 0.2, 1.5])
def test_names_of_levels_do_not_overlap(gap):
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.3, 3.3), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axis = figure.subplots()
        axis.plot([0.0, 8.0], [0.0, 2.5])
        draw_levels(axis, [("optimum, at least", 3.0 - gap), ("best of 16", 3.0)])
        canvas.draw()
        first, second = (text.get_window_extent() for text in axis.texts)
        right = axis.get_window_extent().x1
        width = figure.bbox.width
    assert first.y0 >= second.y1  # pixels, from below
    assert {text.get_text() for text in axis.texts} == {"best of 16", "optimum,\nat least"}
    assert right < first.x0 < first.x1 < width  # beside the curves, within the picture
    assert right < second.x0 < second.x1 < width


def test_a_measurement_is_drawn_against_what_runs_have_spent(make_curves):
    curves = make_curves(("sparse", "abc"))
    summary = summarize(curves, SummarySettings(kl_coef=0.05, references=references()))
    axis = plot_curves(Figure().subplots(), summary, curves, y="gold_score", x="tokens")
    sparse, abc, *_ = axis.lines
    assert np.asarray(sparse.get_xdata()).tolist() == [100.0 * step for step in range(0, 31, 3)]
    ends = [curve.values["gold_score"][-1] for curve in curves if curve.credit == "abc"]
    assert np.asarray(abc.get_ydata())[-1] == pytest.approx(sum(ends) / 5)
    assert (sparse.get_linestyle(), abc.get_linestyle()) == ("--", "-")
    assert len(axis.collections) == 2
    legend = axis.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["sparse", "abc"]
    assert {text.get_text() for text in axis.texts} == {"best of 4", "best of 16"}


def test_intervals_can_be_left_out_and_unknown_names_are_refused(make_curves):
    curves = make_curves(("sparse", "abc"))
    summary = summarize(curves)
    assert not plot_curves(Figure().subplots(), summary, curves, intervals=False).collections
    path = plot_curves(Figure().subplots(), summary, curves, x="kl")
    assert path.get_xlabel() == "KL to the reference (nats)"
    with pytest.raises(ValueError, match=r"'scor'.*'score'"):
        plot_curves(Figure().subplots(), summary, curves, y="scor")
    with pytest.raises(ValueError, match=r"'minutes'.*step, tokens"):
        plot_curves(Figure().subplots(), summary, curves, x="minutes")
