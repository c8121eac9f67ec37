# mypy: no-check-untyped-defs
"""Each row earns the same bits alone and in a batch, under every rule of the laboratory."""

import pickle

import numpy as np
import pytest

from tests.support.rewards.alone import Steady, check_alone, played, reader
from tests.support.rewards.common import LengthScorer, make_episode
from tokengym.lab.rules.attribution import leave_one_out
from tokengym.rewards import FunctionScorer, Reward, Rule, Scores
from tokengym.rewards.credits.words import REWARDS, SHIPPED

MODELS = {"prm": {"model": Steady()}, "rto": {"policy": reader(1)}}
NAMES = sorted(
    name
    for name in {*REWARDS.names()} - {*SHIPPED}
    if hasattr(REWARDS.find(name).factory, "function")
)


@pytest.mark.parametrize("options", [{}, {"segments": 3}, {"cut": "turn"}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_row_earns_the_same_bits_in_any_batch(name, options, tokenizer):
    function = REWARDS.find(name).factory.function
    options = {**options, **MODELS.get(name, {})}
    check_alone(Rule(function, **options), tokenizer, played(3, time=20))


class Rounding(LengthScorer):
    """Rounds by the place in the batch; of the ids 9 alone counts."""

    reads_text = False

    def score(self, episodes, *, attribution=None):
        values = [100.0 * (9 in e.response_ids) - 0.5 for e in episodes]
        noise = 1e-7 * np.resize([0, -1, 1, 2], len(values)) * np.abs(values).clip(1)
        return Scores(np.float32(values + noise))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [([5, 6], [-0.25, -0.25]), ([5, 6, 7, 8], [-0.125] * 4), ([5, 9, 6], [0.0, 99.5, 0.0])],
)
def test_what_two_passes_round_is_no_part_of_a_score(ids, expected):
    reward = Reward(Rounding(), Rule(leave_one_out))
    episodes = [make_episode(response_ids=one) for one in ([7, 9], ids, [8], ids)]
    for paid in (*reward.evaluate(episodes[1:2]), *reward.evaluate(episodes)[1::2]):
        np.testing.assert_allclose(paid.token_rewards, expected, atol=1e-4)


def test_a_difference_beyond_rounding_is_a_part(tokenizer):
    """Of a score of 1, 2e-6 is more than rounding."""
    scorer = FunctionScorer(lambda response_ids: 1.0 + 2e-6 * (5 in response_ids))
    reward = Reward(scorer, Rule(leave_one_out)).bind(tokenizer)
    (paid,) = reward.evaluate([make_episode(response_ids=[5, 6])])
    np.testing.assert_allclose(paid.token_rewards, [1.0, 0.0], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_is_sent_to_other_processes(name):
    rule = Rule(REWARDS.find(name).factory.function, **{n: "folder" for n in MODELS.get(name, {})})
    again = pickle.loads(pickle.dumps(rule))
    assert again.declared == rule.declared
    assert again.signature == rule.signature
