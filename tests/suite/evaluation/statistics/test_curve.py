"""The curve of one run, by numbers that are worked out by hand."""

import math

import numpy as np
import pytest

from tokengym.evaluation.statistics import Curve, pairs
from tokengym.evaluation.statistics.curve import on_one_grid, scored_alike
from tokengym.evaluation.statistics.frontier import there

ROWS = [
    {"rule": "abc", "step": 0, "tokens": 0, "score": 0.0, "kl": 0.0, "gold_score": None},
    {"rule": "abc", "step": 1, "tokens": 100, "score": 1.0, "kl": 0.5, "gold_score": 0.5},
    {"rule": "abc", "step": 2, "tokens": 400, "score": 2.0, "kl": 1.0, "gold_score": 1.0},
]


def test_a_curve_is_made_of_rows_and_knows_what_it_lacks():
    curve = Curve.of(ROWS, credit="abc", seed=3)
    assert curve.steps.tolist() == [0.0, 1.0, 2.0]
    assert "rule" not in curve.values
    assert (curve.has("score"), curve.has("gold_score"), curve.has("length")) == (
        True,
        False,
        False,
    )
    assert (curve.nan_step("gold_score"), curve.nan_step("score")) == (0.0, None)
    assert curve.invalid() is None
    broken = Curve.of([*ROWS, ROWS[2] | {"step": 3, "score": math.inf}])
    assert broken.invalid() == "score is inf at step 3"
    assert Curve.of(ROWS, ("score",)).values.keys() == {"score"}


def test_a_missing_score_is_left_out_of_all_runs_of_its_seed():
    def run(credit: str, seed: int, *scores: float | None) -> Curve:
        rows = [{"step": s, "tokens": 10 * s, "score": y} for s, y in enumerate(scores)]
        return Curve.of(rows, credit=credit, seed=seed)

    runs = [
        run("a", 0, 0.0, None, 4.0, 6.0),
        run("b", 0, 0.0, 9.0, 2.0, 2.0),
        run("b", 1, 0.0, 3.0, 3.0, 3.0),
        run("a", 1, 0.0, 1.0, math.inf, 1.0),
    ]
    for on in (runs, [one.over_tokens() for one in runs]):  # matched by updates on either axis
        a, b, other = scored_alike(on)
        assert (a.updates.tolist(), b.updates.tolist()) == ([0, 2, 3], [0, 2, 3])
        assert other.updates.tolist() == [0, 1, 2, 3]
        assert a.area() == pytest.approx((4.0 / 2 * 2 + 5.0) / 3)
        assert b.area() == pytest.approx((2.0 / 2 * 2 + 2.0) / 3)
        assert (a.end(), b.end()) == (6.0, 2.0)
    short = run("b", 0, 0.0, 5.0)  # ends where a lacks a score: its end is its own
    assert scored_alike([runs[0], short])[1]["score"].tolist() == [0.0, 5.0]
    few = Curve.of([{"step": 0, "score": None}, {"step": 1, "score": 1.0}])
    assert few.invalid() == "score is missing at step 0, its first"
    assert run("a", 0, 0.0, 1.0, None).invalid() == "score is missing at step 2, at its end"


def test_means_are_over_updates_or_over_tokens():
    curve = Curve.of(ROWS)
    assert curve.area() == pytest.approx(1.0)  # (.5 + 1.5) / 2
    over = curve.over_tokens()
    assert over["step"].tolist() == [0.0, 1.0, 2.0]
    assert over.area() == pytest.approx((0.5 * 100 + 1.5 * 300) / 400)
    # Score - 0.4 KL is 0, .8 and 1.6.
    assert over.priced(0.4).area("net_score") == pytest.approx((0.4 * 100 + 1.2 * 300) / 400)
    with pytest.raises(ValueError, match="tokens of abc, seed 0, are not known"):
        Curve.of([{"step": 0, "score": 1.0}], credit="abc").over_tokens()


def test_evaluations_at_equal_tokens_count_once():
    curve = Curve.of([{"step": s, "tokens": t, "score": 1.0} for s, t in ((0, 0), (1, 9), (2, 9))])
    assert curve.over_tokens().area() == 1.0


