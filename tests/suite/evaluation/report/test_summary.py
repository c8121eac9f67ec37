import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tokengym.agents.losses.ranking import best_of_n_kl_bound
from tokengym.base.files import write_json
from tokengym.base.text import number, signed
from tokengym.evaluation.measure.measures import Axis
from tokengym.evaluation.measure.references import ReferenceSamples
from tokengym.evaluation.report.curves import Curve, over_tokens
from tokengym.evaluation.report.figures import save_figure
from tokengym.evaluation.report.report import render_report
from tokengym.evaluation.report.summary import SummarySettings, summarize
from tokengym.evaluation.report.tables import cells, columns, group_table
from tokengym.evaluation.report.verdict import lead_of
from tokengym.evaluation.statistics import area_under_curve, iqm
from tokengym.scripts.commands.show import _figures, show_summary


def test_figures_are_those_of_the_curves(make_curves):
    curves = make_curves()
    summary = summarize(curves, SummarySettings(kl_coef=0.05, anchors={"score": -0.5}))
    group = summary["groups"][0]
    assert list(group["rewards"]) == ["sparse", "uniform", "abc"]
    sparse = [curve for curve in curves if curve.credit == "sparse"]
    areas = [area_under_curve(c.steps, c.values["score"]) / 30.0 for c in sparse]
    finals = [c.values["score"][-2:].mean() for c in sparse]  # a tenth of 11, rounded up
    figures = group["rewards"]["sparse"]["figures"]
    assert figures["score"]["auc"]["iqm"] == pytest.approx(iqm(areas))
    assert figures["score"]["final"]["iqm"] == pytest.approx(iqm(finals))
    ends = [c.values["score"][-2:].mean() - 0.05 * c.values["kl"][-2:].mean() for c in sparse]
    assert figures["net_score"]["final"]["iqm"] == pytest.approx(iqm(ends))
    assert "auc" not in figures["kl"]  # more is not better, so it is not ranked


def test_scores_lie_between_fixed_anchors(make_curves):
    anchors, optimum = {"score": -0.5, "gold_score": 0.1}, {"gold_score": 0.7}
    summary = summarize(make_curves(), SummarySettings(anchors=anchors, optimum=optimum))
    assert summary["anchors"] == {"reference": anchors, "optimum": optimum}
    figures = summary["groups"][0]["rewards"]["abc"]["figures"]
    for key in ("iqm", "low", "high"):  # made to rise from .1 to .6
        expected = (figures["gold_score"]["final"][key] - 0.1) / 0.6
        assert figures["normalized_gold_score"]["final"][key] == pytest.approx(expected)
    assert figures["normalized_gold_score"]["final"]["iqm"] == pytest.approx(5 / 6, abs=0.05)
    assert "Share of the way to the best gold score" in render_report(summary, make_curves())
    assert (
        "normalized_gold_score"
        not in summarize(make_curves())["groups"][0]["rewards"]["abc"]["figures"]
    )


def references() -> dict[Any, ReferenceSamples]:
    """Return samples whose best of 16 has a score of 1.5, gold .6, and whose mean is -.5, .1."""
    scores = np.full((3, 16), -0.5 - 2.0 / 15.0)
    scores[:, 0] = 1.5
    gold = np.full((3, 16), 0.1 - 0.5 / 15.0)
    gold[:, 0] = 0.6
    return {(): ReferenceSamples(scores=scores, gold_scores=gold, tokens=2304)}


def test_runs_are_set_on_the_way_to_best_of_16(make_curves):
    """Of 16 responses one is worth 1.5; the curves rise from -.5 to 1.5 (1 - e^(-step / 15))."""
    settings = SummarySettings(kl_coef=0.05, references=references(), episodes=100)
    curves = make_curves()
    (group,) = summarize(curves, settings)["groups"]
    paid = 0.05 * best_of_n_kl_bound(16)
    start = np.mean([c.values["score"][0] - 0.05 * c.values["kl"][0] for c in curves])
    # One response of 16 differs by 2 + 2 / 15: the variance is its square / 16.
    error = (2.0 + 2.0 / 15.0) / 4.0 / 100.0**0.5
    assert group["score_range"] == {
        "measure": "net_score",
        "n": 16,
        "start": pytest.approx(start),
        "goal": pytest.approx(1.5 - paid),
        "error": pytest.approx(error),
        "noise": None,
    }
    entry = group["rewards"]["sparse"]
    for kind in ("final", "auc"):
        for key in ("iqm", "low", "high"):
            expected = (entry["figures"]["net_score"][kind][key] - start) / (1.5 - paid - start)
            assert entry["figures"]["normalised_score"][kind][key] == pytest.approx(expected)
    steps = entry["steps_to_shares"]
    assert list(steps) == ["0.5", "0.75", "0.9"]
    # -.5 + 2 g - .25 g for g = 1 - e^(-step / 15): half the way at g = (1 - paid / 2) / 1.75
    half = -15.0 * math.log(1.0 - (1.0 - paid / 2.0) / 1.75)
    assert steps["0.5"]["iqm_curve"] == pytest.approx(half, abs=0.5)
    assert steps["0.5"]["reached"] == 1.0
    assert (
        steps["0.9"] | {"median": math.inf, "iqm_curve": math.inf, "reached": 0.0} == steps["0.9"]
    )
    assert steps["0.9"]["restricted_mean"] == 30.0
    assert group["reference"]["best_of_n"][-1]["gold_score"] == pytest.approx(0.6)


