import json
import math
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.support.evaluation.common import (
    cheaper,
    curves_of,
    fabricate_curves,
    group_of,
    leaping,
    paths_of,
    references,
    root_of,
)
from tokengym.agents.losses.ranking import best_of_n_kl_bound
from tokengym.base.files import write_json
from tokengym.base.text import number
from tokengym.evaluation.measure.measures import OF_POLICY
from tokengym.evaluation.measure.references import ReferenceSamples
from tokengym.evaluation.report.curves import on_axis
from tokengym.evaluation.report.facts import AtKl, Group, LostRun, Summary, UnscoredRun, Versus
from tokengym.evaluation.report.report import render_report
from tokengym.evaluation.report.summary import SummarySettings, summarize
from tokengym.evaluation.report.tables import Cell, cells, columns, group_table
from tokengym.evaluation.report.verdict import drift_of
from tokengym.evaluation.statistics import (
    Curve,
    area_under_curve,
    final_mean,
    holm,
    paired_difference,
    student_interval,
)
from tokengym.scripts.commands.show import _column, _figures, _speed, show_summary


def versus(group: Group, name: str) -> Versus:
    """Return how a reward compares with the baseline."""
    return group.rewards[name].versus_baseline


def cell_at_kl(group: Group, name: str) -> Cell:
    """Return a reward's cell in the column of scores at equal KL."""
    return cells(group)[name][[kind for _, _, kind in columns(group)].index("at_kl")]


def test_figures_are_those_of_the_curves():
    curves = fabricate_curves()
    group = group_of(curves, kl_coef=0.05, anchors={"score": -0.5})
    assert list(group.rewards) == ["sparse", "uniform", "abc"]
    sparse = [curve for curve in curves if curve.credit == "sparse"]
    areas = [area_under_curve(c.steps, c.values["score"]) / 30.0 for c in sparse]
    finals = [c.values["score"][-2:].mean() for c in sparse]  # a tenth of 11, rounded up
    figures = group.rewards["sparse"].figures
    assert figures["score"]["auc"].mean == pytest.approx(np.mean(areas))
    assert figures["score"]["final"].mean == pytest.approx(np.mean(finals))
    ends = [c.values["score"][-2:].mean() - 0.05 * c.values["kl"][-2:].mean() for c in sparse]
    assert figures["net_score"]["final"].mean == pytest.approx(np.mean(ends))
    assert "auc" not in figures["kl"]  # more is not better, so it is not ranked
    for found, level in ((group, 0.95), (group_of(curves, level=0.5), 0.5)):
        figure = found.rewards["sparse"].figures["score"]["auc"]
        assert (figure.low, figure.high) == pytest.approx(
            [float(e) for e in student_interval(areas, level)[1:3]]
        )


def test_scores_lie_between_fixed_anchors():
    anchors, optimum = {"score": -0.5, "gold_score": 0.1}, {"gold_score": 0.7}
    group = group_of(fabricate_curves(), anchors=anchors, optimum=optimum, own_prompts=True)
    figures = group.rewards["abc"].figures
    for key in ("mean", "low", "high"):  # made to rise from .1 to .6
        expected = (getattr(figures["gold_score"]["final"], key) - 0.1) / 0.6
        share = getattr(figures["normalised_gold_score"]["final"], key)
        assert share == pytest.approx(expected)
    assert figures["normalised_gold_score"]["final"].mean == pytest.approx(5 / 6, abs=0.05)


def test_a_share_of_a_way_that_may_be_noise_is_not_shown():
    """Starts of 0.9955 to 1.0035 are known to +- 0.0014, the best is 0.0005 above their mean."""
    curves = fabricate_curves(("sparse", "abc"))
    for curve in curves:
        curve.values["gold_score"][:] = 0.9955 + 0.002 * curve.seed
    start = 0.9995
    error = 0.002 * 2.5**0.5 / 5**0.5  # of 0 to 4 the variance is 2.5
    for best, is_shown in ((1.0, False), (start + 2.1 * error, True), (start + 1.9 * error, False)):
        settings: dict[str, Any] = {"anchors": {"gold_score": start}}
        settings["optimum"] = {"gold_score": best}
        for own_prompts in (True, False):  # of shared prompts nobody knows the error
            group = group_of(curves, **settings, own_prompts=own_prompts)
            shown = "normalised_gold_score" in group.rewards["abc"].figures
            assert shown == (is_shown and own_prompts)
    for curve in curves:  # of two responses a seed each start is known to +- 0.1
        responses: Any = curve.responses
        responses["gold_score"] = np.add.outer(curve["gold_score"], np.array([-0.1, 0.1]))
    for own_prompts, error in ((True, 0.1 / 5**0.5), (False, 0.1)):
        for best, is_shown in ((start + 2.1 * error, True), (start + 1.9 * error, False)):
            settings["optimum"] = {"gold_score": best}
            group = group_of(curves, **settings, own_prompts=own_prompts)
            shown = "normalised_gold_score" in group.rewards["abc"].figures
            assert shown == is_shown


