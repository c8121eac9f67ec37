"""What comparisons are said to show: one page of the words for each kind of comparison."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support import golden
from tests.support.evaluation.common import (
    SEEDS,
    cheaper,
    curves_of,
    fabricate_curves,
    leaping,
    paths_of,
    references,
    root_of,
)
from tests.support.evaluation.verdicts import COMPARED
from tokengym.evaluation.measure.measures import Axis
from tokengym.evaluation.measure.references import ReferenceSamples
from tokengym.evaluation.report.curves import Curve
from tokengym.evaluation.report.facts import LostRun, Verdict
from tokengym.evaluation.report.report import render_report
from tokengym.evaluation.report.summary import SummarySettings, summarize
from tokengym.evaluation.report.tables import group_table

STORED = Path(__file__).parent / "stored"
NOISE = {"abc": 0.02 * SEEDS, "recency": 0.02 * SEEDS**2, "random": -0.01 * SEEDS}
CONTROLS = SummarySettings(controls=("random", "recency"))
BEST = SummarySettings(references=references(300), episodes=100)  # a small sampling error
PRICED = SummarySettings(kl_coef=0.05)


def from_one_start(areas: np.ndarray) -> list[Curve]:
    """Return straight curves of these areas, (seeds, rewards), which all start at -1."""
    return [
        replace(curve, values={"score": np.array([-1.0, 2.0 * curve.area() + 1.0])})
        for curve in curves_of(areas)
    ]


def leading(**leads: float) -> list[Curve]:
    """Return curves whose areas lead sparse's by so much."""
    rows = {"sparse": 0.0 * SEEDS} | {n: lead + NOISE[n] for n, lead in leads.items()}
    return [
        replace(curve, credit=name)
        for name, heights in rows.items()
        for curve in from_one_start(heights[:, None])
    ]


def heights(*levels: float, noise: float = 1e-3) -> list[Curve]:
    """Return flat curves of six seeds at these levels."""
    spread = np.arange(len(levels)) if noise < 0.1 else np.ones(len(levels))
    return curves_of(np.array(levels) + noise * SEEDS[:, None] * spread)


RISE, RISE_SLOWLY = (3.0 * (1.0 - np.exp(-np.arange(0, 31, 2) / tau)) for tau in (8.0, 14.0))
APART = {
    "both flat, one apart": (0.0 * RISE, 0.0 * RISE + 1.0),
    "one learns beside one that is flat and higher": (RISE, 0.0 * RISE + 2.6),
    "y starts above and learns at half the speed": (RISE, RISE_SLOWLY + 1.0),
    "y starts below and learns faster": (RISE_SLOWLY, RISE - 0.5),
}
"""Scores of two arms by update, of which one may never learn."""


def apart_by(x: np.ndarray, y: np.ndarray) -> list[Curve]:
    """Return five runs of each of two arms, with starts of their own."""
    draws = np.random.default_rng(0)
    return [
        Curve(
            credit=credit,
            seed=seed,
            steps=np.arange(0.0, 31.0, 2.0),
            values={"score": shape + draws.normal(0.0, 0.05) + draws.normal(0.0, 0.05, len(shape))},
        )
        for seed in range(5)
        for credit, shape in (("x", x), ("y", y))
    ]


def over_optimised() -> list[Curve]:
    """Return curves of which the gold score of abc turns down at update 15."""
    curves = fabricate_curves(("sparse", "abc"))
    for curve in curves:
        if curve.credit == "abc":
            curve.values["gold_score"][:] = 0.5 - np.abs(curve.steps - 15.0) / 50.0
    return curves


def noisy() -> list[Curve]:
    """Return curves of two equal rewards of which one does not reach the other's end."""
    generator = np.random.default_rng(3)
    generator.normal(size=3 * 60)  # the fourth such curves are the first that do not reach it
    return [
        Curve(
            credit=name,
            seed=seed,
            steps=np.arange(6.0),
            values={"score": np.arange(6.0) + generator.normal(scale=2.0, size=6)},
        )
        for name in ("sparse", "abc")
        for seed in range(5)
    ]


def straight(name: str, ends: tuple[float, float], seeds: range = range(5)) -> list[Curve]:
    """Return rising curves of 11 evaluations between two steps."""
    steps = np.linspace(*ends, 11)
    return [
        Curve(credit=name, seed=seed, steps=steps, values={"score": 0.01 * steps + 0.1 * seed})
        for seed in seeds
    ]