SEEDS = np.linspace(-1.0, 1.0, 6)
NOISE = {"abc": 0.02 * SEEDS, "recency": 0.02 * SEEDS**2, "random": -0.01 * SEEDS}


def verdict_of(**leads: float) -> tuple[str, list[str]]:
    """Return headline and notes of flat curves whose heights lead sparse's by so much."""
    rows = {"sparse": 0.0 * SEEDS} | {n: lead + NOISE[n] for n, lead in leads.items()}
    curves = [
        replace(curve, credit=name)
        for name, heights in rows.items()
        for curve in curves_of(heights[:, None])
    ]
    (group,) = summarize(curves, SummarySettings(controls=("random", "recency")))["groups"]
    return group["verdict"]["headline"], group["verdict"]["notes"]


def test_a_rule_that_no_control_is_behind_has_found_nothing():
    headline, notes = verdict_of(abc=0.3, recency=0.3)
    assert headline == (
        "abc learned faster than sparse: +0.300 score over the run; so did the control recency."
    )
    assert notes == [
        "abc is not clearly ahead of the control recency: no evidence that it finds the right "
        "tokens."
    ]
    # Unclear against sparse, and still not beaten: the noise of seeds hides both.
    _, (hidden,) = verdict_of(abc=0.03, random=0.02)
    assert hidden.startswith("abc is not clearly ahead of the control random")
    both, (note,) = verdict_of(abc=0.3, recency=0.31, random=0.3)
    assert "controls recency and random" in note
    assert both.startswith("abc learned faster")  # though a control was the fastest


def test_a_rule_ahead_of_every_control_is_left_its_claim():
    headline, notes = verdict_of(abc=0.6, recency=0.3, random=0.0)
    assert headline.endswith("; so did the control recency.")
    assert notes == []


def test_a_control_alone_ahead_is_called_one():
    headline, notes = verdict_of(abc=0.0, recency=0.3)
    assert headline.startswith("The control recency learned faster than sparse: +0.3")
    assert notes == []


def test_the_winner_is_described_first_and_controls_last():
    curves = curves_of(np.array([[0.0, 0.2, 0.6, 0.9]]) + 0.01 * SEEDS[:5, None] ** 2)
    settings = SummarySettings(controls=("reward-3",))
    (group,) = summarize(curves, settings)["groups"]
    names = [sentence.split()[0] for sentence in group["verdict"]["sentences"]]
    assert names == ["reward-2", "reward-1", "reward-3"]


@pytest.mark.parametrize(
    ("heights", "notes"),
    [
        ((0.0, 1.0), ["No reward reached the untrained policy's best of 16 (score 1.50)."]),
        ((0.0, 2.0), ["Only reward-1 reached the untrained policy's best of 16 (score 1.50)."]),
        ((1.5, 2.0), []),
        ((1.0,), ["sparse did not reach the untrained policy's best of 16 (score 1.50)."]),
    ],
)
def test_rewards_that_did_not_reach_best_of_16_are_said(
    heights: tuple[float, ...], notes: list[str]
):
    areas = np.array(heights) + 1e-3 * SEEDS[:, None] * np.arange(len(heights))
    settings = SummarySettings(references=references(), episodes=100)  # a small sampling error
    (group,) = summarize(curves_of(areas), settings)["groups"]
    assert group["verdict"]["notes"] == notes


@pytest.mark.parametrize(
    ("heights", "notes"),
    [
        ((1.49, 2.0), []),
        ((0.0, 1.49), ["sparse did not reach the untrained policy's best of 16 (score 1.50)."]),
        (
            (0.0, 1.49, 2.0),
            [
                "reward-2 reached the untrained policy's best of 16 (score 1.50), and sparse did "
                "not."
            ],
        ),
        ((1.49,), []),
    ],
)
def test_of_a_reward_whose_interval_holds_best_of_16_nothing_is_said(
    heights: tuple[float, ...], notes: list[str]
):
    """The one at 1.49 has an interval from about 1.44 to 1.54, which holds the goal of 1.5."""
    areas = np.array(heights) + 0.1 * SEEDS[:, None]
    settings = SummarySettings(references=references(), episodes=100)
    (group,) = summarize(curves_of(areas), settings)["groups"]
    assert group["verdict"]["notes"] == notes


def test_a_scorer_that_cannot_rank_is_said(make_curves):
    alike = ReferenceSamples(scores=np.ones((3, 16)), gold_scores=None, tokens=48)
    (group,) = summarize(make_curves(), SummarySettings(kl_coef=0.05, references={(): alike}))[
        "groups"
    ]
    said = [text for text in group["verdict"]["cautions"] if "cannot rank them" in text]
    assert len(said) == 1
    assert group["score_range"]["noise"]
    assert group["verdict"]["notes"] == []