def test_a_measurement_says_whose_prompts_it_is_of():
    """As with --eval-stream shared, where all seeds have the first prompts and one sampling."""
    curves = fabricate_curves()
    alike, own = (OF_POLICY[policy] for policy in ("measured alike", "measured"))
    for own_prompts, said, other in ((True, own, alike), (False, alike, own)):
        summary = summarize(curves, SummarySettings(own_prompts=own_prompts))
        assert {of["of"] for of in summary.measurements.values()} == {said}
        about = {"settings": {"env": "MovieReview"}}
        page = render_report(replace(summary, about=about), curves)
        assert f"Of {said}." in page
        assert f"Of {other}." not in page
    summary = summarize(curves, SummarySettings(logged={"score": "column score of mine.csv"}))
    assert {of["of"] for of in summary.measurements.values()} == {OF_POLICY["unknown"]}


def test_differences_are_between_runs_of_one_seed():
    """A seed is worth twice what the rewards differ by, and each has two that the other lacks."""
    steps = np.arange(11.0)
    curves = [
        Curve(credit=name, seed=seed, steps=steps, values={"score": worth + seed + 0.1 * steps})
        for name, worth, seeds in (("sparse", 0.0, range(7)), ("other", 0.5, range(2, 9)))
        for seed in seeds
    ]
    found = versus(group_of(curves), "other").differences["score"]
    for difference in (found["auc"], found["final"]):
        ends = [difference.difference, difference.low, difference.high]
        assert ends == pytest.approx([0.5] * 3)
        assert (difference.pairs, difference.wins) == (5, 5)


def test_a_pair_is_compared_over_the_steps_that_both_of_it_reached():
    """Other rises twice as fast; its run of seed 0 ends half way, and a third reward's sooner."""

    def run(name: str, seed: int, last: int, slope: float) -> Curve:
        steps = np.arange(last + 1.0)
        return Curve(credit=name, seed=seed, steps=steps, values={"score": slope * steps})

    curves = [run("sparse", seed, 20, 1.0) for seed in (0, 1)]
    curves += [run("other", 0, 10, 2.0), run("other", 1, 20, 2.0)]
    third = [run("third", seed, 5, 1.0) for seed in (0, 1)]
    for shown in (curves, [*curves, *third]):
        group = group_of(shown)
        found = versus(group, "other").differences["score"]
        # Over 10 steps other is 10 on average and sparse 5, over 20 steps 20 and 10.
        assert found["auc"].difference == pytest.approx((5.0 + 10.0) / 2)
        # The last 2 of 11 evaluations are at 9 and 10, the last 3 of 21 at 18, 19 and 20.
        assert found["final"].difference == pytest.approx((9.5 + 19.0) / 2)
        assert found["auc"].pairs == 2
    third_area = versus(group, "third").differences["score"]["auc"]
    assert third_area.difference == pytest.approx(0.0)  # of five steps, as its own


def test_a_later_run_is_no_start_of_the_others():
    """What they had gained before it began counts, and where it begins is not their start."""
    score = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 0.925, 0.85, 0.775, 0.7])
    curves = [
        Curve(
            credit=name,
            steps=np.arange(first, 11.0),
            values={"score": score[first:], "kl": 0.0 * score[first:]},
        )
        for name, first in (("sparse", 0), ("other", 5))
    ]
    group = group_of(curves, kl_coef=1.0)
    assert group.rewards["sparse"].collapse_rate == 0.0
    assert not any("below its start" in said for said in group.verdict.cautions)


