from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tokengym.evaluation.statistics import (
    Curve,
    compare_at_kl,
    leaps,
    pooled_kl,
)
from tokengym.evaluation.statistics.frontier import stretch


def test_a_leap_is_one_update_over_more_than_a_nat():
    # 6 nats in ten updates are none
    assert leaps([0, 1, 2, 12], [0.0, 0.5, 2.0, 8.0]).tolist() == [False, True, False]


def path(slope: float, kl: Sequence[float] | np.ndarray, noise: float = 0.0) -> Curve:
    """Return a run whose score is slope * KL + noise, and whose gold is half of it."""
    updates, nats = np.arange(len(kl), dtype=float), np.array(kl)
    score = slope * nats + noise
    values = {"score": score, "gold_score": score / 2.0, "kl": nats, "tokens": 100.0 * updates}
    return Curve(steps=updates, values=values)


def test_a_run_is_cut_at_a_budget_of_tokens():
    run = path(1.0, [0.0, 0.5, 6.5]).over_tokens()
    cut = run.between(0.0, 150.0)
    assert cut.steps.tolist() == [0.0, 100.0, 150.0]
    assert (cut["step"][-1], cut["kl"][-1], cut["score"][-1]) == (1.5, 3.5, 3.5)
    assert run.between(0.0, 50.0)["gold_score"].tolist() == [0.0, 0.125]
    assert run.between(0.0, 999.0) is run
    with pytest.raises(ValueError, match=r"above 0 .*got 0"):
        run.between(0.0, 0.0)


def test_a_run_that_is_none_is_refused():
    with pytest.raises(ValueError, match="steps must"):
        replace(path(1.0, [0.0, 1.0]), steps=np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"alike, got \[\(2,\), \(3,\)"):
        Curve(steps=np.arange(2.0), values={"kl": np.zeros(3)})


def test_arms_without_runs_in_common_are_refused():
    with pytest.raises(ValueError, match=r"\[\] and \[1\]"):
        compare_at_kl({}, {1: path(1.0, [0.0, 1.0])})
    with pytest.raises(ValueError, match="above 0 nats, got 0"):
        compare_at_kl({1: path(1.0, [0.0, 1.0])}, {1: path(1.0, [0.0, 1.0])}, 0.0)


# --- a level from a stretch -----------------------------------------------------------------------


def test_a_run_is_read_over_its_last_stretch_at_a_level():
    kl = np.array([0.0, 1.9, 2.1, 2.0, 5.0, 6.0, 2.2, 1.8, 9.0])
    exact = np.zeros(len(kl))
    assert stretch(kl, exact, 2.0) == slice(6, 8)  # a shorter row, later
    assert stretch(kl, exact, 2.0, count=2) == slice(6, 8)
    assert stretch(kl[:6], exact[:6], 2.0, count=3) == slice(1, 4)
    assert stretch(kl, exact, 5.5, count=2) == slice(4, 6)
    assert stretch(np.array([0.0, 1.7, 1.6, 1.7]), exact[:4], 2.0) == slice(1, 4)  # the nearest
    assert stretch(kl, exact, 9.0) is None  # one policy alone
    assert stretch(np.array([0.0, 1.0, 1.1, 1.0]), exact[:4], 2.0) is None  # 40 % off and more
    assert stretch(np.array([0.0, 1.0, 1.1, 1.0]), exact[:4] + 0.5, 2.0) is not None


def test_a_straight_frontier_is_read_at_its_level():
    """Runs beside the level are moved to it by their own slope; 3 pairs are the fewest."""
    held = 1.8 + 0.2 * np.sin(np.arange(25) / 4.0)
    x, y = (
        {seed: path(slope, held + up + 0.01 * seed) for seed in range(5)}
        for slope, up in ((2.0, 0.0), (1.0, 0.3))
    )
    at = compare_at_kl(x, y, 2.0)
    assert at is not None
    assert (at.value, at.baseline_value) == pytest.approx((4.0, 2.0), abs=0.02)
    assert at.difference.difference == pytest.approx(2.0, abs=0.02)
    assert (at.difference.pairs, at.of) == (5, 5)
    assert (at.own_kl, at.baseline_kl) == pytest.approx((2.0, 2.0), rel=0.05)
    gold = compare_at_kl(x, y, 2.0, measure="gold_score")
    assert gold is not None
    assert gold.value == pytest.approx(2.0, abs=0.02)
    of_end = compare_at_kl(x, y)  # where y ends
    assert of_end is not None
    assert of_end.kl == np.mean([curve.end("kl") for curve in y.values()])
    assert compare_at_kl(x, y, 3.0) is None  # x never was there
    assert compare_at_kl({s: x[s] for s in (0, 1)}, y, 2.0) is None