def test_a_normalised_score_that_may_be_noise_is_not_shown_anywhere(make_curves):
    """The best of 16 hardly beats one response: a share of that span would be thousands of %."""
    scores = -0.52 + 0.01 * np.random.default_rng(0).normal(size=(3, 16))
    drawn = ReferenceSamples(scores=scores, gold_scores=None, tokens=2304)
    curves = make_curves()
    settings = SummarySettings(kl_coef=0.001, references={(): drawn})
    summary = summarize(curves, settings)
    (group,) = summary["groups"]
    reason = group["score_range"]["noise"]
    assert reason.startswith("the best of ")
    assert group["verdict"]["notes"] == []
    assert f"No normalised score: {reason}." in group["verdict"]["cautions"]
    for entry in group["rewards"].values():
        assert not {"normalised_score", "steps_to_shares"} & {
            *entry["figures"],
            *entry,
        }
    shown = [row[-3:-1] for row in cells(group).values()]
    assert [cell for row in shown for cell in row] == 6 * [
        {"value": "\u2013", "below": "its range may be noise", "mark": "", "tone": ""}
    ]
    latex, markdown = (
        group_table(group, 0.95, style, ["normalised_score"]) for style in ("LaTeX", "Markdown")
    )
    assert latex.count("& -- ") == markdown.count("| \u2013 ") == 3
    assert f"No normalised score: {reason}" in markdown
    assert "its range may be noise" in render_report(summary, curves)
    console = Console(width=200)
    with console.capture() as capture:
        for table in _figures(group, 200):
            console.print(table)
    head, *rows = [re.split(r"\s{2,}", line) for line in capture.get().splitlines()]
    at = head.index("norm.")
    assert [row[at] for row in rows if row[0] in group["rewards"]] == 3 * ["\u2013"]


def test_without_a_price_the_way_is_by_score(make_curves):
    (group,) = summarize(make_curves(), SummarySettings(references=references()))["groups"]
    assert (group["score_range"]["measure"], group["score_range"]["goal"]) == ("score", 1.5)
    figures = group["rewards"]["abc"]["figures"]
    start = group["score_range"]["start"]
    expected = (figures["score"]["final"]["iqm"] - start) / (1.5 - start)
    assert figures["normalised_score"]["final"]["iqm"] == pytest.approx(expected)


def test_a_page_has_the_lines_its_samples_give(make_curves):
    curves = make_curves()
    summary = summarize(curves, SummarySettings(kl_coef=0.05, references=references()))
    page = render_report(summary, curves)
    text = re.sub(r"<[^>]+>", " ", page)
    assert "Normalised score (1: best of 16) at the end" in text
    assert "Updates to 50% / 75% / 90% of it" in text
    assert re.search(r"100% / \d+% / 0% of seeds arrive", text)
    assert "16 responses of the policy that training starts from to each of 3 held-out" in text
    assert re.search(r"best of 16\s+1\.84\s+1\.50\s+0\.600\s+1\.41", " ".join(text.split()))
    bound = number(summary["groups"][0]["reference"]["optimum"])
    assert f"at least {bound}" in text
    # score twice (wide and narrow), gold, KL and net score, against each of four axes
    assert page.count('class="level"') == 4 * (2 * 2 + 2 + 1 + 2)
    assert page.count(">optimum, at least<") == 4
    assert page.count('class="series c8"') == 3  # best-of-n beside each frontier
    free = render_report(
        summarize(curves, SummarySettings(kl_coef=0.0, references=references())), curves
    )
    assert "At price 0 the best policy has the highest score there is" in free
    assert ">optimum, at least<" not in free
    plain = render_report(summarize(curves, SummarySettings(kl_coef=0.05)), curves)
    for absent in ("Without training", "Normalised score", 'class="level"', "c8"):
        assert absent not in re.sub(r"<style>.*?</style>", "", plain, flags=re.S)


def test_levels_are_within_the_picture(make_curves, tmp_path: Path):
    curves = make_curves()
    for name, drawn in (("with", references()), ("without", {})):
        summary = summarize(curves, SummarySettings(kl_coef=0.05, references=drawn))
        save_figure(tmp_path / f"{name}.png", summary, curves)
    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()


def test_the_faster_reward_is_said_to_be_faster(make_curves):
    group = summarize(make_curves())["groups"][0]
    versus = group["rewards"]["abc"]["versus_baseline"]
    assert versus["differences"]["score"]["auc"]["low"] > 0
    assert versus["differences"]["score"]["auc"]["wins"] == 5
    assert versus["probability_of_improvement"]["score"]["auc"]["probability"] == 1.0
    assert versus["relative_steps"]["ratio"] == pytest.approx(0.5, abs=0.12)
    assert group["verdict"]["headline"].startswith("abc learned faster than sparse: +")
    assert [sentence.split()[0] for sentence in group["verdict"]["sentences"]] == ["abc", "uniform"]