def cases() -> Iterator[tuple[str, list[Curve], SummarySettings]]:
    """Yield a title, curves and settings."""
    plain, made = SummarySettings(), fabricate_curves
    yield "one is faster, at more KL", made(), plain
    yield "another baseline", made(), SummarySettings(baseline="abc")
    yield (
        "two are faster",
        made(("sparse", "abc"))
        + [
            replace(c, credit="red", values={**c.values, "score": c.values["score"] * 0.99})
            for c in made(("abc",))
        ],
        plain,
    )
    yield "a control is as fast", leading(abc=0.3, recency=0.3), CONTROLS
    yield "the noise of seeds hides both", leading(abc=0.03, random=0.02), CONTROLS
    yield "two controls are as fast", leading(abc=0.3, recency=0.31, random=0.3), CONTROLS
    yield "ahead of every control", leading(abc=0.6, recency=0.3, random=0.0), CONTROLS
    yield "a control alone is faster", leading(abc=0.0, recency=0.3), CONTROLS
    rising = from_one_start(np.array([[0.0, 0.2, 0.6, 0.9]]) + 0.01 * SEEDS[:5, None] ** 2)
    last = SummarySettings(controls=("reward-3",))
    yield "the winner stands first and a control last", rising, last
    of_all: list[tuple[float, ...]] = [(0.0, 1.0), (0.0, 2.0), (1.5, 2.0), (1.0,)]
    for levels in of_all:
        yield f"best of 16 is 1.5, the ends are {levels}", heights(*levels), BEST
    of_some: list[tuple[float, ...]] = [(1.49, 2.0), (0.0, 1.49), (0.0, 1.49, 2.0), (1.49,)]
    of_some.append((0.0, 1.51))
    for levels in of_some:
        title = f"best of 16 is 1.5, within the interval of 1.49: the ends are {levels}"
        yield title, heights(*levels, noise=0.1), BEST
    two = [curve for curve in heights(0.0, 2.0) if curve.seed < 2]
    yield "best of 16 is 1.5, the ends are (0.0, 2.0) of two seeds", two, BEST
    alike = ReferenceSamples(scores=np.ones((3, 16)), gold_scores=None, tokens=48)
    yield "the scorer cannot rank", made(), replace(PRICED, references={(): alike})
    scores = -0.52 + 0.01 * np.random.default_rng(0).normal(size=(3, 16))
    drawn = ReferenceSamples(scores=scores, gold_scores=None, tokens=2304)
    noise = SummarySettings(kl_coef=0.001, references={(): drawn})
    yield "the best of 16 is hardly better than one", made(), noise
    lazy = paths_of({"sparse": 8.0, "lazy": 4.0}, lambda _, kl: 2.0 * np.minimum(kl / 0.1, 1.0))
    yield "less drift", lazy, PRICED
    yield "more drift", root_of({"sparse": 4.0, "hasty": 8.0}), plain
    for slope in (1.5, 0.5):
        curves = root_of({"sparse": 4.0, "other": 4.0}, {"other": slope})
        yield f"{slope} times the score at each KL", curves, PRICED
    yield "hardly moved", root_of({"sparse": 0.05, "other": 0.04}), plain
    curves = [c for c in root_of({"sparse": 4.0, "other": 0.04}) if c.seed < 5]
    yield "one has hardly moved", curves, plain
    wide = {seed: 0.4 * SEEDS[seed] for seed in range(6)}
    curves = [
        replace(c, values={**c.values, "score": c["score"] + wide[c.seed] * (c.steps > 0)})
        if c.credit == "hasty"
        else c
        for c in root_of({"sparse": 4.0, "hasty": 8.0})
    ]
    yield "more KL, and an interval at equal KL that holds half the lead", curves, plain
    yield "a leap in KL", leaping(root_of({"sparse": 8.0, "other": 4.0}), "sparse"), plain
    five = np.linspace(-1.0, 1.0, 5)  # each alone is found at 95 % (p = 0.034), not among two
    areas = np.stack([0.0 * five, 0.34 * five + 0.384, 0.34 * five + 0.384], axis=1)
    yield "clear alone", from_one_start(areas[:, :2]), plain
    yield "the same among two", from_one_start(areas), plain
    level = np.stack([SEEDS, SEEDS + 2e-4 + 1e-5 * SEEDS], axis=1)
    yield "a difference that rounds to nothing", curves_of(level), plain
    few = np.stack([np.zeros(3), np.array([1.0, 1.1, 1.2])], axis=1)
    yield "three seeds", curves_of(few), plain
    yield "three seeds, of curves", made(seeds=3), plain
    yield "one seed", made(("sparse", "abc"), seeds=1), plain
    begun = [
        replace(c, steps=c.steps[at:], values={"score": c["score"][at:]})
        for name in ("sparse", "abc", "red")
        for c in straight(name, (0, 50))
        for at in [1 if name == "abc" else 2 * (name == "red" and c.seed == 0)]
    ]
    yield "one seed of red begins later, and all of abc", begun, plain
    ten = straight("sparse", (0, 10), range(10))
    lead = [replace(c, credit="abc") for c in straight("abc", (0, 10), range(10))]
    lead = [replace(c, values={"score": 1.5 * c["score"]}) for c in lead]
    red = straight("red", (0, 10), range(3))
    yield "ten seeds of two, three of red", [*ten, *lead, *red], plain
    yield (
        "ten equal seeds of two, three of red",
        [*ten, *straight("abc", (0, 10), range(10)), *red],
        plain,
    )
    yield (
        "three seeds in common",
        [*ten[:5], *(replace(c, seed=c.seed + 2) for c in lead[:5])],
        plain,
    )
    apart = [replace(c, seed=c.seed + 10) for c in lead]
    yield "no seed in common", [*ten, *apart], plain
    yield "at most three seeds in common", [*ten, *apart, *red], plain
    for title, shapes in APART.items():
        yield title, apart_by(*shapes), plain
    yield "ahead by the net score alone", cheaper(), PRICED
    yield "an end that is not reached", noisy(), plain
    yield "over-optimised", over_optimised(), plain
    failed = [LostRun(credit="mine", seed=s, error="boom") for s in range(2)]
    missing = [LostRun(credit="abc", seed=s) for s in (3, 4)]
    ended = SummarySettings(failed=failed, missing=missing)
    yield "failed and unfinished runs", made(("sparse", "abc"), seeds=3), ended
    yield "one reward has finished", made(("sparse",)), ended
    ends_of: list[tuple[Axis, tuple[int, int]]] = [("tokens", (0, 10_000)), ("tokens", (0, 97_000))]
    for axis, ends in [*ends_of, ("step", (0, 99_000)), ("step", (50_000, 100_000))]:
        runs = [*straight("sparse", (0, 100_000)), *straight("other", ends)]
        yield f"of 100,000 others run from {ends} by {axis}", runs, SummarySettings(axis=axis)
    for seeds in (range(3), range(5, 15), range(10)):
        yield f"ten seeds and {seeds}", [*ten, *straight("other", (0, 10), seeds)], plain
    disk = [LostRun(credit="other", seed=seed, error="disk") for seed in range(3, 10)]
    seven = SummarySettings(failed=disk)
    yield "three of ten seeds have not failed", [*ten, *straight("other", (0, 10), range(3))], seven
    lost = [LostRun(credit="sparse", seed=0, error="boom")]
    settings = SummarySettings(baseline="sparse", failed=lost)
    yield "the baseline has no run", made(("uniform", "abc")), settings