def test_runs_are_set_on_the_way_to_best_of_16():
    """Of 16 responses one is worth 1.5; the curves rise from -.5 to 1.5 (1 - e^(-step / 15))."""
    curves = fabricate_curves()
    group = group_of(curves, kl_coef=0.05, references=references(), episodes=100)
    paid = 0.05 * best_of_n_kl_bound(16)
    start = np.mean([c.values["score"][0] - 0.05 * c.values["kl"][0] for c in curves])
    # One response of 16 differs by 2 + 2 / 15: the variance is its square / 16. Without it the best
    # of the others is -.5 - 2 / 15, else 1.5; prompts are alike, so that only c and v are left.
    gap, below = 2.0 + 2.0 / 15.0, -0.5 - 2.0 / 15.0
    variance = gap**2 / 16.0
    v, c = variance / 16.0, np.mean([-2.0 * below] + 15 * [2.0 / 15.0 * 1.5])
    error = ((2.0 * c - v) / 3.0 + variance / 100.0) ** 0.5
    ends = group.score_range
    assert (ends.measure, ends.n, ends.noise) == ("net_score", 16, None)
    of_range = (start, 1.5 - paid, error)
    assert (ends.start, ends.goal, ends.error) == pytest.approx(of_range)
    entry = group.rewards["sparse"]
    for kind, key in product(("final", "auc"), ("mean", "low", "high")):
        net, share = (
            getattr(entry.figures[name][kind], key) for name in ("net_score", "normalised_score")
        )
        assert share == pytest.approx((net - start) / (1.5 - paid - start))
    column = _column([entry], "norm.", "normalised_score", "final")
    assert column[1].plain.endswith("%")  # the terminal has no interval below a share
    assert group.reference.best_of_n[-1].gold_score == pytest.approx(0.6)
    by_score = group_of(curves, references=references())  # there is no price
    ends = by_score.score_range
    assert (ends.measure, ends.goal) == ("score", 1.5)
    figures = by_score.rewards["abc"].figures
    expected = (figures["score"]["final"].mean - ends.start) / (1.5 - ends.start)
    assert figures["normalised_score"]["final"].mean == pytest.approx(expected)


def test_a_normalised_score_that_may_be_noise_is_not_shown_anywhere():
    """The best of 16 hardly beats one response: a share of that span would be thousands of %."""
    scores = -0.52 + 0.01 * np.random.default_rng(0).normal(size=(3, 16))
    drawn = ReferenceSamples(scores=scores, gold_scores=None, tokens=2304)
    group = group_of(fabricate_curves(), kl_coef=0.001, references={(): drawn})
    for entry in group.rewards.values():
        assert "normalised_score" not in entry.figures
    shown = [row[-2:-1] for row in cells(group).values()]
    assert {cell.value for row in shown for cell in row} == {"\u2013"}
    latex, markdown = (
        group_table(group, 0.95, style, ["normalised_score"]) for style in ("LaTeX", "Markdown")
    )
    assert latex.count("& -- ") == markdown.count("| \u2013 ") == 3
    console = Console(width=200)
    with console.capture() as capture:
        for table in _figures(group, 200):
            console.print(table)
    head, *rows = [re.split(r"\s{2,}", line) for line in capture.get().splitlines()]
    at = head.index("norm.")
    assert [row[at] for row in rows if row[0] in group.rewards] == 3 * ["\u2013"]


def test_a_page_has_the_lines_its_samples_give():
    curves = fabricate_curves()
    page, plain = (
        render_report(summarize(curves, SummarySettings(kl_coef=0.05, references=drawn)), curves)
        for drawn in (references(), {})
    )
    # score, gold, KL and net score, against each of four axes
    assert page.count('class="level"') == 4 * (2 + 2 + 1 + 2)
    assert page.count('class="series c8"') == 3  # best-of-n beside each frontier
    for absent in ('class="level"', "c8"):
        assert absent not in re.sub(r"<style>.*?</style>", "", plain, flags=re.S)