def test_the_final_level_is_of_the_baselines_own_evaluations(make_curves):
    """However often the others were evaluated between them."""
    curves = make_curves(("sparse", "abc"))
    finer = []
    for curve in curves:
        steps = np.linspace(0.0, 30.0, 301) if curve.credit == "abc" else curve.steps
        values = {n: np.interp(steps, curve.steps, v) for n, v in curve.values.items()}
        finer.append(replace(curve, steps=steps, values=values))
    (coarse,), (fine,) = (summarize(made)["groups"] for made in (curves, finer))
    scores = [curve.values["score"] for curve in curves if curve.credit == "sparse"]
    level = iqm(np.array(scores), 0)[-2:].mean()  # a tenth of 11, rounded up
    for group in (coarse, fine):
        assert group["threshold"] == pytest.approx(level)
        speed = group["rewards"]["abc"]["versus_baseline"]["relative_steps"]
        assert speed["threshold"] == pytest.approx(level)


def paths_of(
    nats: dict[str, float], score_of: Callable[[str, np.ndarray], np.ndarray]
) -> list[Curve]:
    """Return six seeds whose KL goes evenly to so many nats in 20 updates, a point after each."""
    steps = np.arange(21.0)
    return [
        Curve(
            credit=name,
            seed=seed,
            steps=steps,
            values={
                "score": score_of(name, kl * steps / 20.0) + 0.01 * shift,
                "gold_score": 0.5 * score_of(name, kl * steps / 20.0) + 0.01 * shift**2,
                "kl": kl * steps / 20.0 * (1.0 + 0.001 * shift**2),
            },
        )
        for name, kl in nats.items()
        for seed, shift in enumerate(SEEDS if name == "sparse" else SEEDS**3)
    ]


def test_a_lead_that_is_kl_not_spent_is_called_less_drift():
    """Both have all the score there is at 1 nat, soon; one spends half the KL."""
    curves = paths_of({"sparse": 8.0, "lazy": 4.0}, lambda _, kl: 2.0 * np.minimum(kl / 0.1, 1.0))
    (group,) = summarize(curves, SummarySettings(kl_coef=0.05))["groups"]
    differences = group["rewards"]["lazy"]["versus_baseline"]["differences"]
    assert differences["net_score"]["auc"]["clear"] == 1  # ahead by what training maximises
    assert group["equal_kl"] == pytest.approx(4.0, rel=1e-3)
    assert differences["score"]["at_kl"]["difference"] == pytest.approx(0.0, abs=0.01)
    # 4 nats on average, half of it: the area under a straight line to 8, and to 4
    assert differences["kl"]["auc"]["difference"] == pytest.approx(-2.0, abs=0.01)
    assert group["verdict"]["headline"] == (
        "No reward learned clearly faster than sparse; lazy drifts less."
    )
    (sentence,) = group["verdict"]["sentences"]
    assert (
        "It drifts less, and does not learn faster: KL over the run \u22122.00 nats, 95%"
        in sentence
    )
    figure = r"; score at equal KL \(4.00 nats\) \S+, 95% interval \S+ to \S+, "
    assert re.search(figure + r"where sparse is on its way to more\. ", sentence)


def test_a_lead_that_is_kl_spent_sooner_is_called_more_drift():
    """Both have the same score at each KL; one spends twice the KL."""
    curves = paths_of({"sparse": 4.0, "hasty": 8.0}, lambda _, kl: np.sqrt(kl))
    (group,) = summarize(curves)["groups"]
    # The mean of sqrt(x) on 0 to 1 is 2 / 3, by trapezes of 1 / 20 slightly less.
    area = group["rewards"]["hasty"]["versus_baseline"]["differences"]["score"]["auc"]
    assert area["difference"] == pytest.approx(2.0 / 3.0 * (8.0**0.5 - 2.0), abs=0.01)
    headline = group["verdict"]["headline"]
    assert headline.startswith("hasty learned faster than sparse by more drift: +0.55")
    # The last 3 of 21 evaluations: 19 / 20 of 4 nats, and of gold half the difference of the roots.
    golds = group["rewards"]["hasty"]["versus_baseline"]["differences"]["gold_score"]["final"]
    assert golds["difference"] == pytest.approx(0.5 * (7.6**0.5 - 3.8**0.5), abs=0.01)
    (sentence,) = group["verdict"]["sentences"]
    said = r"Its lead is more drift: KL over the run \+2\.00 nats, 95% interval \S+ to \S+; "
    assert re.search(said + r"score at equal KL \(4\.00 nats\) \S+, 95% interval", sentence)


@pytest.mark.parametrize(
    ("area", "kl", "wins", "equal", "lead"),
    [
        (1, 1, 5, 0, "more drift"),
        (1, 0, 5, 0, "more drift"),  # on every seed
        (1, 0, 4, 0, ""),
        (1, 1, 5, 1, "more"),
        (1, 1, 5, -1, "less"),
        (1, 1, 5, None, ""),  # nothing is known at equal KL
        (0, 1, 5, 0, ""),
        (0, -1, 0, 0, "less drift"),
        (1, -1, 0, 0, ""),
    ],
)
def test_a_lead_has_one_name(area: int, kl: int, wins: int, equal: int | None, lead: str):
    score = {"auc": {"clear": area}} | ({} if equal is None else {"at_kl": {"clear": equal}})
    differences = {"score": score, "kl": {"auc": {"clear": kl, "wins": wins, "pairs": 5}}}
    group = {"rewards": {"abc": {"versus_baseline": {"differences": differences}}}}
    assert lead_of(group, "abc") == lead


