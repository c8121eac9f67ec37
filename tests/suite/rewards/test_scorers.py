# mypy: no-check-untyped-defs
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.support.rewards.common import LEXICON, FixedScorer, LengthScorer, make_episode
from tests.support.rules import rule_of
from tokengym.rewards import (
    FunctionScorer,
    Normalize,
    Reward,
    Scorer,
    Scores,
    Sentiment,
    on_last,
    token_credit,
)
from tokengym.rewards.errors import CreditError, ScorerError
from tokengym.rewards.scorers.wrappers import TimeLimit


def test_sentiment_reads_prompt_and_response():
    episode = make_episode(prompt="this was not", response="good . really bad")
    both, response = Sentiment(LEXICON), Sentiment(LEXICON, include_prompt=False)
    assert both.score([episode]).values[0] == pytest.approx(-2 / 2.5)
    assert response.score([episode]).values[0] == pytest.approx(0.0)


def test_a_function_scores_each_episode():
    def exclaims(prompt, response):
        return response.count("!") - prompt.count("!")

    scorer = FunctionScorer(exclaims)
    episodes = [make_episode(response="a!!"), make_episode(prompt="!", response="a")]
    assert scorer.score(episodes).values.tolist() == [2.0, -1.0]
    assert scorer.name == "exclaims"


@pytest.mark.parametrize("value", ["1.0", [1.0, 2.0], np.zeros((2, 1)), {}, [None]])
def test_a_function_that_returns_no_number(value):
    scorer = FunctionScorer(lambda prompt, response: value, name="mine")
    with pytest.raises(ScorerError, match=r"'mine' returned.*one number"):
        scorer.score([make_episode()])


TENSORS = [torch.ones(1, requires_grad=True)[0], torch.tensor(1.0, dtype=torch.bfloat16)]


@pytest.mark.parametrize(
    "value",
    [1, True, np.float32(1), np.array(1.0), np.array([1.0]), Decimal(1), Fraction(1), *TENSORS],
)
def test_a_function_may_return_any_number(value):
    scores = FunctionScorer(lambda prompt, response: value).score([make_episode()])
    assert scores.values.tolist() == [1.0]


@pytest.mark.parametrize("tensor", TENSORS)
def test_scores_may_be_any_tensors(tensor):
    for values in (tensor.repeat(2), [tensor, tensor]):
        scores = Scores(values, {"part": values}, [values])
        assert scores.values.tolist() == scores.parts["part"].tolist() == [1.0, 1.0]
        assert scores.attributions is not None
        assert scores.attributions[0].tolist() == [1.0, 1.0]


def test_scorers_without_attributions_say_so():
    for scorer in (FunctionScorer(lambda prompt, response: 0.0), Sentiment(LEXICON)):
        with pytest.raises(ScorerError, match=r"no attribution 'attention'"):
            scorer.score([make_episode()], attribution="attention")


EPISODES = [make_episode(response_ids=[5, 6, 1]), make_episode(response_ids=[7, 1])]


def test_normalize_centres_and_scales_by_all_it_has_seen():
    scorer = Normalize(LengthScorer())
    first = scorer.score(EPISODES)  # raw 12 and 8: mean 10, deviation 2
    np.testing.assert_allclose(first.values, [1.0, -1.0], rtol=1e-6)
    assert first.parts["raw_score"].tolist() == [12.0, 8.0]
    assert first.parts["length"].tolist() == [3.0, 2.0]
    second = scorer.score(EPISODES[:1])  # 12, 8, 12
    deviation = np.std([12, 8, 12])
    np.testing.assert_allclose(second.values, [(12 - 32 / 3) / deviation], rtol=1e-6)


def test_normalize_by_the_batch_centres_only():
    scorer = Normalize(LengthScorer(), window=2, scale=False)
    scorer.score([make_episode(response_ids=[19]), make_episode(response_ids=[19])])
    np.testing.assert_allclose(scorer.score(EPISODES).values, [2.0, -2.0])


def test_normalize_clips():
    scorer = Normalize(FixedScorer([*[0.0] * 99, 1000.0]), clip=2.0)
    values = scorer.score([make_episode()] * 100).values
    assert values.max() == pytest.approx(2.0)
    unclipped = Normalize(FixedScorer([*[0.0] * 99, 1000.0]), clip=None)
    assert unclipped.score([make_episode()] * 100).values.max() == pytest.approx(9.95, abs=0.01)