def test_the_faster_reward_is_ahead_and_marked_as_good_and_a_slower_one_as_bad():
    marks = {}
    for baseline in ("sparse", "abc"):
        group = group_of(fabricate_curves(), baseline=baseline)
        assert group.baseline == baseline
        at = [(measure, kind) for _, measure, kind in columns(group)].index(("score", "auc"))
        rows = cells(group)
        marks[baseline] = {name: row[at].mark + row[at].tone for name, row in rows.items()}
    assert marks["sparse"] == {"sparse": "", "uniform": "", "abc": "\u25b2good"}
    assert marks["abc"] == {"abc": "", "sparse": "\u25bcbad", "uniform": "\u25bcbad"}
    found = versus(group_of(fabricate_curves()), "abc")
    assert found.differences["score"]["auc"].low > 0
    assert found.differences["score"]["auc"].wins == 5
    assert found.probability_of_improvement["score"]["auc"].probability == 1.0
    assert found.relative_steps.ratio == pytest.approx(0.5, abs=0.12)
    with pytest.raises(ValueError, match="red"):
        group_of(fabricate_curves(), baseline="red")


def test_a_lead_that_is_kl_not_spent_is_called_less_drift():
    """Both have all the score there is at 1 nat, soon; one spends half the KL."""
    curves = paths_of({"sparse": 8.0, "lazy": 4.0}, lambda _, kl: 2.0 * np.minimum(kl / 0.1, 1.0))
    group = group_of(curves, kl_coef=0.05)
    differences = versus(group, "lazy").differences
    assert differences["net_score"]["auc"].clear == 1  # ahead by what training maximises
    # The last 3 of 21 evaluations: 19 / 20 of 8 nats, where no run of lazy ever was.
    assert group.equal_kl == pytest.approx(7.6, rel=1e-3)
    assert "at_kl" not in differences["score"]
    assert cell_at_kl(group, "lazy").below == "not known, 0 of 6 pairs were there"
    # 4 nats on average, half of it: the area under a straight line to 8, and to 4
    assert differences["kl"]["auc"].difference == pytest.approx(-2.0, abs=0.01)


def test_a_lead_that_is_kl_spent_sooner_has_its_size():
    """Both have the same score at each KL; one spends twice the KL."""
    differences = versus(group_of(root_of({"sparse": 4.0, "hasty": 8.0})), "hasty").differences
    # The mean of sqrt(x) on 0 to 1 is 2 / 3, by trapezes of 1 / 20 slightly less.
    expected = 2.0 / 3.0 * (8.0**0.5 - 2.0)
    assert differences["score"]["auc"].difference == pytest.approx(expected, abs=0.01)
    # The last 3 of 21 evaluations: 19 / 20 of 4 nats, and of gold half the difference of the roots.
    expected = 0.5 * (7.6**0.5 - 3.8**0.5)
    assert differences["gold_score"]["final"].difference == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("area", "kl", "wins", "equal", "drift"),
    [
        (1, 1, 5, (0, 0.9, 5), "more"),
        (1, 0, 5, (0, 0.9, 5), "more"),  # on every seed
        (1, 0, 4, (0, 0.9, 5), ""),
        (1, 1, 5, (0, 1.1, 5), "unknown"),  # it may lead by more than half of 2 at equal KL
        (1, 1, 5, (0, 0.9, 4), "unknown"),  # on too few pairs
        (1, 1, 5, None, "unknown"),  # nothing is known at equal KL
        (1, 1, 5, (1, 0.9, 5), ""),
        (1, 1, 5, (-1, -0.1, 5), "more"),
        (0, 1, 5, (0, 0.9, 5), ""),
        (0, -1, 0, (0, 0.9, 5), "less"),
        (0, -1, 0, (-1, -0.1, 5), "less"),
        (0, -1, 0, (1, 0.9, 5), ""),
        (1, -1, 0, (0, 0.9, 5), ""),
    ],
)
def test_a_lead_is_one_of_drift(area, kl, wins, equal, drift):
    arm = group_of(fabricate_curves(("sparse", "abc"))).rewards["abc"]
    known = arm.difference("score", "auc")
    score = {"auc": replace(known, clear=area, difference=2.0)}
    if equal is not None:
        sign, high, pairs = equal
        score["at_kl"] = replace(known, clear=sign, high=high, pairs=pairs)
    nats = {"auc": replace(known, clear=kl, wins=wins, pairs=5)}
    found = replace(arm.versus_baseline, differences={"score": score, "kl": nats})
    assert drift_of(replace(arm, versus_baseline=found)) == drift