def test_policies_that_have_hardly_moved_are_not_compared_at_equal_kl():
    curves = paths_of({"sparse": 0.05, "other": 0.04}, lambda _, kl: np.sqrt(kl))
    summary = summarize(curves)
    (group,) = summary["groups"]
    assert group["equal_kl"] is None
    said = " ".join([*group["verdict"]["cautions"], *group["verdict"]["sentences"]])
    assert (
        "The policies have hardly moved (KL below 0.1 nats), so that scores at equal KL say "
        "nothing yet." in said
    )
    assert "learning_rate" not in said
    assert "At equal KL" not in said
    at = [kind for _, _, kind in columns(group)].index("at_kl")
    empty = {"value": "\u2013", "below": "KL below 0.1 nats", "mark": "", "tone": ""}
    assert [row[at] for row in cells(group).values()] == [empty, empty]
    assert "Score at equal KL" in group_table(group, 0.95, "Markdown")
    console = Console(width=200)
    with console.capture() as capture:
        show_summary(console, summary, Path("nowhere"))
    shown = capture.get()
    row = next(line for line in shown.splitlines() if line.startswith("sparse "))
    assert "at equal KL" in shown
    assert re.split(r"\s{2,}", row)[2] == "\u2013"


def test_runs_that_alone_have_hardly_moved_are_named():
    curves = paths_of({"sparse": 4.0, "other": 0.04}, lambda _, kl: np.sqrt(kl))
    (group,) = summarize([curve for curve in curves if curve.seed < 5])["groups"]
    assert (
        "Some policies have hardly moved (KL below 0.1 nats: other, seeds 0, 1, 2, 3 and 4), so "
        "that scores at equal KL say nothing yet." in group["verdict"]["cautions"]
    )


@pytest.mark.parametrize(("sign", "word"), [(1.0, "more"), (-1.0, "less")])
def test_a_lead_in_score_at_equal_kl_is_called_one(sign: float, word: str):
    """Score and gold are a multiple of the root of the KL, which rises alike in both."""
    slopes = {"sparse": 1.0, "other": 1.0 + 0.5 * sign}
    curves = paths_of({"sparse": 4.0, "other": 4.0}, lambda name, kl: slopes[name] * np.sqrt(kl))
    (group,) = summarize(curves, SummarySettings(kl_coef=0.05))["groups"]
    equal = group["rewards"]["other"]["versus_baseline"]["differences"]["score"]["at_kl"]
    assert equal["difference"] == pytest.approx(sign, abs=0.01)
    (sentence,) = group["verdict"]["sentences"]
    assert (
        f"At equal KL (4.00 nats) it has {word} score: {signed(equal['difference'])}, " in sentence
    )
    assert "on its way" not in sentence  # both end there
    side = "higher" if sign > 0 else "lower"
    gold = group["rewards"]["other"]["versus_baseline"]["differences"]["gold_score"]["at_kl"]
    assert gold["difference"] == pytest.approx(sign / 2.0, abs=0.02)
    size = number(abs(gold["difference"]))
    assert f"; its gold score there is {size} {side} (95% interval" in sentence
    figure = group["rewards"]["other"]["figures"]["score"]["at_kl"]["iqm"]
    assert group["rewards"]["sparse"]["figures"]["gold_score"]["at_kl"]["iqm"] > 1.0
    for style in ("Markdown", "LaTeX"):
        table = group_table(group, 0.95, style)
        assert "at 4.00 nats" in table
        assert number(figure) in table
    text = re.sub(r"<[^>]+>", " ", render_report(summarize(curves), curves))
    assert "Score at 4.00 nats of KL" in text


def test_a_leap_is_a_gap_of_the_drawn_path_and_of_the_figures():
    """The first update of sparse crosses 6 nats; no score at equal KL is known below them."""

    curves = paths_of({"sparse": 8.0, "other": 4.0}, lambda _, kl: np.sqrt(kl))
    for curve in curves:
        if curve.credit == "sparse":
            curve.values["kl"][1:] = 6.0 + 0.1 * curve.steps[1:]
    summary = summarize(curves)
    (group,) = summary["groups"]
    assert group["equal_kl"] is None
    assert "at_kl" not in group["rewards"]["other"]["figures"]["score"]
    said = " ".join(group["verdict"]["cautions"])
    assert "Scores at equal KL are not known: no KL was reached by every run" in said
    page = render_report(summary, curves)
    frontier = page.partition("Score against KL</h3>")[2].partition("</svg>")[0]
    paths = re.findall(r'class="line" d="([^"]+)"', frontier)
    assert [path.count("M") for path in paths] == [2, 1]
    over_updates = page.partition("<h3>Score</h3>")[2].partition("</svg>")[0]
    assert all(p.count("M") == 1 for p in re.findall(r'class="line" d="([^"]+)"', over_updates))


