# mypy: no-check-untyped-defs
"""Sums, products, penalties and the cache."""

import copy
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from tests.support.rewards.common import (
    FixedScorer,
    LengthScorer,
    make_classifier,
    make_episode,
    random_episodes,
)
from tests.support.rewards.composition import Counting
from tests.support.rules import rule_of
from tokengym.envs import Turn, bundled
from tokengym.rewards import (
    Cached,
    CreditReward,
    FunctionScorer,
    LengthPenalty,
    MissingEosPenalty,
    Normalize,
    Product,
    Relevance,
    Reward,
    RewardModel,
    Sum,
    check_reward,
    gold_scorer,
)
from tokengym.rewards.errors import RewardError, ScorerError

EPISODES = [make_episode(response_ids=[5, 6, 1]), make_episode(response_ids=[7])]


def values(scorer, episodes=EPISODES):
    return scorer.score(episodes).values.tolist()


def test_arithmetic_by_hand():
    one, two = LengthScorer(), FunctionScorer(lambda prompt, response: 2.0)  # 12, 7 and 2
    assert values(one + two) == [14.0, 9.0]
    assert values(one + 1) == values(1 + one) == [13.0, 8.0]
    assert values(one - two) == [10.0, 5.0]
    assert values(one - 0.5) == [11.5, 6.5]
    assert values(-one) == [-12.0, -7.0]
    assert values(one * two) == [24.0, 14.0]
    assert values(0.5 * one) == values(one * 0.5) == [6.0, 3.5]
    assert values(2 * (one + two) * one) == [336.0, 126.0]
    assert values(sum([one, two])) == [14.0, 9.0]
    assert values(np.float32(2) * one + np.float64(1)) == [25.0, 15.0]


def test_parts_are_kept():
    fixed = FixedScorer([1.0, 2.0], fluency=[0.5, 0.25])
    scores = (LengthScorer() + 2 * Sum([fixed], 0.0)).score(EPISODES)
    assert {name: part.tolist() for name, part in scores.parts.items()} == {
        "LengthScorer": [12.0, 7.0],
        "length": [3.0, 1.0],
        "(2 * (fixed))": [2.0, 4.0],
        "(fixed)": [1.0, 2.0],
        "fixed": [1.0, 2.0],
        "fluency": [0.5, 0.25],
    }


def test_equal_names_stay_apart():
    parts = (LengthScorer() + LengthScorer()).score(EPISODES).parts
    assert [*parts] == ["LengthScorer", "length", "LengthScorer 2", "LengthScorer 2.length"]


def test_a_combination_is_said_in_words():
    gold = gold_scorer(bundled("movie_review"))
    assert gold.title == "Sentiment times grammaticality"
    assert (2 * LengthScorer() + LengthScorer()).title == "2 times LengthScorer plus LengthScorer"


def test_chains_are_taken_apart():
    one = LengthScorer()
    total, product = one + 1 + one + 2, 2 * one * 3
    assert (type(total), len(total.terms), total.number) == (Sum, 2, 3.0)
    assert total.name == "(3 + LengthScorer + LengthScorer)"
    assert (type(product), len(product.terms), product.number) == (Product, 1, 6.0)


def test_weights_are_those_of_the_one_term_that_has_them(classifier):
    model, episodes = RewardModel(classifier), random_episodes(6)
    expected = model.score(episodes, attribution="attention")
    for scorer in (model + LengthPenalty(0.1), model * LengthPenalty(-0.1), 2 - model):
        scores = scorer.score(episodes, attribution="attention")
        assert not scores.signed
        for one, two in zip(scores.attributions, expected.attributions, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)
        for episode in Reward(scorer, rule_of("abc", beta=1.0)).evaluate(episodes):
            assert episode.token_rewards.sum() == pytest.approx(episode.score, abs=1e-4)
    with pytest.raises(RewardError, match=r"'abc' needs attention.*deeplift"):
        Reward(model + RewardModel(make_classifier(seed=1)), rule_of("abc"))


def test_signed_attributions_add_up(classifier):
    one, two = RewardModel(classifier), RewardModel(make_classifier(seed=1))
    episodes = random_episodes(5)
    total = one + 2 * two + LengthPenalty(0.1)
    for kind in ("prefix", "signed-attention"):
        scores = total.score(episodes, attribution=kind)
        assert (scores.signed, scores.additive) == (True, False)
        first = one.score(episodes, attribution=kind).attributions
        second = two.score(episodes, attribution=kind).attributions
        for row, a, b in zip(scores.attributions, first, second, strict=True):
            np.testing.assert_allclose(row, a + 2 * b, atol=1e-5)