def test_policies_that_have_hardly_moved_are_not_compared_at_equal_kl():
    summary = summarize(root_of({"sparse": 0.05, "other": 0.04}))
    (group,) = summary.groups
    assert group.equal_kl is None
    empty = Cell(below="KL below 0.1 nats")
    assert [cell_at_kl(group, name) for name in group.rewards] == [empty, empty]
    console = Console(width=200)
    with console.capture() as capture:
        show_summary(console, summary, Path("nowhere"))
    row = next(line for line in capture.get().splitlines() if line.startswith("sparse "))
    assert re.split(r"\s{2,}", row)[2] == "\u2013"


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_lead_in_score_at_equal_kl_has_its_size(sign):
    """Score and gold are a multiple of the root of the KL, which rises alike in both."""
    curves = root_of({"sparse": 4.0, "other": 4.0}, {"other": 1.0 + 0.5 * sign})
    group = group_of(curves, kl_coef=0.05)
    differences = versus(group, "other").differences
    # Read at 3.8 nats, which the mean of the last tenth has: half of the root.
    equal = differences["score"]["at_kl"]
    assert equal.difference == pytest.approx(sign * 0.5 * 3.8**0.5, abs=0.01)
    assert (equal.clear, drift_of(group.rewards["other"])) == (sign, "")
    assert cell_at_kl(group, "other").below.endswith(" after update 18")
    gold = differences["gold_score"]["at_kl"]
    assert gold.difference == pytest.approx(sign * 0.25 * 3.8**0.5, abs=0.02)
    there = group.rewards["sparse"].figures["gold_score"]["at_kl"].mean
    assert there == pytest.approx(0.5 * 3.8**0.5, abs=0.01)
    figure = number(group.rewards["other"].figures["score"]["at_kl"].mean)
    assert all(figure in group_table(group, 0.95, style) for style in ("Markdown", "LaTeX"))


def test_a_leap_is_a_gap_of_the_drawn_path_and_of_the_figures():
    """The first update of other crosses 6 nats, and sparse ends below them."""
    curves = leaping(root_of({"sparse": 4.0, "other": 8.0}), "other")
    summary = summarize(curves)
    (group,) = summary.groups
    assert "at_kl" not in group.rewards["other"].figures["score"]
    assert versus(group, "other").at_kl == AtKl(pairs=0, of=6)  # and nothing else is known
    assert cell_at_kl(group, "other").below == "not known, 0 of 6 pairs were there"
    page = render_report(summary, curves)
    pens = {}
    for title in ("Score against KL", "Score"):
        chart = page.partition(f"<h3>{title}</h3>")[2].partition("</svg>")[0]
        pens[title] = [p.count("M") for p in re.findall(r'class="line" d="([^"]+)"', chart)]
    assert pens == {"Score against KL": [1, 2], "Score": [1, 1]}
    for curve in curves:  # of 100 tokens an update, which are no updates
        values: Any = curve.values
        values["tokens"] = 100.0 * curve.steps
    group = group_of(on_axis(curves, "tokens"), axis="tokens")
    assert versus(group, "other").at_kl.pairs == 0


def test_a_third_reward_does_not_change_what_two_have_at_equal_kl():
    """Not even one that leaps: only the correction's level follows the number of rewards."""
    curves = root_of({"sparse": 4.0, "other": 6.0})
    two, three = (group_of(each) for each in (curves, [*curves, *root_of({"third": 0.5})]))
    at, again = (versus(group, "other") for group in (two, three))
    assert at.at_kl == again.at_kl
    figures = [each.differences["score"]["at_kl"] for each in (at, again)]
    assert figures[0].difference == figures[1].difference
    assert two.equal_kl == three.equal_kl


def test_pairs_that_are_not_known_are_said():
    curves = root_of({"sparse": 4.0, "other": 5.0})
    for curve in curves:
        if curve.credit == "other" and curve.seed < 2:
            curve.values["kl"][:] *= 0.1
    group = group_of(curves)
    at = versus(group, "other").at_kl
    assert (at.pairs, at.of, at.earlier) == (4, 6, 1)
    below = cell_at_kl(group, "other").below
    assert below.endswith(" after update 15, earlier than sparse (update 18), 4 of 6 seeds")