def test_an_arm_that_was_there_earlier_is_said_to_be():
    rise = np.arange(20) * 0.5
    x = {seed: path(1.0, rise * (1.0 + 0.01 * seed)) for seed in range(4)}
    y = {seed: path(1.0, rise * (0.5 + 0.01 * seed)) for seed in range(4)}
    at = compare_at_kl(x, y, 4.0)
    assert at is not None
    assert at.earlier == 1
    assert at.update < at.baseline_update
    assert at.difference.difference == pytest.approx(0.0, abs=1e-9)


# --- runs of which the truth is known -------------------------------------------------------------

REPEATS, PAIRS, TIME = 200, 5, np.arange(31)


def wander(draws: np.random.Generator, share: float, deviation: float) -> np.ndarray:
    """Return noise, (REPEATS, PAIRS, time), of which a share is that of the point before."""
    fresh = draws.normal(0.0, deviation, (len(TIME), REPEATS, PAIRS))
    rows = [fresh[0]]
    for row in fresh[1:]:
        rows.append(share * rows[-1] + np.sqrt(1.0 - share**2) * row)
    return np.moveaxis(np.array(rows), 0, -1)


def rises(to: float, updates: float) -> np.ndarray:
    return to * (1.0 - np.exp(-TIME / updates))


def returns(peak: float, end: float, updates: float, at: int) -> np.ndarray:
    """Return KL that is at a peak at an update and comes back to an end."""
    back = end + (peak - end) * np.exp(-(TIME - at) / updates)
    return np.where(TIME <= at, peak * TIME / at, back)


DESIGNS = {
    "held beside the level": ((rises(1.8, 3), 1.0), (rises(2.0, 3), 1.0), 2.0, 0.1),
    "two speeds of rising": ((rises(10, 6), 0.4), (rises(10, 10), 0.4), 8.0, 0.1),
    "an overshoot": ((returns(12, 6, 6, 10), 0.6), (returns(12, 9, 6, 10), 0.6), 10.0, 0.1),
    "a leap and a rise": ((returns(5, 2.3, 4, 1), 1.0), (rises(4, 8), 0.4), 2.5, 0.1),
    "a KL of .28 nats error": ((rises(1.8, 3), 1.0), (rises(2.0, 3), 1.0), 2.0, 0.2),
}
"""Design -> KL by update of x and of y, each with how much it wanders, the level, and the error of
a KL of one nat."""


@pytest.mark.parametrize("design", DESIGNS)
def test_arms_on_one_frontier_are_level(design: str) -> None:
    """At 200 fixed seeds, of which a coverage of .95 has an error of .015."""
    *arms, level, error = DESIGNS[design]
    draws = np.random.default_rng(100_000)
    tables = []
    for shape, size in arms:
        speed = np.exp(draws.normal(0.0, 0.05, (REPEATS, PAIRS, 1)))
        true = np.maximum(shape * speed * (1.0 + size * wander(draws, 0.6, 0.075)), 0.0)
        score = 2.0 * (1.0 - np.exp(-true / 4.0)) + draws.normal(0.0, 0.05, true.shape)
        errors = error * np.sqrt(np.maximum(true, 0.01)) * (TIME > 0)
        kl, round_kl = (
            np.maximum(true + draws.normal(0.0, share, true.shape) * errors, 0.0)
            for share in (1.0, 1.4)
        )
        tables.append({"score": score, "kl": kl, "round_kl": round_kl})
    found = []
    for i in range(REPEATS):
        x, y = (
            {
                s: Curve(
                    steps=np.asarray(TIME, dtype=np.float64),
                    values={k: v[i, s] for k, v in table.items()},
                )
                for s in range(PAIRS)
            }
            for table in tables
        )
        found.append(compare_at_kl(x, y, level))
    differences = [at.difference for at in found if at is not None]
    assert len(differences) == REPEATS
    bias = np.mean([d.difference for d in differences])
    half = np.mean([d.high - d.low for d in differences]) / 2.0
    covered = np.mean([d.low <= 0.0 <= d.high for d in differences])
    assert abs(bias) < half / 4.0
    assert 0.9 <= covered <= 0.99
    assert half < 0.11


def test_two_measurements_of_one_kl_are_weighed_by_their_errors():
    """Deviations .4 and .2 about a straight course: weights .2 and .8, together .179."""
    generator = np.random.default_rng(3)
    true = np.full(20_000, 9.0)
    pooled, errors = pooled_kl(
        true + 0.4 * generator.normal(size=true.size), true + 0.2 * generator.normal(size=true.size)
    )
    assert np.std(pooled - true) == pytest.approx(0.179, abs=0.003)
    assert errors.mean() == pytest.approx(0.179, abs=0.005)
    kl = np.array([0.0, 1.0, 2.0, 3.0])
    assert pooled_kl(kl)[0].tolist() == kl.tolist()  # one alone
    assert pooled_kl(kl, [0.0, 1.0, 2.0, np.nan])[0].tolist() == kl.tolist()
    with pytest.raises(ValueError, match=r"alike, got \(4,\) and \(3,\)"):
        pooled_kl(kl, [0.0, 1.0, 2.0])
