# mypy: no-check-untyped-defs
"""What rules are written with, and what every rule does with it, by hand and for any numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rewards.common import make_episode
from tests.support.rules import rewards_of, rule_of
from tokengym.rewards import Scores
from tokengym.rewards.maths.redistribution import close_sum
from tokengym.rewards.maths.tokens import rescaled


def credit(word, score, weights):
    """Return the rewards of one response whose tokens the reward model looked at so much."""
    episode = make_episode(response_ids=[5] * len(weights))
    (rewards,) = rewards_of(rule_of(word), [episode], Scores([score], attributions=[weights]))
    return rewards


def rescaled_row(score, parts, **guard):
    """Return `rescaled` of one row without padding, in float64."""
    row = torch.tensor([parts], dtype=torch.float64)
    return rescaled(row.new_tensor([score]), row, torch.ones_like(row, dtype=torch.bool), **guard)[
        0
    ]


def test_a_share_is_spread_and_the_rest_stays_last_by_hand():
    # alpha = .1 .2 .3 .4, R = 10, beta = .8: 8 alpha, and 2 on the last
    expected = np.array([0.8, 1.6, 2.4, 5.2])
    np.testing.assert_allclose(credit("abc:beta=0.8", 10.0, [1, 2, 3, 4]), expected, rtol=1e-6)
    np.testing.assert_allclose(credit("abc:beta=0.8", -10.0, [1, 2, 3, 4]), -expected, rtol=1e-6)


def test_spreading_reduces_to_sparse_and_uniform():
    sparse, uniform = credit("sparse", 7.0, [1, 1, 1]), credit("uniform", 7.0, [1, 1, 1])
    np.testing.assert_allclose(credit("abc:beta=0", 7.0, [0.3, 0.1, 0.6]), sparse)
    np.testing.assert_allclose(credit("abc:beta=1", 7.0, [5, 5, 5]), uniform)
    np.testing.assert_allclose(credit("abc:beta=1", 7.0, [0, 0, 0]), uniform)


@given(st.floats(-1e4, 1e4), st.lists(st.floats(0, 1e3), min_size=1, max_size=64), st.floats(0, 1))
def test_what_is_spread_sums_to_the_score(score, weights, beta):
    assert close_sum(np.float32(score), credit(f"abc:beta={beta}", score, weights))


def test_recency_by_hand():
    # tau = 1 / ln 2: each step back halves the weight
    halves = credit(f"recency:tau={1 / np.log(2)}", 1.0, [0, 0, 0])
    np.testing.assert_allclose(halves, [1 / 7, 2 / 7, 4 / 7], rtol=1e-6)
    np.testing.assert_allclose(credit("recency:tau=1e9", 1.0, [0] * 4), [0.25] * 4, atol=1e-8)
    np.testing.assert_allclose(credit("recency:tau=1e-3", 1.0, [0] * 4), [0, 0, 0, 1], atol=1e-12)


@pytest.mark.parametrize(
    ("score", "shares", "expected"),
    [
        (6.0, [2.0, -1.0, 2.0], [4.0, -2.0, 4.0]),  # A = 3: times 2
        (-6.0, [-2.0, 1.0, -2.0], [-4.0, 2.0, -4.0]),
        (-6.0, [2.0, -1.0, 3.0], [2.0, -1.0, -7.0]),  # the other sign: |R| / M = 1, rest at the end
        (6.0, [5.0, -4.9, 0.1], [3.0, -2.94, 5.94]),  # .2 of 10 is left: |R| / M = .6
        (6.0, [0.0, 0.0, 0.0], [2.0, 2.0, 2.0]),
        (0.0, [1.0, -3.0], [0.0, 0.0]),
        (2.0, [1e-300, 3e-300], [0.5, 1.5]),
        (2.0, [1e300, 1e300], [1.0, 1.0]),
    ],
)
def test_rescaled_by_hand(score, shares, expected):
    np.testing.assert_allclose(rescaled_row(score, shares), expected, atol=1e-12)


@given(
    st.floats(-100, 100),
    st.lists(st.floats(-50, 50, allow_subnormal=False), min_size=1, max_size=30),
)
def test_rescaled_parts_sum_to_the_score_and_stay_bounded(score, shares):
    rewards = rescaled_row(score, shares).numpy()
    assert close_sum(score, rewards)
    assert np.abs(rewards).sum() <= max(10.0, 3.0) * abs(score) + 1e-9
    signs = np.sign(rewards[:-1]) * np.sign(shares[:-1])
    assert (signs >= 0).all() or not np.any(shares)


def test_a_guard_lies_within_0_and_1():
    with pytest.raises(ValueError, match=r"guard.*\(0, 1\], got 0.0"):
        rescaled_row(1.0, [1.0], guard=0.0)