def test_what_is_said_of_the_end_is_corrected_over_its_measurements():
    """A p-value of .03 in one of three measurements at the end is no finding."""
    curves, names = root_of({"sparse": 4.0, "other": 4.0}), ("score", "gold_score", "kl")
    generator = np.random.default_rng(0)
    for curve, name in product(curves, names):
        shift = generator.normal(0.0, 0.1)
        if curve.credit == "other" and name == "score":
            shift += 0.12
        curve.values[name][1:] += shift
    differences = versus(group_of(curves), "other").differences
    raw = []
    for name in names:
        other, sparse = (
            [final_mean(run[name]) for run in curves if run.credit == credit]
            for credit in ("other", "sparse")
        )
        raw.append(paired_difference(other, sparse).p_value)
    adjusted = [differences[name]["final"].p_adjusted for name in names]
    assert adjusted == pytest.approx(holm(raw).tolist())


def test_equal_kl_is_told_of_learners_at_equal_tokens_too():
    curves = root_of({"sparse": 4.0, "other": 12.0})
    for curve in curves:
        values: Any = curve.values
        values["tokens"] = 100.0 * curve.steps * (1 + (curve.credit == "other"))
    group = group_of(on_axis(curves, "tokens"), axis="tokens")
    # Within the tokens of sparse other makes 10 of its 20 updates, of .6 nats: 2.4 to 4.8 nats.
    at = versus(group, "other").at_kl
    assert (at.pairs, at.baseline_step, at.step) == (6, 1800.0, 1200.0)
    below = cell_at_kl(group, "other").below
    assert below.endswith(" after 1,200 tokens, earlier than sparse (1,800 tokens)")
    assert "step" not in group.measures


def test_a_difference_that_rounds_to_nothing_is_not_claimed():
    seeds = np.linspace(-1.0, 1.0, 5)
    areas = np.stack([seeds, seeds + 2e-4 + 1e-5 * seeds], axis=1)
    difference = versus(group_of(curves_of(areas)), "reward-1").differences["score"]["auc"]
    assert difference.p_adjusted < 1e-4
    assert difference.clear == 0


def test_speed_is_told_of_the_score_and_of_the_net_score_where_it_is_known():
    found = versus(group_of(cheaper(), kl_coef=0.05), "abc")
    assert found.relative_steps_net.ratio < found.relative_steps.ratio < math.inf
    assert versus(group_of(cheaper()), "abc").relative_steps_net is None


@pytest.mark.parametrize("baseline", ["sparse", "abc"])
def test_below_five_seeds_nothing_is_clear(baseline):
    curves = fabricate_curves(seeds=4)
    summary = summarize(curves, SummarySettings(baseline=baseline))
    assert not summary.groups[0].reliable
    page = render_report(summary, curves)
    assert 'class="mark' not in page
    assert "▲" not in page.split("<tbody>")[1].split("</tbody>")[0]


def test_failed_runs_are_counted_and_named():
    curves = fabricate_curves(("sparse", "abc"))
    curves[0].values["score"][4] = math.inf
    failed = [LostRun(credit="abc", seed=9, error="boom")]
    summary = summarize(curves, SummarySettings(failed=failed))
    assert [(run.credit, run.seed, run.error) for run in summary.failed] == [
        ("abc", 9, "boom"),
        ("sparse", 0, "score is inf at step 12"),
    ]
    (group,) = summary.groups
    assert group.rewards["sparse"].runs == 4
    assert versus(group, "abc").differences["score"]["auc"].pairs == 4
    with pytest.raises(ValueError, match=r"no run to summarise, 1 failed \(the first: boom\)"):
        summarize([], SummarySettings(failed=failed))


def test_a_missing_measurement_costs_its_step_and_not_its_run():
    """By hand: step 3 of seed 0 is cut out of both runs, whatever other arms and seeds have."""
    curves = fabricate_curves(("sparse", "abc"))
    curves[0].values["score"][1] = math.nan
    summary = summarize(curves)
    (group,) = summary.groups
    assert summary.failed == []
    assert group.unscored == [UnscoredRun(credit="sparse", seed=0, steps=[3.0])]
    assert (
        "1 measurement of the score is missing (sparse, seed 0, step 3); that step is left out of "
        "every run of the seed, except at a run's start and end." in group.verdict.cautions
    )
    areas = {}
    for curve in curves:
        keep = [0, *range(2, 11)] if curve.seed == 0 else [*range(11)]
        y, at = curve["score"][keep], curve.steps[keep]
        area = sum((b - a) * (p + q) / 2 for a, b, p, q in zip(at, at[1:], y, y[1:], strict=False))
        areas[curve.credit, curve.seed] = area / 30.0
    gaps = [areas["abc", seed] - areas["sparse", seed] for seed in range(5)]
    found = versus(group, "abc").differences["score"]
    assert (found["auc"].pairs, found["final"].pairs) == (5, 5)
    assert found["auc"].difference == pytest.approx(np.mean(gaps))
    ends = [curve["score"][-2:].mean() for curve in curves]  # of 11 points two are the end
    ends[0], ends[5] = curves[0]["score"][-1], curves[5]["score"][-1]  # of 10 points one is
    assert found["final"].difference == pytest.approx(np.mean(ends[5:]) - np.mean(ends[:5]))
    render_report(summary, curves)


