import numpy as np
import pytest

from tokengym.evaluation.report.charts import Interval, Series, interval_chart, line_chart, ticks


def test_ticks_are_round_and_inside():
    assert ticks(-0.5, 1.6, 5) == [-0.5, 0.0, 0.5, 1.0, 1.5]
    assert ticks(0.0, 7.0, 3) == [0.0, 2.5, 5.0]
    for low, high in ((0.001, 0.0017), (-3e5, 7e8), (99.0, 100.0)):
        found = ticks(low, high, 5)
        assert 2 <= len(found) <= 6
        assert all(low <= value <= high for value in found)


def test_a_line_lies_where_its_values_say():
    series = Series(
        name="a",
        colour=0,
        x=np.array([0.0, 10.0]),
        y=np.array([0.0, 1.0]),
        low=np.array([0.0, 0.0]),
        high=np.array([1.0, 1.0]),
    )
    chart = line_chart([series], width=400.0, height=200.0)
    (x0, y0), (x1, y1) = chart.lines[0].points
    assert (x0, x1) == (chart.left, chart.right)
    assert y0 > y1  # higher values are further up
    height = chart.bottom - chart.top
    assert y0 - y1 == pytest.approx(height / 1.08, abs=0.2)  # 4 % of room at either end
    assert chart.lines[0].band.startswith("M")
    assert chart.lines[0].band.endswith("Z")
    assert line_chart([series], width=400.0, height=200.0, whole_x=True).x_ticks[0].text == "0"


def test_levels_are_drawn_within_the_chart_and_their_names_apart():
    series = Series(name="a", colour=0, x=np.array([0.0, 10.0]), y=np.array([0.0, 1.0]))
    named = [("low", -1.0), ("best", 4.0), ("nearly", 3.99)]
    chart = line_chart([series], width=400.0, height=200.0, levels=named)
    assert [level.parts for level in chart.levels] == [["best"], ["nearly"], ["low"]]
    best, nearly, low = chart.levels
    assert chart.top < best.at < nearly.at < low.at < chart.bottom
    assert best.text_at == pytest.approx(best.at + 4.0, abs=0.1)  # beside its line
    assert nearly.text_at - best.text_at >= 14.0  # though the lines are a pixel apart
    assert low.text_at == pytest.approx(low.at + 4.0, abs=0.1)
    assert chart.width - chart.right > 6.0 * len("nearly")  # no curve is where the names are
    zero = chart.lines[0].points[0][1]
    assert zero == pytest.approx(low.at + (best.at - low.at) / 5.0, abs=0.1)
    named = [("optimum, at least", 4.0), ("best of 16", 3.9)]  # two lines push the next down
    optimum, best = line_chart([series], width=400.0, height=200.0, levels=named).levels
    assert optimum.parts == ["optimum,", "at least"]
    assert best.text_at - optimum.text_at >= 28.0


def test_a_gap_is_joined_thinly():
    gaps = np.array([False, True])
    at = np.array([0.0, 1.0, 2.0])
    (line,) = line_chart(
        [Series(name="a", colour=0, x=at, y=at, gaps=gaps)], width=400.0, height=200.0
    ).lines
    assert [line.path.count(pen) for pen in "ML"] == [2, 1]
    assert [line.leaps.count(pen) for pen in "ML"] == [2, 1]
    assert line.leaps.rindex("L") > line.leaps.rindex("M")  # the second step, not the first


def test_intervals_lie_around_zero():
    rows = [
        Interval("up", "1.000", "3 of 3 higher", 0, 0.5, 1.0, 1.5, True),
        Interval("either", "0.100", "2 of 3 higher", 1, -0.5, 0.1, 0.7, False),
    ]
    chart = interval_chart(rows, width=300.0)
    (up, either), zero = chart["rows"], chart["zero"]
    assert zero < up.low < up.mid < up.high
    assert either.low < zero < either.high
    assert (up.clear, either.clear) == (True, False)
    assert (up.name, up.whole_name, up.note) == ("up", "", "3 of 3 higher")
    assert either.y - up.y > 44.0  # two lines of text above each


@pytest.mark.parametrize("name", ["leave-one-out:of=the whole response, by sentences", "字" * 30])
def test_a_long_name_leaves_room_for_its_figure(name: str):
    row = Interval(name, "0.000", "1 of 2 higher; measuring ± 0.0213", 0, -0.1, 0.0, 0.1, False)
    (shown,) = interval_chart([row], width=400.0)["rows"]
    assert shown.whole_name == name
    assert shown.name.endswith("…")
    assert name.startswith(shown.name[:-1])
    wide = 13.0 if name[0] == "字" else 7.8  # pixels of a letter at the page's 13 px
    assert 12.0 + wide * len(shown.name) + 7.8 * len("  0.000") <= 400.0 - 12.0
    (whole,) = interval_chart([row._replace(name="leave-one-out")], width=400.0)["rows"]
    assert (whole.name, whole.whole_name) == ("leave-one-out", "")
