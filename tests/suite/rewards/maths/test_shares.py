# mypy: no-check-untyped-defs
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokengym.rewards.maths import redistribution as F
from tokengym.rewards.maths.shares import (
    coalitions_of,
    complete,
    received_attention,
    rescale_signed,
    sample_permutations,
    shapley_exact,
    shapley_sampled,
    shift,
    split_evenly,
)


def test_complete_by_hand():
    assert complete(3.0, [2.0, -1.0, 0.5]).tolist() == [2.0, -1.0, 2.0]
    assert complete(3.0, [0.0]).tolist() == [3.0]


def test_a_shift_adds_the_same_to_each():
    assert shift(3.0, [2.0, -1.0, 0.5]).tolist() == [2.5, -0.5, 1.0]  # 1.5 was missing
    assert shift(3.0, [0.0]).tolist() == [3.0]


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
def test_rescale_signed_by_hand(score, shares, expected):
    np.testing.assert_allclose(rescale_signed(score, shares), expected, atol=1e-12)


@given(
    st.floats(-100, 100),
    st.lists(st.floats(-50, 50, allow_subnormal=False), min_size=1, max_size=30),
)
def test_rescaled_shares_sum_to_the_score_and_stay_bounded(score, shares):
    rewards = rescale_signed(score, shares)
    assert F.close_sum(score, rewards)
    assert np.abs(rewards).sum() <= max(10.0, 3.0) * abs(score) + 1e-9
    signs = np.sign(rewards[:-1]) * np.sign(shares[:-1])
    assert (signs >= 0).all() or not np.any(shares)


def test_split_evenly():
    assert [list(span) for span in split_evenly(7, 3)] == [[0, 1, 2], [3, 4], [5, 6]]
    assert [list(span) for span in split_evenly(2, 6)] == [[0], [1]]


def shapley_by_definition(value, players):
    """Return the mean gain over all orders."""
    total = np.zeros(players)
    for order in itertools.permutations(range(players)):
        coalition = 0
        for player in order:
            total[player] += value(coalition | 1 << player) - value(coalition)
            coalition |= 1 << player
    return total / math.factorial(players)


@pytest.mark.parametrize("players", [1, 2, 3, 5])
def test_exact_shapley_is_the_mean_over_all_orders(players):
    values = np.random.default_rng(players).normal(size=2**players)
    expected = shapley_by_definition(values.__getitem__, players)
    result = shapley_exact(values)
    np.testing.assert_allclose(result, expected, atol=1e-12)
    assert result.sum() == pytest.approx(values[-1] - values[0])


def test_the_glove_game():
    # Player 0 has a left glove, 1 and 2 right ones; a pair is worth 1: 2/3, 1/6, 1/6.
    values = [1.0 if mask & 1 and mask & 6 else 0.0 for mask in range(8)]
    np.testing.assert_allclose(shapley_exact(values), [2 / 3, 1 / 6, 1 / 6])


def test_permutations_come_with_their_reverse_and_depend_on_their_entropy():
    orders = sample_permutations(5, 3, [1, 2])
    assert orders.shape == (6, 5)
    np.testing.assert_array_equal(orders[1::2], orders[::2, ::-1])
    np.testing.assert_array_equal(orders, sample_permutations(5, 3, [1, 2]))
    assert not np.array_equal(orders, sample_permutations(5, 3, [1, 3]))
    assert coalitions_of([[2, 0, 1]]).tolist() == [[0, 4, 5, 7]]


def test_sampling_all_orders_is_exact():
    values = np.random.default_rng(0).normal(size=8)
    halves = [(0, 1, 2), (0, 2, 1), (1, 0, 2)]
    orders = [order for half in halves for order in (half, half[::-1])]
    estimate = shapley_sampled(dict(enumerate(values)), orders)
    np.testing.assert_allclose(estimate.values, shapley_exact(values), atol=1e-12)


def test_the_stated_error_is_the_error():
    players = 7
    values = np.random.default_rng(3).normal(size=2**players).cumsum()
    truth, table = shapley_exact(values), dict(enumerate(values))
    draws = [
        shapley_sampled(table, sample_permutations(players, 16, [seed])) for seed in range(300)
    ]
    z = np.array([(draw.values - truth) / draw.standard_errors for draw in draws])
    # Student's t of 15 degrees of freedom: deviation 1.074.
    assert np.sqrt((z**2).mean()) == pytest.approx(1.074, abs=0.1)
    errors = np.array([draw.values - truth for draw in draws])
    assert np.all(np.abs(errors.mean(axis=0)) < 4 * errors.std(axis=0) / np.sqrt(300))
    for draw in draws[:5]:
        assert draw.values.sum() == pytest.approx(values[-1] - values[0])


def test_an_additive_game_has_no_error():
    worth = np.array([3.0, -1.0, 0.5])
    table = {mask: sum(worth[i] for i in range(3) if mask >> i & 1) for mask in range(8)}
    estimate = shapley_sampled(table, sample_permutations(3, 2, [0]))
    np.testing.assert_allclose(estimate.values, worth)
    np.testing.assert_allclose(estimate.standard_errors, 0.0, atol=1e-12)


def test_received_attention_by_hand():
    attention = [[0.9, 9, 9], [0.2, 0.4, 9], [7, 7, 7]]  # above the diagonal and last row: ignored
    np.testing.assert_allclose(received_attention(attention), [(0.9 + 0.2) / 2, 0.4, 0.0])
    assert received_attention([[1.0]]).tolist() == [0.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shift(1.0, []), r"shares must be finite, of shape \(n,\)"),
        (lambda: complete(1.0, []), r"shares must be finite, of shape \(n,\)"),
        (lambda: rescale_signed(1.0, [np.nan]), "shares must be finite"),
        (lambda: rescale_signed(1.0, [1.0], guard=0.0), r"guard must lie in \(0, 1\], got 0.0"),
        (lambda: split_evenly(0, 2), "length and parts must be at least 1, got 0 and 2"),
        (lambda: shapley_exact([1.0, 2.0, 3.0]), r"values must have shape \(2\^m,\).*got \(3,\)"),
        (lambda: shapley_sampled({}, [[0, 1], [1, 0]]), r"two pairs or more, got \(2, 2\)"),
        (lambda: received_attention(np.zeros((2, 3))), r"shape \(n, n\) with n >= 1, got \(2, 3\)"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