@pytest.mark.parametrize(("place", "words"), [(0, "0, its first"), (10, "30, at its end")])
def test_no_other_measurement_takes_the_place_of_a_missing_first_or_last(place, words):
    curves = fabricate_curves(("sparse", "abc"))
    curves[0].values["score"][place] = math.nan
    summary = summarize(curves)
    assert [run.error for run in summary.failed] == [f"score is missing at step {words}"]
    assert summary.groups[0].rewards["sparse"].seeds == [1, 2, 3, 4]


def test_one_seed_has_no_interval():
    curves = fabricate_curves(("sparse", "abc"), seeds=1)
    summary = summarize(curves)
    (group,) = summary.groups
    assert " to " not in group_table(group, 0.95, "Markdown") + group_table(group, 0.95, "LaTeX")
    page = re.sub(r"<[^>]+>", " ", render_report(summary, curves))
    assert not re.search(r"\d%? to \d", page)
    shown = [f"{cell}" for table in _figures(group, 200) for c in table.columns for cell in c.cells]
    assert not any("\n" in cell for cell in shown)


def test_noise_is_no_collapse_however_the_runs_are_measured():
    """At equal tokens each run has steps of its own, between which it is interpolated."""
    rng = np.random.default_rng(0)
    runs = [*product(("ppo", "loo"), range(20))]
    scores = rng.normal(0.0, 0.1, (len(runs), 11))
    shifts = rng.integers(-9, 10, (len(runs), 11)) * (np.arange(11) % 10 > 0)
    found = []
    for each in (0 * shifts, shifts):
        curves = [
            Curve(credit=credit, seed=seed, steps=100.0 * np.arange(11) + at, values={"score": row})
            for (credit, seed), row, at in zip(runs, scores, each, strict=True)
        ]
        figures = group_of(curves, anchors={"score": 0.0}, axis="tokens").rewards.values()
        found.append([(e.collapse_rate, e.figures["score"]["final"]) for e in figures])
    assert found[0] == found[1]


def test_runs_that_never_learnt_have_not_collapsed():
    """Of 40 reports of two flat arms, most said so."""
    rng, said = np.random.default_rng(0), 0
    for report, count in product(range(10), (6, 8, 11, 21)):
        flat = [
            Curve(
                credit=credit,
                seed=seed,
                steps=np.arange(0.0, 10.0 * count, 10.0),
                values={"score": 1.0 + rng.normal(0.0, 0.05, count)},
            )
            for credit, seed in product(("sparse", "abc"), range(5))
        ]
        rates = [e.collapse_rate for e in group_of(flat).rewards.values()]
        said += any(rates)
        if report == 0:  # of one run nothing is known to move
            rise = [at * (at < 0.7 * count) for at in range(count)]
            hills = [
                replace(curve, values={"score": np.array(rise, dtype=np.float64)})
                for curve in flat[:5]
            ]
            rates = [group_of(runs).rewards["sparse"].collapse_rate for runs in (hills, hills[:1])]
            assert rates == [1.0, 0.0]
    assert said <= 4


@pytest.mark.parametrize("slows_down", [True, False])
def test_how_often_an_arm_was_evaluated_is_no_lead(slows_down):
    """Both arms are alike, and one has ten times the evaluations.

    It was called faster where the rise slows down, and lower at the end of a straight one.
    """
    rng, clear = np.random.default_rng(0), {"auc": 0, "final": 0}
    grids = {"sparse": np.arange(0.0, 51.0, 10.0), "abc": np.arange(0.0, 51.0)}
    for _ in range(20):
        curves = []
        for seed, (credit, steps) in product(range(10), grids.items()):
            rise = 1.0 - np.exp(-steps / 3.0) if slows_down else steps / 50.0
            score = (1.0 + rng.normal(0.0, 0.02)) * rise + rng.normal(0.0, 0.01, len(steps))
            curves.append(Curve(credit=credit, seed=seed, steps=steps, values={"score": score}))
        group = group_of(curves)
        for kind in clear:
            clear[kind] += versus(group, "abc").differences["score"][kind].clear != 0
        assert "abc was evaluated at other updates" in " ".join(group.verdict.cautions)
    assert max(clear.values()) <= 3