def test_equal_kl_is_told_of_learners_at_equal_tokens_too():
    curves = paths_of({"sparse": 4.0, "other": 4.0}, lambda _, kl: np.sqrt(kl))
    for curve in curves:
        values: Any = curve.values
        values["tokens"] = 100.0 * curve.steps * (1 + (curve.credit == "other"))
    (group,) = summarize(over_tokens(curves), SummarySettings(axis="tokens"))["groups"]
    assert group["equal_kl"] == pytest.approx(2.0, rel=1e-3)  # within the tokens of sparse
    assert "step" not in group["measures"]


def curves_of(areas: np.ndarray) -> list[Curve]:
    """Return flat curves of the given heights, (seeds, rewards); the first reward is sparse."""
    return [
        Curve(
            credit=f"reward-{reward}" if reward else "sparse",
            seed=seed,
            steps=np.array([0.0, 1.0]),
            values={"score": np.full(2, area)},
        )
        for (seed, reward), area in np.ndenumerate(areas)
    ]


def test_the_interval_is_the_one_that_the_verdict_uses():
    seeds = np.linspace(-1.0, 1.0, 5)
    # Each alone is found at 95 % (p = 0.034), but not among two.
    areas = np.stack([0.0 * seeds, 0.34 * seeds + 0.384, 0.34 * seeds + 0.384], axis=1)
    (alone,) = summarize(curves_of(areas[:, :2]))["groups"]
    (both,) = summarize(curves_of(areas))["groups"]
    assert "reward-1 learned faster than sparse" in alone["verdict"]["headline"]
    assert "+0.384, 95% interval 0.050 to 0.718" in alone["verdict"]["sentences"][0]
    for sentence in both["verdict"]["sentences"]:
        assert "showed no clear difference" in sentence
        assert "97.5% interval \u2212" in sentence
    difference = both["rewards"]["reward-1"]["versus_baseline"]["differences"]["score"]["auc"]
    assert difference["low"] < 0 < difference["high"]


def test_a_difference_that_rounds_to_nothing_is_not_claimed():
    seeds = np.linspace(-1.0, 1.0, 5)
    areas = np.stack([seeds, seeds + 2e-4 + 1e-5 * seeds], axis=1)
    (group,) = summarize(curves_of(areas))["groups"]
    difference = group["rewards"]["reward-1"]["versus_baseline"]["differences"]["score"]["auc"]
    assert difference["p_adjusted"] < 1e-4
    assert difference["clear"] == 0
    assert group["verdict"]["headline"] == "No reward learned clearly faster than sparse."
    (large,) = summarize(curves_of(areas * 1000.0))["groups"]
    assert large["verdict"]["headline"].startswith("reward-1 learned faster than sparse")


def test_too_few_seeds_are_said_beside_an_interval_without_zero():
    areas = np.stack([np.zeros(3), np.array([1.0, 1.1, 1.2])], axis=1)
    (sentence,) = summarize(curves_of(areas))["groups"][0]["verdict"]["sentences"]
    assert sentence.startswith("reward-1 ran on too few seeds to tell: score over the run +1.10, ")
    (sentence,) = summarize(curves_of(areas[:1]))["groups"][0]["verdict"]["sentences"]
    assert "score over the run +1.00, no interval, against sparse" in sentence


def test_faster_rewards_are_named_and_each_sentence_has_the_kl_it_cost(make_curves):
    curves = make_curves(("sparse", "abc")) + [
        replace(curve, credit="red", values={**curve.values, "score": curve.values["score"] * 0.99})
        for curve in make_curves(("abc",))
    ]
    verdict = summarize(curves)["groups"][0]["verdict"]
    assert verdict["headline"].endswith("; so did red.")
    (cost,) = re.findall(r"KL \+([0-9.]+) \(", verdict["sentences"][1])
    # KL 5 * speed * (1 - e^(-step * speed / 15)) at the last two of eleven points
    ends = {
        v: np.mean([5 * v * (1 - math.exp(-step * v / 15)) for step in (27, 30)]) for v in (1, 2)
    }
    assert float(cost) == pytest.approx(ends[2] - ends[1], abs=0.01)


def test_a_reward_that_stops_at_less_kl_may_arrive_by_the_net_score_alone(make_curves):
    curves = make_curves(("sparse", "abc"))
    for curve in curves:  # abc: half the KL of sparse, and nine tenths of its score
        factor, kl = (0.9, 0.5) if curve.credit == "abc" else (1.0, 1.0)
        rise = 1.0 - np.exp(-curve.steps / 10.0)
        curve.values["score"][:] = 2.0 * factor * rise + 0.01 * np.sin(curve.seed + curve.steps)
        curve.values["kl"][:] = 20.0 * kl * rise
    group = summarize(curves, SummarySettings(kl_coef=0.05))["groups"][0]
    versus = group["rewards"]["abc"]["versus_baseline"]
    assert versus["relative_steps"]["ratio"] == math.inf
    # sparse ends at 1 * rise(30), abc goes 1.3 * rise: 1 - e^(-s/10) = rise(30) / 1.3
    expected = -10.0 * math.log(1.0 - (1.0 - math.exp(-2.85)) / 1.3)
    assert versus["relative_steps_net"]["steps"] == pytest.approx(expected, abs=1.0)
    (sentence,) = group["verdict"]["sentences"]
    assert "did not reach sparse's final score within the budget" in sentence
    assert "within the budget, but sparse's final score minus the KL" in sentence
    assert (
        summarize(curves)["groups"][0]["rewards"]["abc"]["versus_baseline"]["relative_steps_net"]
        is None
    )


