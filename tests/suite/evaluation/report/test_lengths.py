"""Runs of unlike length, which may have ended because of what they did."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tokengym.evaluation.measure.measures import Axis
from tokengym.evaluation.report.curves import NEAR_END, read_curves
from tokengym.evaluation.report.facts import EndedEarly
from tokengym.evaluation.report.report import render_report
from tokengym.evaluation.report.summary import SummarySettings, summarize
from tokengym.evaluation.report.tables import cells, columns
from tokengym.evaluation.runs.elsewhere import CurveSettings
from tokengym.evaluation.statistics import Curve

STEPS = np.arange(31.0)


def arm(name: str, slope: float, *, ends_at: int = 30, of: tuple[int, ...] = ()) -> list[Curve]:
    """Return ten rising runs, of which some collapse at a step and are logged no further."""
    generator, curves = np.random.default_rng(len(name)), []
    for seed in range(10):
        score = slope * STEPS + 0.05 * generator.normal(size=31)
        last = ends_at if seed in of else 30
        score[last:] = 0.1 if last < 30 else score[last:]
        kept = slice(last + 1)
        curves.append(
            Curve(credit=name, seed=seed, steps=STEPS[kept], values={"score": score[kept]})
        )
    return curves


def test_an_arm_whose_runs_die_as_they_collapse_does_not_win():
    """It leads by half as much again until half of its runs collapse at update 14."""
    curves = [*arm("x", 0.1), *arm("yy", 0.15, ends_at=14, of=(1, 3, 5, 7, 9))]
    summary = summarize(curves)
    (group,) = summary.groups
    assert group.ended_early == {"yy": EndedEarly(seeds=(1, 3, 5, 7, 9), first=14.0)}
    verdict = group.verdict
    assert verdict.headline.startswith("No verdict: 5 of 10 runs of yy ended early (from 14 ")
    versus = group.rewards["yy"].versus_baseline
    common = versus.differences["score"]["auc"]
    assert (common.clear, common.p_adjusted < 0.05) == (0, True)
    # Carried forward a whole run leads by .75; one that collapsed has .15 * 13 / 2 over 13 of its
    # 30 updates, about .05 over the next and .1 from there on, where x has 1.5 throughout.
    collapsed = (0.975 * 13 + (1.95 + 0.1) / 2 + 0.1 * 16) / 30 - 1.5
    assert versus.carried.difference == pytest.approx((0.75 + collapsed) / 2, abs=0.02)
    assert versus.probability_of_improvement == {}
    line = next(line for line in verdict.differences if line.startswith("yy"))
    assert "the last value of a run that ended early carried forward; no verdict" in line
    place = [kind for _, _, kind in columns(group)].index("chance")
    assert cells(group)["yy"][place].below == "runs ended early"
    assert "5 of 10 runs of yy ended early" in render_report(summary, curves)
    # Nor can anything be ahead of a baseline whose runs ended early, or of such a control.
    (group,) = summarize(curves, SummarySettings(baseline="yy")).groups
    assert group.verdict.headline.startswith("No verdict: ")
    controls = SummarySettings(controls=("yy",))
    (group,) = summarize([*curves, *arm("z", 0.3)], controls).groups
    assert group.verdict.headline.startswith("z learned faster than x")
    assert group.rewards["z"].unbeaten_controls == ["yy"]


def test_an_arm_of_a_shorter_budget_is_compared_over_what_both_have():
    curves = [*arm("x", 0.1), *arm("yy", 0.15, ends_at=14, of=tuple(range(10)))]
    for curve in curves:
        curve.values["score"][14:] = 3.0 if curve.credit == "yy" else curve.values["score"][14:]
    (group,) = summarize(curves).groups
    assert group.ended_early == {}
    assert group.verdict.headline.startswith("yy learned faster than x")
    # Learners end an update apart in tokens.
    for curve in (c for c in curves if c.seed == 0 and c.credit == "x"):
        object.__setattr__(curve, "steps", curve.steps * (1.0 - 0.9 * NEAR_END))
    ended_early: dict[Axis, set[str]] = {"tokens": set(), "step": {"x"}}
    for axis, early in ended_early.items():
        (group,) = summarize(curves, SummarySettings(axis=axis)).groups
        assert {*group.ended_early} == early


def test_runs_of_few_dear_updates_that_used_their_budget_did_not_end_early():
    """As of a rule that samples continuations: four or five updates reach 30,000 tokens."""
    ends = {"x": [30_000.0] * 5, "mc": [32_300.0, 37_300.0, 33_900.0, 32_300.0, 36_000.0]}
    curves = []
    for name, tokens in ends.items():
        for seed, last in enumerate(tokens):
            updates = np.linspace(0.0, 30.0 if name == "x" else round(last / 8_000.0), 5)
            values = {"score": np.linspace(0.0, 1.0, 5), "step": updates}
            steps = np.linspace(0.0, last, 5)
            curves.append(Curve(credit=name, seed=seed, steps=steps, values=values))
    (group,) = summarize(curves, SummarySettings(axis="tokens")).groups
    assert group.ended_early == {}
    early = replace(curves[-1], steps=curves[-1].steps * 0.7)  # more than an update before
    (group,) = summarize([*curves[:-1], early], SummarySettings(axis="tokens")).groups
    assert group.ended_early["mc"].seeds == (4,)


def lengths(*ends: int, groups: bool = False, axis: Axis = "step") -> str:
    """Return the length that a page names, of runs with these last steps."""
    curves = [
        Curve(
            credit="x" if groups else f"x{number}",
            seed=0,
            group=(("cell", str(number)),) if groups else (),
            steps=np.array([0.0, 1.0, end]),
            values={"score": np.array([0.0, 1.0, 2.0])},
        )
        for number, end in enumerate(ends)
    ]
    page = render_report(summarize(curves, SummarySettings(axis=axis)), curves)
    (subtitle,) = re.findall(r"curves · (.*?)<", page)
    return subtitle


def test_a_page_names_the_length_of_its_runs_and_of_runs_of_unlike_length_the_longest():
    assert lengths(30) == "1 reward · 1 run · 30 updates"
    assert lengths(30, 30) == "2 rewards · 2 runs · 30 updates each"
    assert lengths(30, 90) == "2 rewards · 2 runs · up to 90 updates"
    assert lengths(30, 90, groups=True) == "1 reward · 2 runs · up to 90 updates"
    assert lengths(1_234_567, axis="tokens") == "1 learner · 1 run · 1,234,567 tokens"


def test_a_step_of_a_long_run_is_named_to_the_digit():
    rows = [{"credit": "a", "seed": 0, "step": 1_234_567, "score": 1.0}] * 2
    with pytest.raises(ValueError, match="second row for step 1234567 of credit"):
        read_curves(rows)


def test_two_trainings_in_one_log_are_not_one_curve():
    """Stable-Baselines3 counts from 0 again at each ``learn``; the later rows stood in front."""
    rows = [{"timesteps": t, "rollout/ep_rew_mean": 0.1 * t} for t in (64, 128, 192, 64, 128)]
    with pytest.raises(ValueError, match="steps of run fall from 192 to 64, so that several"):
        read_curves(rows)
    (curve,) = read_curves([*rows[:3], {"timesteps": 192, "rollout/ep_rew_mean": 7.0}])
    assert curve.values["score"].tolist() == pytest.approx([6.4, 12.8, 7.0])  # logged twice


@pytest.mark.parametrize("axis", ["Relative Time (Process)", "Wall Time", "anything", "epoch"])
def test_an_exported_chart_is_over_steps(tmp_path, axis):
    file = tmp_path / "chart.csv"
    body = '"a-seed-0 - score","b-seed-0 - score"\n0,0.1,0.1\n60,0.3,0.2\n'
    file.write_text(f'"{axis}",{body}')
    with pytest.raises(ValueError, match=r"chart over .*, which counts no steps.*over Step"):
        read_curves(file)
    for known in ("Step", "train/global_step", "trainer/global_step"):
        file.write_text(f'"{known}",{body}')
        assert [curve.steps.tolist() for curve in read_curves(file)] == [[0.0, 60.0]] * 2


def test_an_axis_that_is_unknown_is_refused():
    with pytest.raises(ValueError, match="axis must be 'step' or 'tokens', got 'foo'"):
        CurveSettings(axis="foo")  # type: ignore[arg-type]


def test_a_level_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"level must be within \(0, 1\), got 95.*0.95 is usual"):
        CurveSettings(level=95)


def test_names_of_errors_group_nothing(tmp_path):
    """A column score_se would set every row apart from the others."""
    rows = [
        {"credit": "a", "seed": 0, "step": s, "score": s, "score_se": 0.1 + s, "other_se": s}
        for s in (0, 1)
    ]
    (curve,) = read_curves(rows)
    assert (curve.group, curve.values["score_se"].tolist()) == ((), [0.1, 1.1])
    with pytest.raises(ValueError, match="other_se cannot group, as names that end in _se are"):
        read_curves(rows, group_by=("other_se",))


def test_a_column_whose_name_has_a_control_character_groups(tmp_path):
    rows = [
        {"credit": "a", "seed": 0, "step": s, "score": s, "a\x07b": g, "c": "same"}
        for g in ("x", "y")
        for s in (0, 1)
    ]
    assert [dict(curve.group)["c"] for curve in read_curves(rows)] == ["same", "same"]
    assert len({curve.group for curve in read_curves(rows)}) == 2
    twins = [{**row, "a␇b": "z"} for row in rows]
    with pytest.raises(ValueError, match="two columns whose names print alike"):
        read_curves(twins)


@pytest.mark.parametrize(
    ("axis", "of_yy", "said"),
    [("step", 2.0, True), ("step", 1.2, False), ("tokens", 2.0, False), ("step", None, False)],
)
def test_tokens_that_one_reward_samples_more_are_said(axis: Axis, of_yy: float | None, said: bool):
    """As a rule does that continues responses: 20,000 in 30 updates, where the other has half."""
    curves = []
    for curve, ratio in [*((c, 1.0) for c in arm("x", 0.1)), *((c, of_yy) for c in arm("yy", 0.1))]:
        tokens = {} if ratio is None else {"tokens": 10_000 / 30 * ratio * STEPS}
        curves.append(replace(curve, values={**curve.values, **tokens}))
    if axis == "tokens":
        curves = [curve.over_tokens() for curve in curves]
    (group,) = summarize(curves, SummarySettings(axis=axis)).groups
    text = " ".join(group.verdict.cautions)
    assert ("Tokens sampled in a run: x 10,000 and yy 20,000." in text) is said
