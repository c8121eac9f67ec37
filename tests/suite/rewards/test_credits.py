# mypy: no-check-untyped-defs

import numpy as np
import pytest

from tests.support.rewards.common import make_episode, random_episodes
from tests.support.rules import rewards_of, rule_of
from tokengym.rewards import Scores
from tokengym.rewards.errors import CreditError

EPISODES = [make_episode(response_ids=[5, 6, 1]), make_episode(response_ids=[7])]
SCORES = Scores(values=[6.0, -2.0], attributions=[[1, 1, 2], [3]])


def as_lists(rewards):
    return [[round(float(value), 6) for value in row] for row in rewards]


@pytest.mark.parametrize(
    ("credit", "expected"),
    [
        (rule_of("sparse"), [[0, 0, 6], [-2]]),
        (rule_of("uniform"), [[2, 2, 2], [-2]]),
        (rule_of("abc", beta=1.0), [[1.5, 1.5, 3], [-2]]),
        (rule_of("abc"), [[1.2, 1.2, 3.6], [-2]]),
        (rule_of("abc", beta=0.0), [[0, 0, 6], [-2]]),
        (rule_of("recency", tau=1 / np.log(2)), [[6 / 7, 12 / 7, 24 / 7], [-2]]),
    ],
)
def test_hand_worked_credit(credit, expected):
    rewards = rewards_of(credit, EPISODES, SCORES)
    assert as_lists(rewards) == [[round(v, 6) for v in row] for row in expected]
    assert all(row.dtype == np.float32 for row in rewards)


def test_dense_r3_hands_on_the_parts():
    scores = Scores(values=[1.0, -2.0], attributions=[[2, -3, 2], [-2]], additive=True)
    assert as_lists(rewards_of(rule_of("r3-dense"), EPISODES, scores)) == [[2, -3, 2], [-2]]


@pytest.mark.parametrize(
    "credit",
    [
        rule_of("random"),
        rule_of("random", seed=3, beta=0.5),
        rule_of("recency"),
        rule_of("uniform"),
    ],
)
def test_credit_sums_to_the_score(credit):
    episodes = random_episodes(50)
    values = np.random.default_rng(1).normal(0, 5, 50)
    for row, value in zip(rewards_of(credit, episodes, Scores(values=values)), values, strict=True):
        assert row.sum(dtype=np.float64) == pytest.approx(value, rel=1e-5)


def test_random_credit_belongs_to_the_episode_not_to_the_batch():
    episodes = random_episodes(6)
    scores = Scores(values=np.ones(6))
    whole = rewards_of(rule_of("random", seed=4), episodes, scores)
    np.random.seed(0)
    alone = rewards_of(rule_of("random", seed=4), episodes[3:4], Scores(values=[1.0]))
    np.testing.assert_array_equal(whole[3], alone[0])
    other = rewards_of(rule_of("random", seed=5), episodes[3:4], Scores(values=[1.0]))
    assert len(episodes[3].response_ids) > 1
    assert not np.allclose(whole[3], other[0])


def test_random_credit_leaves_what_it_does_not_spread_at_the_end():
    scores = Scores(values=[6.0, -2.0])
    whole = rewards_of(rule_of("random", seed=3, beta=1.0), EPISODES, scores)
    parts = rewards_of(rule_of("random", seed=3, beta=0.25), EPISODES, scores)
    assert not np.allclose(whole[0], 2.0)
    for part, row, rest in zip(parts, whole, ([0, 0, 4.5], [-1.5]), strict=True):
        np.testing.assert_allclose(part, 0.25 * row + rest, rtol=1e-6)


def test_random_credit_tells_prompt_from_response():
    one = make_episode(prompt_ids=[3, 4], response_ids=[5, 6])
    two = make_episode(prompt_ids=[3], response_ids=[4, 5, 6][1:])
    rewards = rewards_of(rule_of("random"), [one, two], Scores(values=[1.0, 1.0]))
    assert not np.allclose(*rewards)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rule_of("abc", beta=-0.1), "beta.*got -0.1"),
        (lambda: rule_of("random", seed=-1), "seed.*got -1"),
        (lambda: rule_of("recency", tau=0.0), "tau.*got 0.0"),
        (lambda: rewards_of(rule_of("abc"), EPISODES, Scores([1.0, 2.0])), "'abc' needs attention"),
    ],
)
def test_bad_arguments(call, words):
    with pytest.raises(CreditError, match=words):
        call()