def test_steps_to_the_baselines_end_keep_censored_runs(make_curves):
    entry = summarize(make_curves())["groups"][0]["rewards"]
    assert entry["abc"]["steps_to_threshold"]["reached"] == 1.0
    assert entry["abc"]["steps_to_threshold"]["iqm_curve"] < 20
    assert entry["sparse"]["steps_to_threshold"]["iqm_curve"] > 20


def test_few_seeds_are_said_to_be_few(make_curves):
    verdict = summarize(make_curves(seeds=3))["groups"][0]["verdict"]
    assert verdict["headline"].startswith("Too few seeds to tell. On these 3: ")
    assert any("Fewer than 5 seeds" in caution for caution in verdict["cautions"])
    assert summarize(make_curves(seeds=5))["groups"][0]["reliable"]


def test_one_seed_gives_no_clear_difference(make_curves):
    group = summarize(make_curves(seeds=1))["groups"][0]
    assert "No reward learned clearly faster" in group["verdict"]["headline"]


@pytest.mark.parametrize("baseline", ["sparse", "abc"])
def test_below_five_seeds_nothing_is_clear(make_curves, baseline: str):
    curves = make_curves(seeds=4)
    summary = summarize(curves, SummarySettings(baseline=baseline))
    (group,) = summary["groups"]
    assert not re.search("learned (slower|faster)", " ".join(group["verdict"]["sentences"]))
    assert "learned slower" not in group["verdict"]["headline"]
    page = render_report(summary, curves)
    assert 'class="mark' not in page
    assert "▲" not in page.split("<tbody>")[1].split("</tbody>")[0]


def test_a_level_not_reached_is_said_with_its_interval():
    """Two equal rewards: where the mean curve stays below sparse's end, the interval says so."""
    generator, said = np.random.default_rng(3), 0
    for _ in range(12):
        curves = [
            Curve(
                credit=name,
                seed=seed,
                steps=np.arange(6.0),
                values={"score": np.arange(6.0) + generator.normal(scale=2.0, size=6)},
            )
            for name in ("sparse", "abc")
            for seed in range(5)
        ]
        (sentence,) = summarize(curves)["groups"][0]["verdict"]["sentences"]
        if "did not reach" in sentence:
            said += 1
            assert re.search(r"within the budget; .*95% interval of its updates", sentence)
    assert said > 0


def test_failed_runs_are_counted_and_named(make_curves):
    curves = make_curves(("sparse", "abc"))
    broken = curves[0].values["score"].copy()
    broken[4] = math.nan
    curves[0] = Curve(
        credit="sparse", seed=0, steps=curves[0].steps, values={**curves[0].values, "score": broken}
    )
    summary = summarize(
        curves, SummarySettings(failed=[{"credit": "abc", "seed": 9, "error": "boom", "group": {}}])
    )
    assert [(run["credit"], run["seed"]) for run in summary["failed"]] == [
        ("abc", 9),
        ("sparse", 0),
    ]
    assert summary["failed"][1]["error"] == "score is nan at step 12"
    group = summary["groups"][0]
    assert group["rewards"]["sparse"]["runs"] == 4
    assert group["rewards"]["abc"]["versus_baseline"]["differences"]["score"]["auc"]["pairs"] == 4
    said = " ".join(group["verdict"]["cautions"])
    assert "Not in the figures: 2 failed runs (abc, seed 9; sparse, seed 0), which may" in said
    assert "finished run" not in group["verdict"]["headline"]  # each reward has one


def test_a_reward_without_finished_runs_is_in_the_headline(make_curves):
    failed = [{"credit": "mine", "seed": s, "error": "boom", "group": {}} for s in range(2)]
    missing: list[dict[str, Any]] = [{"credit": "abc", "seed": s, "group": {}} for s in (3, 4)]
    settings = SummarySettings(failed=failed, missing=missing)
    group = summarize(make_curves(("sparse", "abc"), seeds=3), settings)["groups"][0]
    assert group["verdict"]["headline"].endswith("; mine has no finished run.")
    said = " ".join(group["verdict"]["cautions"])
    assert "2 failed runs (mine, seeds 0 and 1), which may" in said
    assert "runs that have not ended (abc, seeds 3 and 4); the comparison's own command" in said
    alone = summarize(make_curves(("sparse",)), settings)["groups"][0]["verdict"]["headline"]
    assert alone.startswith("Only one reward has finished runs, so nothing to compare: sparse")
    assert alone.endswith("; mine and abc have no finished run.")