def test_exact_parts_stay_exact(classifier, tokenizer):
    encoder = Relevance(classifier.transformer, tokenizer).bind(tokenizer)
    episode = make_episode(prompt="a b", response="c d", response_ids=[5, 6])
    penalty = FunctionScorer(lambda prompt, response: 3.0)
    plain = encoder.score([episode], attribution="relevance").attributions[0]
    (added,) = Reward(encoder + penalty + 1, rule_of("r3-dense")).evaluate([episode])
    np.testing.assert_allclose(added.token_rewards, plain + np.array([0, 4]), rtol=1e-5)
    (times,) = Reward(-2 * encoder * penalty, rule_of("r3-dense")).evaluate([episode])
    np.testing.assert_allclose(times.token_rewards, -6 * plain, rtol=1e-5)


def test_combinations_are_paid_step_by_step(make_env, classifier):
    model = RewardModel(classifier)
    for scorer, credit in (
        (model + LengthPenalty(0.1), "red"),
        (0.5 * model - 1, "red"),
        (model + RewardModel(make_classifier(seed=1)), "red"),
        (model + LengthPenalty(0.1), "red"),
        (model * LengthPenalty(0.1), "red"),
        (Cached(model), "red"),
        (Cached(LengthScorer()), "red"),
    ):
        check_reward(CreditReward(make_env(), scorer, credit))


