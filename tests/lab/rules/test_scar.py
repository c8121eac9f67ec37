# mypy: no-check-untyped-defs
import itertools
from dataclasses import replace

import numpy as np
import pytest

from tests.support.rewards.common import LengthScorer, make_episode, random_episodes
from tokengym.lab.rules.scar import scar
from tokengym.rewards import (
    FunctionScorer,
    Normalize,
    Reward,
    RewardModel,
    Rule,
    Scores,
    make_reward,
)
from tokengym.rewards.errors import CreditError, ScorerError
from tokengym.rewards.maths.redistribution import close_sum


class Table(LengthScorer):
    """Scores a response by a random but fixed function of its ids; counts the texts it scored."""

    reads_text = False

    def __init__(self):
        self.scored = []

    def value(self, ids):
        return float(np.random.default_rng([len(ids), *ids]).normal())

    def score(self, episodes, *, attribution=None):
        self.scored += [e.response_ids for e in episodes]
        return Scores(values=[self.value(e.response_ids) for e in episodes])


def brute_force(value, ids, size):
    """Return each token's credit by going through all orders of spans of ``size`` tokens."""
    spans = [list(range(i, min(i + size, len(ids)))) for i in range(0, len(ids), size)]
    shares = np.zeros(len(ids))
    orders = list(itertools.permutations(range(len(spans))))
    for order in orders:
        kept: list[int] = []
        before = value(())
        for span in order:
            kept = sorted([*kept, *spans[span]])
            now = value(tuple(ids[t] for t in kept))
            shares[spans[span]] += (now - before) / len(spans[span]) / len(orders)
            before = now
    shares[-1] += value(())
    return shares


@pytest.mark.parametrize(("length", "spans", "size"), [(4, 4, 1), (6, 3, 2), (5, 8, 1), (1, 6, 1)])
def test_exact_values_by_brute_force(length, spans, size):
    scorer = Table()
    ids = tuple(range(3, 3 + length))
    (paid,) = Reward(scorer, Rule(scar, segments=spans)).evaluate([make_episode(response_ids=ids)])
    expected = brute_force(scorer.value, ids, size)
    np.testing.assert_allclose(paid.token_rewards, expected, atol=1e-6)
    assert paid.score_parts["shapley_error"] == 0.0
    # one score for the episode, and one for each other coalition
    assert len(scorer.scored) == 2 ** min(spans, length)


def test_sampled_values_lie_within_their_stated_error():
    ids, errors, stated = tuple(range(3, 10)), [], []
    scorer = Table()
    expected = brute_force(scorer.value, ids, 1)
    for seed in range(30):
        credit = Rule(scar, segments=7, permutations=8, seed=seed)
        (paid,) = Reward(scorer, credit).evaluate([make_episode(response_ids=ids)])
        assert close_sum(paid.score, paid.token_rewards)
        errors.append(paid.token_rewards - expected)
        stated.append(paid.score_parts["shapley_error"])
    assert min(stated) > 0
    actual = np.sqrt(np.mean(np.square(errors)))
    assert np.sqrt(np.mean(np.square(stated))) == pytest.approx(actual, rel=0.2)


def test_sampling_costs_what_it_says():
    scorer = Table()
    episode = make_episode(response_ids=range(3, 23))
    Reward(scorer, Rule(scar, segments=20, permutations=4)).evaluate([episode])
    assert len(scorer.scored) <= 1 + 1 + 4 * 19
    assert len(set(scorer.scored)) == len(scorer.scored)


def test_the_orders_belong_to_the_episode():
    episodes = [make_episode(response_ids=range(3, 3 + size)) for size in (15, 20, 9)]
    credit = Rule(scar, segments=12, permutations=4)
    together = Reward(Table(), credit).evaluate(episodes)
    np.random.seed(0)
    (alone,) = Reward(Table(), credit).evaluate(episodes[1:2])
    np.testing.assert_array_equal(together[1].token_rewards, alone.token_rewards)
    (other,) = Reward(Table(), Rule(scar, segments=12, permutations=4, seed=1)).evaluate(
        episodes[1:2]
    )
    assert not np.allclose(other.token_rewards, alone.token_rewards)


def test_a_reward_model_is_read_without_the_other_spans(classifier):
    scorer = RewardModel(classifier)
    episode = make_episode(prompt_ids=[3, 4], response_ids=[5, 6, 7, 8])
    (paid,) = Reward(scorer, Rule(scar, segments=2)).evaluate([episode])
    first, second, whole = scorer.score(
        [make_episode([3, 4], ids) for ids in ([5, 6], [7, 8], [5, 6, 7, 8])]
    ).values
    empty = scorer.score_prefix([make_episode([3, 4], [])])[0]
    # the score of the empty response is read at the prompt's last token
    assert empty == pytest.approx(scorer.score([make_episode([3], [4])]).values[0], abs=1e-5)
    one = ((first - empty) + (whole - second)) / 2
    two = ((second - empty) + (whole - first)) / 2
    expected = [one / 2, one / 2, two / 2, two / 2 + empty]
    np.testing.assert_allclose(paid.token_rewards, expected, atol=1e-5)