def test_every_kind_of_comparison_is_said_as_it_is_stored():
    page = ["# What comparisons are said to show"]
    for title, curves, settings in cases():
        for group in summarize(curves, settings).groups:
            verdict = group.verdict
            page += ["", f"## {title}", "", verdict.headline, ""]
            page += [f"- note: {note}" for note in verdict.notes]
            page += [f"- {line}" for line in verdict.differences]
            page += [f"- caution: {caution}" for caution in verdict.cautions]
    golden.check(STORED / "verdicts.md", "\n".join(page) + "\n")


def test_a_report_says_what_is_stored(make_curves):
    """Of three rewards, with samples of the untrained policy, a failed run and settings."""
    curves = make_curves()
    failed = [LostRun(credit="abc", seed=7, error="loss is nan at step 3")]
    settings = SummarySettings(
        kl_coef=0.05,
        references=references(),
        failed=failed,
        anchors={"score": -0.5, "gold_score": 0.1},
        optimum={"gold_score": 0.7},
        own_prompts=True,
    )
    about = {"settings": {"env": "MovieReview"}, "versions": {"torch": "2"}, "command": "compare"}
    summary = replace(summarize(curves, settings), about={**about, "compared": COMPARED})
    row = {"seed": 0, "prompt": "the film", "tokens": ["was", " good"], "gold_score": None}
    row |= {"token_rewards": [0.5, -0.25], "response": "was good", "score": 0.25}
    episodes = [
        {**row, "credit": name, "step": step} for name in ("sparse", "abc") for step in (0, 30)
    ]
    page = golden.words(render_report(summary, curves, episodes))
    golden.check(STORED / "report.txt", page.partition("@software")[0])