def test_terms_are_bound_and_keep_their_state(tokenizer, classifier):
    total = Normalize(LengthScorer()) + MissingEosPenalty(2.0)
    bound = total.bind(tokenizer)
    bound.score([make_episode(response_ids=[5, 1]), make_episode(response_ids=[5])])
    state = bound.state_dict()
    assert list(state) == ["0"]
    other = (Normalize(LengthScorer()) + MissingEosPenalty(2.0)).bind(tokenizer)
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.score(EPISODES).values, bound.score(EPISODES).values)
    with pytest.raises(ScorerError, match=r"entry '7'.*2 terms"):
        other.load_state_dict({"7": {}})


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: LengthScorer() + cast(Any, "abc"), TypeError, "got 'abc'"),
        (lambda: LengthScorer() * float("nan"), ScorerError, "got nan"),
        (lambda: Sum([], 1.0), TypeError, "got none"),
        (lambda: values(LengthScorer() + FixedScorer([np.nan, 1.0])), ScorerError, "'fixed'.*nan"),
        (lambda: LengthPenalty(unit=cast(Any, "words")), ScorerError, "unit.*'words'"),
        (lambda: LengthPenalty(float("inf")), ScorerError, "rate.*inf"),
        (lambda: MissingEosPenalty(-1), ScorerError, "penalty.*-1"),
        (lambda: values(MissingEosPenalty()), ScorerError, "'the response' ended"),
        (lambda: Cached(Normalize(LengthScorer())), ScorerError, "'Normalize.*cache the scorer in"),
        (lambda: Cached(LengthScorer(), size=0), ScorerError, "size.*0"),
    ],
)
def test_what_cannot_be(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_length_penalty_by_hand():
    episode = make_episode(response="12345", response_ids=[5, 6, 1])
    assert LengthPenalty().score([episode]).values[0] == pytest.approx(-0.005)
    assert LengthPenalty(0.5, unit="tokens").score([episode]).values[0] == -1.5
    assert LengthPenalty(-1.0).score([episode]).values[0] == 5.0
    turns = [Turn("assistant", "12", (0, 2)), Turn("user", "3", (2, 3))]
    talk = replace(episode, turns=turns, written=[1, 1, 0])
    for unit in ("characters", "tokens"):
        assert LengthPenalty(0.5, unit=unit).score([talk]).values[0] == -1.0


@pytest.mark.parametrize(
    ("reason", "ids", "value"),
    [
        ("eos", [5, 1], 0.0),
        ("stop", [5, 6], 0.0),
        ("length", [5, 6], -2.0),
        ("length", [5, 1], -2.0),
        (None, [5, 1], 0.0),
        (None, [5, 6], -2.0),
        (None, [], -2.0),
    ],
)
def test_missing_eos_by_hand(tokenizer, reason, ids, value):
    scorer = MissingEosPenalty(2.0).bind(tokenizer)
    episode = make_episode(response_ids=ids, finish_reason=reason)
    assert scorer.score([episode]).values[0] == value


def test_missing_eos_in_an_environment(make_env):
    env = CreditReward(make_env(max_new_tokens=3), LengthScorer() + MissingEosPenalty(4.0))
    env.reset(seed=0)
    assert [env.step(token)[1] for token in (5, 6, 7)] == [0.0, 0.0, 14.0]
    env.reset(seed=0)
    assert [env.step(token)[1] for token in (5, 1)] == [0.0, 6.0]


def test_a_text_is_scored_once():
    inner = Counting()
    scorer = Cached(inner)
    episodes = random_episodes(6)
    first = scorer.score([*episodes, episodes[2]])
    second = scorer.score(episodes[::-1])
    assert inner.batches == [6]
    assert (scorer.hits, scorer.misses) == (7, 6)
    expected = LengthScorer().score(episodes)
    np.testing.assert_array_equal(first.values[:6], expected.values)
    np.testing.assert_array_equal(second.values, expected.values[::-1])
    np.testing.assert_array_equal(second.parts["length"], expected.parts["length"][::-1])
    assert copy.deepcopy(scorer) is scorer


def test_what_was_paid_first_is_remembered_to_the_last_digit(classifier):
    """A model rounds by its batch: the history of a cache moves a score by no more than that."""
    episodes, model = random_episodes(24), RewardModel(classifier)
    alone = np.concatenate([model.score([episode]).values for episode in episodes])
    for first in (episodes, [*episodes[::-1]], episodes[:5]):
        scorer = Cached(RewardModel(classifier))
        paid = dict(zip(map(id, first), scorer.score(first).values.tolist(), strict=True))
        again = scorer.score(episodes).values
        for episode, value in zip(episodes, again.tolist(), strict=True):
            assert paid.get(id(episode), value) == value
        np.testing.assert_allclose(again, alone, rtol=0, atol=2e-6)


def test_attributions_are_remembered_by_kind(classifier):
    model, episodes = RewardModel(classifier), random_episodes(4)
    scorer = Cached(model)
    for kind in ("attention", "prefix", None, "attention", "prefix"):
        expected = model.score(episodes, attribution=kind)
        got = scorer.score(episodes, attribution=kind)
        assert (got.signed, got.additive) == (expected.signed, expected.additive)
        for one, two in zip(got.attributions or [], expected.attributions or [], strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)
    assert scorer.misses == 12


def test_remembered_scores_of_prefixes_are_the_scorers_own():
    """A rule takes differences of them, which their rounding would change."""

    class Exact(LengthScorer):
        def score_prefix(self, episodes):
            return np.array([1e6 + 0.001 * len(e.response_ids) for e in episodes])

    scorer, episodes = Cached(Exact()), random_episodes(3)
    for _ in range(2):
        assert scorer.score_prefix(episodes).tolist() == Exact().score_prefix(episodes).tolist()


def test_a_full_cache_forgets_what_was_not_used_for_longest():
    inner = Counting()
    scorer = Cached(inner, size=2)
    one, two, three = (make_episode(response_ids=[i]) for i in (3, 4, 5))
    for episode in (one, two, one, three, one, two):
        scorer.score([episode])
    assert inner.batches == [1, 1, 1, 1]  # one, two, three, and two again
    assert scorer.score([one, two, three]).values.tolist() == [3.0, 4.0, 5.0]


def test_texts_that_differ_in_anything_are_told_apart():
    seen = []

    class Telling(LengthScorer):
        def score(self, episodes, *, attribution=None):
            seen.extend(episodes)
            return super().score(episodes)

    episode = make_episode(finish_reason="eos")
    changes = [
        *({"prompt": "x"}, {"response": "x"}, {"reference": "x"}, {"query_type": "CONSTRAINED"}),
        *({"finish_reason": "length"}, {"prompt_ids": [4, 3]}, {"response_ids": [6, 5, 1]}),
        *({"metadata": {"answer": value}} for value in (3, 4, np.zeros(2000))),
        {"metadata": {"answer": np.eye(1, 2000, 1000)[0]}},
        {"written": [1] + [0] * (len(episode.response_ids) - 1)},
        *({"turns": [Turn("assistant", "the response", (0, 3), score)]} for score in (None, 1.0)),
    ]
    Cached(Telling()).score([episode, *(replace(episode, **change) for change in changes)])
    assert len(seen) == 1 + len(changes)


def test_binding_a_cache(tokenizer, classifier):
    scorer = Cached(RewardModel(classifier))
    assert scorer.bind(tokenizer) is scorer
    penalty = Cached(MissingEosPenalty())
    assert penalty.bind(tokenizer) is not penalty
    assert penalty.bind(tokenizer).score([make_episode(response_ids=[1])]).values[0] == 0
