"""Reference samples: how they are drawn and kept, and the lines that are made of them."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.support.evaluation.common import fabricate_curves, group_of
from tokengym.agents.losses.ranking import best_of_n_kl_bound, mean_of_best
from tokengym.agents.offline.policies import make_policy
from tokengym.evaluation.measure.evaluate import Evaluator
from tokengym.evaluation.measure.references import (
    ReferenceSamples,
    check_ranks,
    common_samples,
    draw_references,
    read_references,
    score_range,
    span_error,
)
from tokengym.evaluation.report.tables import reference_levels, untrained

RISING = np.tile(np.arange(16.0), (2, 1))  # two prompts, scores 0 to 15


def samples(scores: Any, gold: Any = None) -> ReferenceSamples:
    return ReferenceSamples(
        scores=np.asarray(scores, dtype=float),
        gold_scores=None if gold is None else np.asarray(gold, dtype=float),
        tokens=100,
    )


@pytest.fixture(scope="module")
def evaluator() -> Iterator[Evaluator]:
    made = Evaluator("MovieReview", {"max_new_tokens": 4}, num_episodes=3, seed=5)
    yield made
    made.close()


@pytest.fixture(scope="module")
def policy(evaluator: Evaluator) -> Any:
    return make_policy(evaluator.envs, device="cpu")


@pytest.fixture(scope="module")
def whole(evaluator: Evaluator, policy: Any) -> ReferenceSamples:
    return draw_references(evaluator, policy, 32)


def test_responses_are_scored_as_every_run_is(evaluator, policy, whole, monkeypatch):
    assert whole.scores.shape == (3, 32)
    assert whole.gold_scores.shape == (3, 32)
    assert 3 * 32 <= whole.tokens <= 3 * 32 * 4
    from tokengym.agents.offline.collecting import ResponseCollector

    written: list[Any] = []
    write = ResponseCollector.write

    def kept(*args: Any, **kwargs: Any) -> list[Any]:
        written[:] = write(*args, **kwargs)
        return written

    monkeypatch.setattr(ResponseCollector, "write", kept)
    drawn = draw_references(evaluator, policy, 16)
    measured = evaluator(policy)
    assert [group[0].prompt for group in written] == [e.prompt for e in measured.episodes]
    assert drawn.tokens == sum(len(e.response_ids) for group in written for e in group)
    by_hand = evaluator.gold.score([written[1][7]]).values[0]
    assert drawn.gold_scores[1, 7] == pytest.approx(by_hand, rel=1e-5)
    # The evaluation's own 3 responses are of the same policy: no shaping, no centring.
    assert abs(measured.metrics["score"] - whole.scores.mean()) < 4 * whole.scores.std() / 3**0.5


def test_a_draw_that_was_stopped_continues(evaluator, policy, whole, tmp_path):
    file = tmp_path / "samples.json"

    def stop(drawn: ReferenceSamples) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_references(evaluator, policy, 32, file=file, told=stop)
    assert read_references(file).scores.shape == (3, 16)
    told: list[int] = []
    again = draw_references(
        evaluator, policy, 32, file=file, told=lambda drawn: told.append(drawn.scores.shape[1])
    )
    assert told == [32]  # the first block is not drawn again
    np.testing.assert_array_equal(again.scores, whole.scores)
    np.testing.assert_array_equal(again.gold_scores, whole.gold_scores)
    assert again.tokens == whole.tokens
    kept = draw_references(evaluator, policy, 16, file=file)  # fewer are there already
    np.testing.assert_array_equal(kept.scores, whole.scores)
    assert len({tuple(row) for row in whole.scores.T}) == 32  # no two samples share a seed


def test_without_a_scorer_nothing_can_be_ranked(evaluator):
    scored, evaluator.envs = evaluator.envs, gym.make_vec("tokengym/MovieReview-v0", num_envs=1)
    try:
        check_ranks(evaluator, 16)  # the task's own reward
        bare = evaluator.envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=1, reward=None)
        check_ranks(evaluator, 0)
        with pytest.raises(ValueError, match="reference_samples=16"):
            check_ranks(evaluator, 16)
        bare.close()
    finally:
        evaluator.envs = scored


def test_lines_by_hand():
    # Of 0 to 15 the mean is 7.5, and the best of two 17 * 2 / 3 - 1 on average.
    lines = samples(RISING, gold=-RISING).lines(kl_coef=0.5)
    assert (lines.samples, lines.prompts, lines.tokens) == (16, 2, 100)
    rows = {row.n: row for row in lines.best_of_n}
    assert list(rows) == [1, 2, 4, 8, 16]  # no more than there are
    assert [rows[n].score for n in (1, 2, 16)] == pytest.approx([7.5, 31 / 3, 15.0])
    assert rows[16].gold_score == -15.0  # of the response with the highest score
    assert rows[2].kl == pytest.approx(np.log(2) - 0.5)
    assert rows[16].net_score == pytest.approx(15.0 - 0.5 * best_of_n_kl_bound(16))
    # Near 15 - 0.5 log 16, and the best of 16 has 15 - 0.5 (log 16 - 15 / 16).
    bound = 0.5 * np.log(np.mean(np.exp(np.arange(16.0) / 0.5)))
    assert bound < rows[16].net_score == lines.optimum
    dear = samples(RISING).lines(kl_coef=50.0)
    assert dear.optimum == pytest.approx(50 * np.log(np.mean(np.exp(np.arange(16.0) / 50))))
    assert dear.optimum > max(row.net_score for row in dear.best_of_n)
    net = -0.5 * best_of_n_kl_bound(16)
    assert samples(RISING, gold=-RISING).lines(0.5, by_gold=True).best_of_n[-1] == (
        replace(rows[16], score=0.0, gold_score=0.0, net_score=net)
    )


def test_a_missing_score_leaves_every_size_of_the_same_prompts():
    # An easy prompt, and a hard one that lacks a score: by hand 10 and 0 at every n.
    easy, hard = [10.0] * 16, [0.0] * 15 + [np.nan]
    lines = samples([easy, hard]).lines(0.05)
    assert [row.n for row in lines.best_of_n] == [1, 2, 4, 8]  # all have 15
    assert [row.score for row in lines.best_of_n] == pytest.approx([5.0] * 4)
    assert lines.optimum == pytest.approx(5.0, abs=0.1)
    assert lines.unscored == 1
    # The best of two of 1, 2, 3 is 2, 3 or 3; of the first three of 4 to 7 it is 5, 6 or 6.
    few = samples([[1.0, 2.0, 3.0, np.nan], [4.0, 5.0, 6.0, 7.0]]).lines(None)
    expected = [(2.0 + 5.0) / 2, (8 / 3 + 17 / 3) / 2]
    assert [row.score for row in few.best_of_n] == pytest.approx(expected)
    assert samples([[np.nan] * 4] * 2).lines(None).best_of_n == []


def test_failures_on_hard_prompts_do_not_raise_the_goal():
    generator = np.random.default_rng(0)
    whole = generator.normal(size=(64, 16)) - 4.0 * (np.arange(64) >= 32)[:, None]
    lacking = whole.copy()
    lacking[32:, 5] = np.nan
    of_whole, of_lacking = (samples(scores).lines(0.05) for scores in (whole, lacking))
    assert [row.n for row in of_lacking.best_of_n] == [1, 2, 4, 8]
    for row, other in zip(of_whole.best_of_n, of_lacking.best_of_n, strict=False):
        assert row.score - 0.1 < other.score < row.score + 0.05
        assert other.error == pytest.approx(row.error, rel=0.05)
    assert of_lacking.optimum < np.nanmax(lacking, axis=1).mean()


def test_the_table_says_how_many_responses_have_no_score():
    def note(scores: Any) -> str:
        lines = samples(scores).lines(0.05)
        table = untrained(replace(group_of(fabricate_curves()), reference=lines))
        assert table is not None
        return str(table["note"])

    assert "no score" not in note(RISING)
    assert note([[1.0, np.nan], [2.0, 3.0]]).endswith(
        "1 response has no score: every prompt keeps as many as nine in ten have, and a prompt "
        "with fewer is left out."
    )


def test_score_and_gold_score_are_of_the_same_responses():
    gold = [[10.0, 20.0, 30.0, np.nan], [1.0, 2.0, 3.0, np.nan]]
    drawn = samples([[1.0, 2.0, np.nan, np.nan], [4.0, 3.0, 2.0, np.nan]], gold)
    (one, two), lines = drawn.lines(None).best_of_n, drawn.lines(None)
    # Two responses of each have both: scores 1 and 2, gold 10 and 20; 4 and 3, gold 1 and 2.
    assert (one.score, one.gold_score) == pytest.approx(((1.5 + 3.5) / 2, (15 + 1.5) / 2))
    assert (two.score, two.gold_score) == pytest.approx(((2.0 + 4.0) / 2, (20.0 + 1.0) / 2))
    assert lines.unscored == 3


@pytest.mark.parametrize("price", [0.0, None])
def test_without_a_price_the_optimum_has_no_line(price):
    lines = samples(RISING).lines(price)
    assert lines.optimum is None
    assert ("net_score" in lines.best_of_n[0].figures) == (price is not None)
    assert "gold_score" not in lines.best_of_n[0].figures


@pytest.mark.parametrize(
    ("price", "measure", "n"),
    # From 4 to 8 the score gains 1.45 and the KL's bound .57 nats, which cost 1.70 at a price of 3.
    [(None, "score", 16), (0.0, "net_score", 16), (0.5, "net_score", 16), (3.0, "net_score", 4)],
)
def test_the_way_leads_to_the_best_n_up_to_16(price, measure, n):
    lines = samples(np.tile(RISING, 2)).lines(price, episodes=256)
    ends = score_range(lines, 7.0)
    assert (ends.measure, ends.n, ends.noise) == (measure, n, None)
    row = next(row for row in lines.best_of_n if row.n == n)
    assert (ends.start, ends.goal, ends.error) == (7.0, row.figures[measure], row.error)


SPREAD = np.random.default_rng(0).normal(size=(40, 16)) * np.linspace(0.5, 2.0, 40)[:, None]


NOISES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda generator, shape: generator.normal(size=shape),
    "exponential": lambda generator, shape: generator.exponential(size=shape),
    "seldom": lambda generator, shape: 2.0 * (generator.random(shape) < 0.2),
}
"""How responses to a prompt differ."""


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(
    ("held_out", "seeds", "episodes", "samples", "n"),
    [
        (None, 0, 240, 4, 2),  # a start so sure that the goal's own error is most of it
        (None, 0, 40, 8, 8),  # the best of all that there are
        (60, 1, 40, 8, 4),
        (400, 5, 16, 8, 4),
        (40, 3, 40, 4, 4),
    ],
)
def test_the_error_of_a_span_is_that_of_many_draws(
    noise: str, held_out: int | None, seeds: int, episodes: int, samples: int, n: int
) -> None:
    """Prompts of unlike level: the goal is of 40 of them, each seed's start of its own."""
    generator, draw = np.random.default_rng(2), NOISES[noise]
    spans, errors = [], []
    for number in range(1_200):
        level = 0.5 * generator.normal(size=(held_out or 40, 1))
        first = level[:40] + draw(generator, (40, samples))
        if seeds:
            own = [level[generator.permutation(len(level))[:episodes], 0] for _ in range(seeds)]
            start = np.mean([of + draw(generator, of.shape) for of in own])
        else:
            start = np.mean(level[:40] + draw(generator, (40, episodes // 40)))
        spans.append(mean_of_best(first, first, n).mean() - start)
        if number % 4 == 0:  # their mean is far surer than the spread of the spans
            errors.append(span_error(first, n, episodes, seeds=seeds, held_out=held_out))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(spans), rel=0.07)


def test_prompts_alike_or_unknown():
    alike = span_error(SPREAD, 4, 40, seeds=1, held_out=40)
    assert alike == pytest.approx(span_error(SPREAD, 4, 40))  # all of them, in another order
    assert span_error(SPREAD, 4, 40, seeds=2) == pytest.approx(
        span_error(SPREAD, 4, 40, seeds=2, held_out=10**9)
    )
    assert span_error(SPREAD[:1], 4, 1, seeds=2, held_out=40) is None


def test_the_error_of_a_span_by_hand():
    # Two prompts, 0 to 2 and twice that. Best of two: 1 and 2 have 2 as their best, 0 and 1 have 1.
    two = np.stack([np.arange(3.0), 2.0 * np.arange(3.0)])
    best, mean = 5.0 / 3.0, 1.0
    of_gain = ((best - mean) / 2.0) ** 2 * 2.0  # Var_p of b - m: of g and 2 g
    v = np.mean([1.0, 4.0]) / 3.0
    # Without 0, 1, 2 the best of the other two is 2, 2, 1.
    c = np.mean([1.0, 4.0]) * np.mean([1.0 * 2.0, 0.0 * 2.0, -1.0 * 1.0])
    expected = (of_gain + 2.0 * c - v) / 2.0 + np.mean([1.0, 4.0]) / 8.0
    assert span_error(two, 2, 8) == pytest.approx(expected**0.5)
    # A single prompt: responses 0, 0 and 3, each left out; of 0 and 3 the best of two is 3.
    one = np.array([[0.0, 0.0, 3.0]])
    bests = np.array([3.0, 3.0, 0.0])
    expected = (2.0 / 3.0 * ((bests - 2.0) ** 2).sum() + 3.0 / 4.0) ** 0.5
    assert span_error(one, 2, 4) == pytest.approx(expected)
    assert span_error(one, 3, 4) is None


@pytest.mark.parametrize(
    ("scores", "price", "start", "reason"),
    [
        (RISING, 50.0, 7.5, "at this price of the KL no best of n is above one"),
        (np.ones((2, 16)), None, 1.0, "which is not above the 1 at which the curves start"),
        (RISING, None, 15.0, "has 15, which is not above the 15 at which the curves start"),
        # A first-hour user's data: 16 responses hardly differ, and the curves start elsewhere.
        (1e-3 * SPREAD, None, 0.0, None),
        (1e-3 * SPREAD + 1e-4, None, 1.8e-3, r"within 2 standard errors \(0.000"),
        (RISING[:1], None, 7.5, "16 responses to a single prompt give no standard error of"),
    ],
)
def test_a_range_that_may_be_noise_says_why(scores, price, start, reason):
    ends = score_range(samples(scores).lines(price), start)
    assert (ends.noise is None) == (reason is None)
    if reason is not None:
        assert re.search(reason, str(ends.noise))
    elif ends.error is not None:
        assert ends.goal - ends.start > 2.0 * ends.error


def test_levels_of_a_chart():
    lines = samples(np.tile(RISING, 4), gold=np.tile(RISING, 4)).lines(kl_coef=0.5)
    rows = {row.n: row for row in lines.best_of_n}
    assert reference_levels(lines, "score") == [
        (f"best of {n}", rows[n].score) for n in (4, 16, 64)
    ]
    assert [name for name, _ in reference_levels(lines, "gold_score")] == [
        f"best of {n}" for n in (4, 16, 64)
    ]
    assert reference_levels(lines, "kl") == [("best of 16, at most", best_of_n_kl_bound(16))]
    assert reference_levels(lines, "net_score") == [
        ("best of 16", rows[16].net_score),
        ("optimum, at least", lines.optimum),
    ]
    dear = samples(np.tile(RISING, 4)).lines(kl_coef=3.0)
    assert reference_levels(dear, "net_score")[0][0] == "best of 4"
    assert reference_levels(dear, "gold_score") == []
    assert reference_levels(lines, "length") == []
    assert reference_levels(None, "score") == []


def test_comparisons_share_samples_only_where_they_agree():
    few, many, other = samples(RISING), samples(np.tile(RISING, 2)), samples(RISING + 1.0)
    assert common_samples([few, many]) is many
    assert common_samples([few, other]) is None
    assert common_samples([few, samples(RISING[:1])]) is None  # other prompts
    assert common_samples([few, None]) is None
    assert common_samples([]) is None
