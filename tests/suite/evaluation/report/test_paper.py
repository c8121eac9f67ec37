"""Figures and tables for a paper."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from tests.support.evaluation.common import group_of, references
from tokengym.base.text import number
from tokengym.evaluation.report.curves import make_panels
from tokengym.evaluation.report.figures import Paper, draw
from tokengym.evaluation.report.summary import SummarySettings, summarize
from tokengym.evaluation.report.tables import group_table, latex


@pytest.mark.parametrize(
    ("ending", "begins"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")]
)
def test_a_figure_is_as_wide_as_it_is_asked_to_be(make_curves, tmp_path, ending, begins):
    curves = make_curves()
    summary = summarize(curves, SummarySettings(kl_coef=0.05))
    for name in ("one", "two"):
        file = tmp_path / f"{name}.{ending}"
        Paper(figure=file, measure=("score", "kl")).write(summary, curves)
    one, two = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("one", "two"))
    assert one == two
    assert one.startswith(begins)
    size = {"pdf": b"/MediaBox [ 0 0 234 ", "svg": b'width="234pt"', "png": b"\x00\x00\x03\xcf"}
    assert size[ending] in one  # 3.25 inches of 72 points, and of 300 pixels
    if ending == "pdf":
        assert b"/Type3" not in one
    if ending == "svg":
        single = tmp_path / "single.svg"
        Paper(figure=single).write(summary, curves)
        assert single.read_text().count('id="axes_') == 1 < one.count(b'id="axes_') == 2


def test_ticks_of_updates_are_whole_numbers(make_curves):
    (panel,) = make_panels(make_curves(("sparse",), seeds=2))
    axis = Figure(figsize=(3.25, 2)).subplots()
    runs = panel.rewards["sparse"]
    runs = replace(runs, steps=runs.steps / runs.steps[-1])
    short = replace(panel, rewards={"sparse": runs})
    draw(axis, short, "score", {"sparse": {"color": "k"}}, 0.95)
    assert [tick for tick in axis.get_xticks() if 0 <= tick <= 1] == [0, 1]


def test_lines_can_be_told_without_colours(make_curves, tmp_path):
    names = ("sparse", "uniform", "abc", "red", "scar", "mc", "pure")
    curves = make_curves(names, seeds=2)
    drawn: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "tokengym.evaluation.report.figures.draw",
            lambda axis, panel, measure, lines, level: drawn.extend(lines.values()),
        )
        Paper(figure=tmp_path / "a.png").write(summarize(curves), curves)
    assert len({(str(line["linestyle"]), line["marker"]) for line in drawn}) == len(names)


def test_labels_have_units_and_room(make_curves, tmp_path, monkeypatch):
    drawn: list[Any] = []
    monkeypatch.setattr(
        "tokengym.evaluation.report.figures.write_picture",
        lambda path, figure, dpi: drawn.append(figure),
    )
    curves = make_curves()
    summary = summarize(curves, SummarySettings(kl_coef=0.05))
    for measures in (("kl",), ("kl", "net_score")):
        Paper(figure=tmp_path / "a.pdf", measure=measures).write(summary, curves)
        figure = drawn.pop()
        figure.draw_without_rendering()
        axis = figure.axes[0]
        label = axis.get_ylabel() if len(measures) == 1 else axis.get_title(loc="left")
        assert " ".join(label.split()) == "KL to the reference (nats)"
        assert axis.get_xlabel() == "Updates"
        boxes = [axis.get_tightbbox() for axis in figure.axes]
        assert all(0 <= box.x0 < box.x1 <= figure.bbox.width for box in boxes)
        assert all(one.x1 <= two.x0 for one, two in pairwise(boxes))


def test_a_table_is_latex_or_markdown(make_curves):
    summary = summarize(make_curves(("sparse", "abc_d|%")), SummarySettings(kl_coef=0.05))
    (group,) = summary.groups
    lines = group_table(group, 0.95, "LaTeX").splitlines()
    assert lines[0].startswith("% Mean and 95% t interval over 5 seeds; ")
    assert lines[1:3] == [r"\begin{tabular}{lrrrrr}", r"\toprule"]
    assert lines[3] == r"Reward & Score & Score & Score & Gold score & KL (nats) \\"
    nats = f"at {number(group.equal_kl)} nats"
    assert lines[4] == rf" & over the run & at the end & {nats} & at the end & at the end \\"
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert lines[8].startswith(r"abc\_d|\% & ")
    assert lines[9].startswith(r" & \scriptsize ")  # the interval
    assert all(line.count("&") == 5 for line in (*lines[3:5], *lines[6:-2]))
    head, rule, *rows = group_table(group, 0.95, "Markdown", ["kl"]).splitlines()[:4]
    assert (head, rule) == ("| Reward | KL (nats) at the end |", "| --- | ---: |")
    assert rows[1].startswith("| abc_d\\|% | ")
    with pytest.raises(ValueError, match=r"'klx'.*'kl'"):
        group_table(group, 0.95, "Markdown", ["klx"])
    unlike = group_of([*make_curves(("sparse",), seeds=10), *make_curves(("abc",), seeds=3)])
    assert "over 3 to 10 seeds;" in group_table(unlike, 0.95, "Markdown")
    group = group_of(make_curves(), kl_coef=0.05, references=references())
    head = group_table(group, 0.95, "Markdown").splitlines()[0]
    assert head.endswith(" | KL (nats) at the end | Normalised score (1: best of 16) at the end |")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"figure": Path("a.jpg")}, "got 'a.jpg'"),
        ({"width": "84mm", "columns": 2}, "columns=2 has no effect beside width 84mm"),
        ({"width": "3"}, "got '3'"),
        ({"width": "900in"}, "1 to 40 inches"),
        ({"measure": ("kl",)}, "measure kl has no effect without a figure or a table"),
        ({"columns": 2}, "columns 2 has no effect without a figure; name its file"),
        ({"width": "84mm", "table": "latex"}, "width 84mm has no effect without a figure"),
    ],
)
def test_what_cannot_be_drawn_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Paper(**settings)


def test_units_are_those_of_papers():
    figure = Path("a.pdf")
    assert Paper(figure=figure).inches == 3.25
    assert Paper(figure=figure, columns=2).inches == 6.75
    assert Paper(figure=figure, width="84mm").inches == pytest.approx(3.307, abs=1e-3)
    assert Paper(figure=figure, width="240pt").inches == pytest.approx(3.321, abs=1e-3)
    assert latex("a_b & 5% \\x\n\u22121") == r"a\_b \& 5\% \textbackslash{}x $-$1"