def test_one_seed_has_no_interval(make_curves):
    curves = make_curves(("sparse", "abc"), seeds=1)
    summary = summarize(curves)
    (group,) = summary["groups"]
    (sentence,) = group["verdict"]["sentences"]
    assert "no interval" in sentence
    assert re.search(r"final score in 0\.\d+ times the updates\. ", sentence)
    assert "unreliable, and one seed has none" in " ".join(group["verdict"]["cautions"])
    for text in (group_table(group, 0.95, "Markdown"), group_table(group, 0.95, "LaTeX")):
        assert "over 1 seed;" in text
        assert " to " not in text
    page = re.sub(r"<[^>]+>", " ", render_report(summary, curves))
    assert not re.search(r"\d%? to \d", page)
    cells = [f"{cell}" for table in _figures(group, 200) for c in table.columns for cell in c.cells]
    assert not any("\n" in cell for cell in cells)


def test_a_baseline_without_runs_is_replaced_aloud(make_curves):
    failed = [{"credit": "sparse", "seed": 0, "error": "boom", "group": {}}]
    group = summarize(
        make_curves(("uniform", "abc")), SummarySettings(baseline="sparse", failed=failed)
    )["groups"][0]
    assert group["baseline"] == "uniform"
    assert "sparse has no finished run here; uniform takes its place" in " ".join(
        group["verdict"]["cautions"]
    )


def test_over_optimisation_is_said_first(make_curves):
    curves = make_curves(("sparse", "abc"))
    for curve in curves:
        if curve.credit == "abc":  # gold turns down at update 15
            curve.values["gold_score"][:] = 0.5 - np.abs(curve.steps - 15.0) / 50.0
    group = summarize(curves)["groups"][0]
    assert group["rewards"]["sparse"]["alarms"] == []
    (alarm,) = group["rewards"]["abc"]["alarms"]
    assert alarm.startswith("from update 15 on the gold score fell (0.5 to 0.2) while the score")
    assert group["verdict"]["cautions"][0] == f"abc: {alarm}."


def test_the_baseline_can_be_chosen(make_curves):
    group = summarize(make_curves(), SummarySettings(baseline="abc"))["groups"][0]
    assert group["baseline"] == "abc"
    assert "sparse and uniform learned slower" in group["verdict"]["headline"]
    with pytest.raises(ValueError, match="baseline 'red' is none of the rewards: sparse, uniform"):
        summarize(make_curves(), SummarySettings(baseline="red"))


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
        settings = SummarySettings(anchors={"score": 0.0}, axis="tokens")
        (group,) = summarize(curves, settings)["groups"]
        figures = [group["rewards"][name] for name in ("ppo", "loo")]
        found.append([(e["collapse_rate"], e["figures"]["score"]["final"]) for e in figures])
    assert found[0] == found[1]


def test_levels_are_reached_in_the_unit_of_the_curves(make_curves):
    units: dict[Axis, str] = {"step": "Updates", "tokens": "Tokens"}
    for axis, unit in units.items():
        (group,) = summarize(make_curves(), SummarySettings(axis=axis))["groups"]
        heads = [title for title, _, _ in columns(group)]
        assert f"{unit} to sparse's final level" in heads


def test_nothing_to_summarise():
    with pytest.raises(ValueError, match=r"no run to summarise, 1 failed \(the first: boom\)"):
        summarize([], SummarySettings(failed=[{"credit": "a", "seed": 0, "error": "boom"}]))


def test_the_same_curves_give_the_same_bytes(make_curves, tmp_path: Path):
    for name in ("a.json", "b.json"):
        np.random.seed(None)
        write_json(tmp_path / name, summarize(make_curves(), SummarySettings(kl_coef=0.05)))
    text = (tmp_path / "a.json").read_bytes()
    assert text == (tmp_path / "b.json").read_bytes()
    assert "wall_s" not in json.dumps(json.loads(text))
    json.loads(text, parse_constant=lambda value: pytest.fail(f"{value} is no JSON"))


def test_numbers_in_words():
    assert number(-0.0004) == "0.000"
    assert signed(0.0) == "0.000"
    assert signed(-1.5) == "\u22121.50"
    assert signed(12.345) == "+12.3"
    assert number(math.inf) == "\u221e"


def test_the_figures_fit_a_terminal(make_curves, capsys: pytest.CaptureFixture[str]):
    curves = make_curves(("sparse", "folder/of/rules.py:Surprisal"))
    (group,) = summarize(curves, SummarySettings(kl_coef=0.05))["groups"]
    for width, parts in ((200, 1), (90, 1), (80, 2), (44, 3)):
        tables = list(_figures(group, width))
        for table in tables:
            Console(width=width).print(table)
        shown = capsys.readouterr().out
        assert len(tables) == parts
        assert shown.count("Surprisal") == parts
        assert "…" not in shown
        assert all(len(line.rstrip()) <= width for line in shown.splitlines())
        for part in ("over the run", "at equal KL", "gold", "KL", "reached", "at 28"):
            assert part in shown