def test_texts_are_written_by_the_policys_tokenizer(tokenizer):
    scorer = FunctionScorer(lambda prompt, response: float(len(response.split())))
    reward = Reward(scorer, Rule(scar, segments=3)).bind(tokenizer)
    episode = make_episode(response="c d e", response_ids=[5, 6, 7, 1])
    (paid,) = reward.evaluate([episode])
    np.testing.assert_allclose(paid.token_rewards, [1, 1, 1, 0], atol=1e-6)
    with pytest.raises(ScorerError, match=r"'<lambda>' reads texts"):
        Reward(scorer, scar).evaluate([episode])


def test_asking_changes_no_running_statistics(classifier):
    scorer = Normalize(RewardModel(classifier))
    reward, episodes = Reward(scorer, Rule(scar, segments=3)), random_episodes(8)
    paid = reward.evaluate(episodes)
    assert scorer.moments.seen == 8
    plain = Reward(RewardModel(classifier), Rule(scar, segments=3)).evaluate(episodes)
    deviation = np.std([e.score for e in plain])
    for one, two in zip(paid, plain, strict=True):
        np.testing.assert_allclose(
            one.token_rewards[:-1], two.token_rewards[:-1] / deviation, atol=1e-4
        )
        assert close_sum(one.score, one.token_rewards)


def test_the_spans_of_a_conversation_are_those_of_its_written_tokens():
    """A reply of many tokens takes no spans from the policy's, and no part of their value."""
    written = np.array([1, 1] + [0] * 8 + [1, 1], np.int8)
    ids = [4, 5, *[6] * 8, 7, 8]
    episode = replace(make_episode(response_ids=ids), written=written)
    # The span of both first tokens holds the reply to them: its gain is theirs in equal parts.
    assert Rule(scar, segments=2).pieces([episode]) == [[range(10), range(10, 12)]]
    (paid,) = Reward(Table(), Rule(scar, segments=2)).evaluate([episode])
    assert close_sum(paid.score, paid.token_rewards)
    np.testing.assert_allclose(paid.token_rewards[0], paid.token_rewards[1], atol=1e-6)
    assert not paid.token_rewards[2:10].any()


def test_orders_depend_on_what_the_policy_wrote_and_not_on_the_replies():
    written, value = np.array([1] * 5 + [0] * 2 + [1] * 5, np.int8), Table().value
    one, other = (
        replace(make_episode(response_ids=[*range(3, 8), *reply, *range(8, 13)]), written=written)
        for reply in ((7, 7), (9, 9))
    )

    class Written(Table):
        def value(self, ids):
            return value(tuple(token for token in ids if token not in (7, 9)))

    rule = Rule(scar, segments=10, permutations=4)
    first, second = (Reward(Written(), rule).evaluate([e])[0].token_rewards for e in (one, other))
    np.testing.assert_array_equal(first, second)


def test_more_pieces_than_bits_of_an_integer():
    episode = make_episode(response_ids=range(3, 80))
    (paid,) = Reward(Table(), Rule(scar, segments=77, permutations=4)).evaluate([episode])
    assert close_sum(paid.score, paid.token_rewards)


def test_pieces_by_a_word():
    scored = ("turn", "line", "sentence")
    made = [make_reward(f"scar:cut={cut}", scorer=Table()).credit for cut in scored]
    assert [(rule.cut, rule.options["segments"]) for rule in made] == [(c, None) for c in scored]


def test_bad_arguments():
    for arguments, message in (
        (dict(segments=0), r"segments.*got 0"),
        (dict(spans=3), r"'spans'.*segments"),
        (dict(segments=3.5), r"segments.*got 3\.5"),
        (dict(permutations=4.0), r"permutations.*got 4\.0"),
        (dict(permutations=5), r"permutations.*got 5"),
        (dict(permutations="16"), r"permutations.*got '16'"),
        (dict(permutations=4098), r"permutations.*4096, got 4098"),
        (dict(seed=-1), r"seed.*got -1"),
        (dict(beta=1.5), r"beta.*got 1\.5"),
    ):
        with pytest.raises(CreditError, match=message):
            Rule(scar, **arguments)


def test_a_probe_that_returns_nonsense_is_named():
    class Odd(Table):
        answer = np.inf

        def score_prefix(self, episodes):
            return np.full(len(episodes), self.answer)

    with pytest.raises(ScorerError, match=r"'Odd' returned.*left out"):
        Reward(Odd(), scar).evaluate([make_episode()])
    silent = Odd()
    silent.answer = np.nan  # a judge that did not answer
    (episode,) = Reward(silent, scar).evaluate([make_episode()])
    assert episode.score is None