def scored(values, attributions=None, **kinds):
    """Return a scorer of certain values and attributions."""
    scorer = FixedScorer(values)
    scorer.scores = Scores(values, attributions=attributions, **kinds)
    return scorer


@pytest.mark.parametrize(
    ("attributions", "kinds", "expected"),  # scores 4 and 8: mean 6, deviation 2
    [
        ([[1, 3, 0], [2, 2]], {}, [[1, 3, 0], [2, 2]]),  # weights
        ([[1, 3, 0], [5, 1]], {"signed": True}, [[0.5, 1.5, 0.0], [2.5, 0.5]]),
        # Parts over the deviation are .5, 1.5, 0 and 2.5, 1.5: the mean takes 3 off each episode.
        ([[1, 3, 0], [5, 3]], {"additive": True}, [[-0.5, 0.5, -1.0], [1.0, 0.0]]),
    ],
)
def test_normalize_keeps_weights_and_rescales_parts(attributions, kinds, expected):
    inside = scored([4.0, 8.0], attributions, **kinds)
    scores = Normalize(inside).score(EPISODES)
    assert (scores.signed, scores.additive) == (inside.scores.signed, inside.scores.additive)
    for row, by_hand in zip(scores.attributions, expected, strict=True):
        np.testing.assert_allclose(row, by_hand, atol=1e-6)


@pytest.mark.parametrize("additive", [True, False])
def test_a_first_lone_score_has_no_scale_for_its_parts(additive):
    scorer = scored([4.0], [[1, 3, 0]], additive=additive, signed=True)
    scores = Normalize(scorer).score(EPISODES[:1])
    assert scores.values.tolist() == [0.0]
    assert scores.attributions[0].tolist() == [0.0, 0.0, 0.0]
    assert Normalize(LengthScorer()).score_prefix(EPISODES).tolist() == [0.0, 0.0]


def test_peeking_normalises_without_clipping_or_learning():
    scorer = Normalize(LengthScorer(), clip=0.5)
    assert scorer.score(EPISODES).values.tolist() == pytest.approx([0.5, -0.5])
    others = [make_episode(response_ids=[16]), make_episode(response_ids=[10])]
    np.testing.assert_allclose(scorer.score_prefix(others), [3.0, 0.0], atol=1e-6)
    assert scorer.moments.seen == 2


def typed(query_type, *response_ids):
    return make_episode(response_ids=response_ids, query_type=query_type)


def test_normalize_by_group_keeps_statistics_apart():
    scorer = Normalize(LengthScorer(), by="query_type")
    batch = [
        *(typed("OPENENDED", 5, 6, 1), typed("OPENENDED", 7, 1)),  # raw 12 and 8: mean 10, std 2
        *(typed("CONSTRAINED", 1), typed("CONSTRAINED", 5)),  # 1 and 5: mean 3, std 2
    ]
    np.testing.assert_allclose(scorer.score(batch).values, [1, -1, -1, 1], rtol=1e-6)
    np.testing.assert_allclose(scorer.score_prefix(batch[:1] + batch[2:3]), [1, -1], rtol=1e-6)
    one = scorer.score([typed("CONSTRAINED", 9)]).values  # 1, 5, 9: mean 5
    np.testing.assert_allclose(one, [4 / np.std([1, 5, 9])], rtol=1e-6)
    assert scorer.groups["OPENENDED"].seen == 2
    other = Normalize(LengthScorer(), by="query_type")
    other.load_state_dict(scorer.state_dict())
    assert other.groups == scorer.groups


def test_groups_share_the_window_by_their_episodes():
    scorer = Normalize(LengthScorer(), window=4, scale=False, by="query_type")
    for value in (0, 3):  # a batch of four fills the window: nothing of the first one is left
        batch = [typed("CONSTRAINED", value + i) for i in range(3)] + [typed("OPENENDED", value)]
        np.testing.assert_allclose(scorer.score(batch).values, [-1, 0, 1, 0])
    scorer = Normalize(LengthScorer(), window=5, scale=False, by="query_type")
    alone = Normalize(LengthScorer(), window=4, scale=False)  # 5 * 3 / 4, rounded up
    for value in (0, 3):
        batch = [typed("CONSTRAINED", value + i) for i in range(3)] + [typed("OPENENDED", value)]
        np.testing.assert_allclose(scorer.score(batch).values[:3], alone.score(batch[:3]).values)