def said(curves: list[Curve], settings: SummarySettings = BEST) -> Verdict:
    """Return the verdict on curves of one setting."""
    (group,) = summarize(curves, settings).groups
    return group.verdict


def test_too_few_seeds_is_said_by_the_pairs_of_the_arms_and_not_by_the_least_runs():
    ten, lead = (straight(name, (0, 10), range(10)) for name in ("sparse", "abc"))
    lead = [replace(c, values={"score": 1.5 * c["score"]}) for c in lead]
    few = straight("red", (0, 10), range(3))
    assert said([*ten, *lead, *few]).headline == said([*ten, *lead]).headline
    for shift, shared in ((2, "3 seeds"), (4, "1 seed"), (5, "no seed")):
        five = [replace(c, seed=c.seed + shift) for c in lead[:5]]
        assert said([*ten[:5], *five]).headline == (
            f"Too few seeds to tell whether a reward learned faster than sparse: {shared} in "
            "common, and 5 are needed."
        )


def test_best_of_16_is_reached_where_the_whole_interval_is_above_it():
    """Six seeds about 1.5 +- 0.1 hold 1.5; about 2 they do not, and two seeds tell nothing."""
    notes = [said(heights(0.0, end, noise=0.1)).notes for end in (1.51, 2.0)]
    assert notes == [
        ["sparse did not reach the untrained policy's best of 16 (score 1.50)."],
        ["reward-1 reached the untrained policy's best of 16 (score 1.50), and sparse did not."],
    ]
    assert said([c for c in heights(0.0, 2.0) if c.seed < 2]).notes == []


@pytest.mark.parametrize("title", APART)
def test_faster_is_said_of_what_was_gained_over_the_own_start(title: str) -> None:
    headline = said(apart_by(*APART[title]), SummarySettings()).headline
    is_faster = not headline.startswith("No reward learned clearly faster than x; y ")
    assert is_faster == (title == "y starts below and learns faster")


def test_the_level_of_an_interval_is_never_said_to_be_100():
    curves = fabricate_curves()
    for level, shown in ((0.995, "99.5%"), (0.9999, "99.99%"), (0.9, "90%")):
        summary = summarize(curves, SummarySettings(level=level))
        page = render_report(summary, curves)
        words = f"{golden.words(page)} {group_table(summary.groups[0], level, 'Markdown')}"
        found = re.findall(r"([\d.]+%) (?:t )?interval(?! holds)", words)
        assert shown in found
        assert "100%" not in found
        assert words.count(f"{shown} t interval") == 2  # below the table, and of curves


def test_runs_that_begin_late_are_named_with_their_seeds_and_steps():
    curves = [
        replace(c, steps=c.steps[at:], values={"score": c["score"][at:]})
        for name in ("sparse", "abc", "red")
        for c in straight(name, (0, 50))
        for at in [1 if name == "abc" else 2 * (name == "red" and c.seed == 0)]
    ]
    (caution,) = said(curves).cautions
    late = "abc at 5 updates and red (seed 0) at 10 updates"
    assert caution.startswith(f"First evaluated later than others: {late}. ")
    (group,) = summarize(curves).groups
    # By hand: abc rises by .01 a step from 5 to 50, and so does sparse over those steps.
    assert group.rewards["abc"].figures["score"]["auc"].mean == pytest.approx(0.475)
    assert group.rewards["sparse"].figures["score"]["auc"].mean == pytest.approx(0.45)
    assert group.rewards["abc"].difference("score", "auc").difference == pytest.approx(0.0)