def test_the_same_curves_give_the_same_bytes(tmp_path):
    for name in ("a.json", "b.json"):
        np.random.seed(None)
        summary = summarize(fabricate_curves(), SummarySettings(kl_coef=0.05))
        write_json(tmp_path / name, summary.to_json())
    text = (tmp_path / "a.json").read_bytes()
    assert text == (tmp_path / "b.json").read_bytes()
    assert "wall_s" not in json.dumps(json.loads(text))
    json.loads(text, parse_constant=lambda value: pytest.fail(f"{value} is no JSON"))


def test_a_summary_is_what_its_json_holds():
    """Of runs that failed or ended early, a leap in KL, and the untrained policy's responses."""
    curves = leaping(fabricate_curves(), "abc")
    curves[0] = replace(curves[0].between(0.0, 21.0))
    failed = [LostRun(credit="abc", seed=9, error="boom")]
    settings = SummarySettings(kl_coef=0.05, references=references(), failed=failed)
    summary = replace(summarize(curves, settings), about={"command": "compare"})
    assert summary.groups[0].ended_early
    stored = json.loads(json.dumps(summary.to_json()))
    read = Summary.of_json(stored)
    assert read.to_json() == stored == summary.to_json()
    assert read.about == {"command": "compare"}
    assert read.groups[0].rewards["abc"] == summary.groups[0].rewards["abc"]
    with pytest.raises(KeyError, match="baseline"):
        Summary.of_json({**stored, "groups": [{"group": {}}]})


def test_the_figures_fit_a_terminal(capsys):
    group = group_of(fabricate_curves(("sparse", "folder/of/rules.py:Surprisal")), kl_coef=0.05)
    for width, parts in ((200, 1), (90, 1), (80, 2), (44, 3)):
        tables = list(_figures(group, width))
        for table in tables:
            Console(width=width).print(table)
        shown = capsys.readouterr().out
        assert len(tables) == shown.count("Surprisal") == parts
        assert "…" not in shown
        assert all(len(line.rstrip()) <= width for line in shown.splitlines())
        for part in ("over the run", "at equal KL", "gold", "KL", "speed"):
            assert part in shown


def test_the_terminal_and_the_page_say_one_speed():
    """By hand: to 3/4 of the way the areas are 2.25 / .75 = 3 updates and 1.125 / .75 = 1.5."""
    curves = [
        Curve(
            credit=name,
            seed=seed,
            steps=np.arange(9.0),
            values={"score": np.minimum(rate * np.arange(9.0), 1.0)},
        )
        for name, rate in (("a", 1 / 8), ("b", 1 / 4), ("never", 0.0))
        for seed in range(6)
    ]
    group = group_of(curves)
    (place,) = (at for at, (_, _, kind) in enumerate(columns(group)) if kind == "speed")
    shown = {name: row[place] for name, row in cells(group).items()}
    assert (shown["b"].value, shown["b"].below) == ("2.00", "2.00 to 2.00")
    assert shown["never"].value == "0.38"  # 3 of the 8 updates: it has the area over all
    assert shown["a"].value == "\u2013"
    for name in ("a", "b", "never"):
        said = _speed(group.rewards[name]).plain.split("\n")
        assert said == [part for part in (shown[name].value, shown[name].below) if part]


def test_there_is_no_speed_where_the_baseline_does_not_rise():
    group = group_of(curves_of(np.stack([np.linspace(-1.0, 1.0, 6)] * 2, axis=1)))
    (place,) = (at for at, (_, _, kind) in enumerate(columns(group)) if kind == "speed")
    cell = cells(group)["reward-1"][place]
    assert (cell.value, cell.below) == ("\u2013", "sparse does not clearly rise")
    assert _speed(group.rewards["reward-1"]).plain == "\u2013"