def test_normalize_by_group_scales_each_groups_parts():
    parts = scored([4, 8, 5, 6], [[4], [8], [5], [6]], additive=True)
    batch = [typed("OPENENDED", 1), typed("OPENENDED", 2)]
    batch += [typed("CONSTRAINED", 3), typed("CONSTRAINED", 4)]
    scores = Normalize(parts, by="query_type").score(batch)
    np.testing.assert_allclose(np.concatenate(scores.attributions), [-1, 1, -1, 1], rtol=1e-6)


def test_a_prompt_without_the_group_is_refused():
    scorer = Normalize(LengthScorer(), by="query_type")
    with pytest.raises(ScorerError, match=r"query_type.*'.*'.*_column"):
        scorer.score(EPISODES)
    assert scorer.groups == {}


class Squashed(Scorer):
    """Bounds a value, and has that value as a part of a name that has a meaning."""

    def score(self, episodes, *, attribution=None):
        lengths = LengthScorer().score(episodes).values
        return Scores(np.tanh(lengths / 100), {"raw_score": lengths})


PENALTY = FunctionScorer(lambda prompt, response: -100.0, name="penalty")


@pytest.mark.parametrize(
    ("scorer", "measured"),
    [
        (Squashed(), np.tanh([0.12, 0.08])),
        (Normalize(Squashed()), np.tanh([0.12, 0.08])),
        (Normalize(LengthScorer()) + PENALTY, [-99.0, -101.0]),
        (TimeLimit(Normalize(LengthScorer()), 60.0), [1.0, -1.0]),
        (Normalize(Normalize(LengthScorer(), scale=False)), [12.0, 8.0]),
    ],
)
def test_what_is_measured_is_the_score_before_the_outermost_scaling(scorer, measured):
    paid = Reward(scorer, rule_of("uniform")).evaluate(EPISODES)
    assert [episode.raw_score for episode in paid] == pytest.approx(measured, rel=1e-5)


def test_a_figure_of_a_rule_is_not_what_is_measured():
    @token_credit
    def noted(paid, scores, response_mask):
        return on_last(paid, response_mask), {"raw_score": 0 * scores, "unknown": scores * np.nan}

    for scorer in (LengthScorer(), Normalize(LengthScorer())):
        paid = Reward(scorer, noted).evaluate(EPISODES)
        assert [episode.raw_score for episode in paid] == [12.0, 8.0]
        assert [episode.score_parts["inner_raw_score"] for episode in paid] == [0.0, 0.0]
        assert all("unknown" not in episode.score_parts for episode in paid)


def test_a_figure_of_a_rule_takes_no_part_of_the_scores_name():
    @token_credit
    def noted(scores, response_mask):
        return on_last(scores, response_mask), {"length": 0 * scores}

    with pytest.raises(CreditError, match=r"'noted' returned the figure 'length', .* another name"):
        Reward(LengthScorer(), noted).evaluate(EPISODES)


def test_normalize_state_round_trip():
    nested, other = (Normalize(Normalize(LengthScorer())) for _ in range(2))
    nested.score(EPISODES)
    other.load_state_dict(nested.state_dict())
    assert other.state_dict() == nested.state_dict()
    np.testing.assert_array_equal(
        nested.score(EPISODES[:1]).values, other.score(EPISODES[:1]).values
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Normalize(LengthScorer(), window=0), "window.*got 0"),
        (lambda: Normalize(LengthScorer(), clip=-1.0), "clip.*got -1.0"),
        (lambda: Normalize(LengthScorer()).load_state_dict({}), "'seen'"),
        (lambda: LengthScorer().load_state_dict({"x": 1}), r"got \['x'\]"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(ScorerError, match=words):
        call()


def test_bad_scores_leave_the_statistics_alone():
    poisoned = Normalize(FixedScorer([np.nan, 1.0]))
    with pytest.raises(ScorerError, match=r"values\[0\] = nan"):
        poisoned.score(EPISODES)
    assert poisoned.moments.seen == 0
