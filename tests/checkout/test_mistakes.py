"""The page of mistakes: its figures are the data's, and every section has its plot."""

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from matplotlib.figure import Figure

from docs.makers import build_plots
from docs.makers.build_plots import column, curves, read

PAGE = (Path(__file__).parents[2] / "docs" / "guide" / "mistakes.md").read_text(encoding="utf-8")


def section(number: int) -> str:
    (text,) = re.findall(rf"^## {number}\. .*?(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return text


def test_every_section_has_its_plot_and_a_remedy():
    for number, name in enumerate(build_plots.PLOTS, 1):
        assert f"](../images/mistakes/{name}.png)" in section(number)
        assert "**Do:** " in section(number)
        assert (build_plots.FOLDER / f"{name}.png").stat().st_size < 80_000


def test_the_figures_are_those_of_the_data():
    levels = build_plots.lambda_levels()
    assert f"from {levels['sparse'][1]:.2f} to {levels['sparse'][0]:.2f}" in section(2)
    assert int(np.argmax(levels["abc-signed"])) == 0
    _, low, high = build_plots.seed_spread()
    assert f"from {low[0]:.2f} to {high[0]:.2f}".replace("-", "\u2212") in section(3)
    own, other, _ = build_plots.field_accuracy().values()
    assert f"in {own:.0%} of pairs".replace("%", " %") in section(4)
    assert f"at chance: {other:.0%}".replace("%", " %") in section(4)
    own, *others = build_plots.unread_shares().values()
    assert own == 0
    assert all(0.4 < share < 0.6 for share in others)
    _, ends = curves(
        read("overoptimisation/runs.csv", task="Dialogue", price="0.05", rule="sparse"),
        column("gold_score"),
        "step",
    )
    assert f"gold score of {ends[:, -1].mean():.2f}" in section(6)
    assert f"responses {build_plots.best_of('Dialogue', 16):.2f}" in section(6)
    sparse, *rules = build_plots.gradient_noise().values()
    assert sparse > 64 * 50
    assert all(64 < rule < sparse for rule in rules)
    last = read("earlier/mc.csv")[-1]
    assert round(int(last["tokens"]) / (48 * int(last["episodes"]))) in (5, 6)


def test_the_band_of_a_line_is_that_of_its_mean():
    values = np.array([[0.0], [0.0], [0.0], [0.0], [5.0]])
    axes = Figure().subplots()
    build_plots.draw_line(axes, np.zeros(1), values, "", "black")
    (band,) = axes.collections
    found = scipy.stats.ttest_1samp(values[:, 0], 0.0).confidence_interval()
    (drawn,) = band.get_paths()
    heights = np.asarray(drawn.vertices)[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((found.low, found.high))
