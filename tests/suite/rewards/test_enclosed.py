# mypy: no-check-untyped-defs
"""What a scorer can do beside `score` stays when another one stands around it."""

import numpy as np
import pytest

from tests.support.rewards.common import make_episode
from tokengym.rewards import (
    Cached,
    Normalize,
    RewardModel,
    Scorer,
    Scores,
    TimeLimit,
    WithAttribution,
)
from tokengym.rewards.scorers.base import ScorerWrapper

GROUPS = [
    [make_episode(response_ids=[5] * length) for length in (1, 3)],
    [make_episode(response_ids=[6] * length) for length in (2, 6)],
]
EPISODES = [episode for group in GROUPS for episode in group]
AGAINST_THE_MEAN = [-1.0, 1.0, -2.0, 2.0]
"""Lengths less the mean of their group, 2 and 4."""


class Lengths(Scorer):
    """The number of tokens."""

    attribution_kinds = frozenset()

    def score(self, episodes, *, attribution=None):
        return Scores([len(e.response_ids) for e in episodes])


class Compared:
    """Compares lengths: a part of a scorer."""

    calls = 0

    def score_groups(self, groups):
        self.calls += 1
        lengths = [np.array([len(e.response_ids) for e in group]) for group in groups]
        return Scores(np.concatenate([one - one.mean() for one in lengths]))


class Ranking(Compared, Scorer):
    """Lengths less the mean of the group; all episodes of one call are one group."""

    def score(self, episodes, *, attribution=None):
        return self.score_groups([episodes])


class Halved(ScorerWrapper):
    """A wrapper of somebody who knows `score` alone."""

    def score(self, episodes, *, attribution=None):
        scores = self.scorer.score(episodes)
        return Scores(scores.values / 2, scores.parts)


@pytest.mark.parametrize(
    ("around", "expected"),
    [
        (Cached, AGAINST_THE_MEAN),
        (lambda scorer: TimeLimit(scorer, 60.0), AGAINST_THE_MEAN),
        (lambda scorer: Normalize(scorer, scale=False), AGAINST_THE_MEAN),
        (Normalize, [value / 2.5**0.5 for value in AGAINST_THE_MEAN]),  # their mean square is 2.5
        (Halved, [-0.5, 0.5, -1.0, 1.0]),
        (lambda scorer: Normalize(Halved(Cached(scorer)), scale=False), [-0.5, 0.5, -1.0, 1.0]),
        (lambda scorer: -2 * scorer, [2.0, -2.0, 4.0, -4.0]),
        (lambda scorer: scorer + Lengths(), [0.0, 4.0, 0.0, 8.0]),
        (lambda scorer: Cached(2 * scorer + Lengths()), [-1.0, 5.0, -2.0, 10.0]),
    ],
)
def test_responses_are_compared_within_their_groups(around, expected):
    scores = around(Ranking()).score_groups(GROUPS)
    np.testing.assert_allclose(scores.values, expected, rtol=1e-6)


def test_an_account_of_tokens_leaves_the_comparison(classifier):
    model = RewardModel(classifier)
    explained = WithAttribution(Ranking(), model)
    assert explained.score_groups(GROUPS).values.tolist() == AGAINST_THE_MEAN
    assert explained.around(Lengths()).attribution_kinds == model.attribution_kinds
    assert Normalize(explained).attribution_kinds == model.attribution_kinds


def test_a_cache_remembers_no_score_that_depends_on_others():
    first, second = GROUPS[0]
    ranking = Ranking()
    cached = Cached(ranking)
    assert cached.score_groups([[first, second]]).values.tolist() == [-1.0, 1.0]
    assert cached.score_groups([[first, GROUPS[1][1]]]).values.tolist() == [-2.5, 2.5]
    assert cached.score([first, second]).values.tolist() == [-1.0, 1.0]
    assert cached.score([first]).values.tolist() == [0.0]
    assert (ranking.calls, cached.hits, cached.misses) == (4, 0, 0)
    alone = Cached(TimeLimit(Lengths(), 60.0))  # compares nothing
    for _ in range(2):
        assert alone.score_groups(GROUPS).values.tolist() == [1.0, 3.0, 2.0, 6.0]
    assert (alone.hits, alone.misses) == (4, 4)


def test_statistics_take_all_groups_for_one_batch():
    scorer = Normalize(Ranking())
    scores = scorer.score_groups(GROUPS)
    assert scores.parts["raw_score"].tolist() == AGAINST_THE_MEAN
    assert (scorer.moments.seen, scorer.moments.mean, scorer.moments.variance) == (4, 0.0, 2.5)