def test_an_end_that_was_interpolated_is_in_means_and_is_no_policy():
    run = Curve.of([row | {"kl": 1.0 + 0.5 * at} for at, row in enumerate(ROWS)])
    cut = run.over_tokens().between(50.0, 250.0)
    assert cut.steps.tolist() == [50.0, 100.0, 250.0]
    assert cut["score"].tolist() == [0.5, 1.0, 1.5]
    assert cut.cut == (1, 1)
    assert cut.area() == pytest.approx((0.75 * 50 + 1.25 * 150) / 200)
    assert there(cut, 1.6) is None  # one policy was measured within it, at 1.5 nats
    found = there(run, 1.6)
    assert found is not None
    assert found[:3] == pytest.approx((1.5, 1.0, 1.0))


def test_runs_of_unlike_steps_are_read_at_steps_that_are_alike():
    def run(*steps: float) -> Curve:
        at = np.array(steps)
        table = {"score": np.stack([at, at + 1.0], axis=1)}
        return Curve(steps=at, values={"score": at**2}, responses=table)

    often, seldom, beside = run(*range(13)), run(0, 4, 8, 12), run(0, 3, 6, 9, 12)
    alike = on_one_grid([often, seldom])
    assert [curve.steps.tolist() for curve in alike] == [[0.0, 4.0, 8.0, 12.0]] * 2
    assert alike[0].responses["score"].tolist() == [[0, 1], [4, 5], [8, 9], [12, 13]]
    assert alike[0].area() == alike[1].area() == (0.0 / 2 + 16 + 64 + 144 / 2) / 3
    # in common are the two ends alone, which say nothing of what lies between
    assert on_one_grid([seldom, beside]) == [seldom, beside]
    near = run(0, 4, 7, 12)  # one of the two between the ends: half, and so enough
    assert [curve.steps.tolist() for curve in on_one_grid([seldom, near])] == [[0.0, 4.0, 12.0]] * 2
    shifted = run(0, 3.5, 7.5, 11.5, 12)
    assert on_one_grid([shifted, beside]) == [shifted, beside]  # over tokens: as often, apart
    read, own = on_one_grid([often, shifted])  # more than half as many again
    assert own is shifted
    assert (read.steps.tolist(), read["score"][1], read.responses) == (own.steps.tolist(), 12.5, {})


def test_two_runs_over_tokens_are_not_compared_by_their_ends():
    late = Curve(steps=np.array([0.0, 900, 2100, 3000]), values={"score": np.array([0.0, 0, 0, 1])})
    soon = Curve(
        steps=np.array([0.0, 1000, 2000, 3000]), values={"score": np.array([0.0, 1, 1, 1])}
    )
    areas = [curve.area() for curve in on_one_grid([late, soon])]
    assert areas == pytest.approx([0.15, 2500 / 3000])


def test_the_end_is_the_last_tenth():
    rows = [{"step": at, "score": float(at), "kl": 0.1 * at} for at in range(21)]
    curve = Curve.of(rows)
    assert [curve.end(name) for name in ("score", "kl")] == pytest.approx([19.0, 1.9])  # 18 to 20


def test_pairs_are_of_one_seed_and_over_what_both_reached():
    def run(seed: int, *tokens: float) -> Curve:
        at = np.array(tokens)
        return Curve(steps=at, values={"score": at}, seed=seed)

    x = {0: run(0, 0, 10, 20), 1: run(1, 0, 10, 20), 2: run(2, 0, 10)}
    y = {0: run(0, 0, 15), 1: run(1, 5, 30), 9: run(9, 0, 5)}
    (first, second) = pairs(x, y)
    assert [curve.steps.tolist() for curve in first] == [[0, 10, 15], [0, 15]]
    assert [curve.steps.tolist() for curve in second] == [[5, 10, 20], [5, 20]]
    assert [curve.area() for curve in first] == [7.5, 7.5]
    with pytest.raises(ValueError, match=r"seed 0, share no two steps \(from 20 to 10\)"):
        pairs({0: run(0, 0, 10)}, {0: run(0, 20, 30)})
