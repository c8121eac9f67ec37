# mypy: no-check-untyped-defs
"""Shapley values against their definition, small games by hand and the error that they state."""

import itertools
import math

import numpy as np
import pytest

from tokengym.lab.rules.scar import (
    arrivals,
    coalitions,
    sample_permutations,
    shapley_exact,
    shapley_sampled,
)


def shapley_by_definition(value, players):
    """Return the mean gain over all orders."""
    total = np.zeros(players)
    for order in itertools.permutations(range(players)):
        coalition = 0
        for player in order:
            total[player] += value(coalition | 1 << player) - value(coalition)
            coalition |= 1 << player
    return total / math.factorial(players)


def asked(values, orders):
    """Return the values of the coalitions that orders ask for, from those of all."""
    joined = arrivals(orders)
    return np.asarray(values)[joined @ 2 ** np.arange(joined.shape[2])]


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
    joined = [[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1]]
    assert arrivals([[2, 0, 1]]).astype(int).tolist() == [joined]


def test_sampling_all_orders_is_exact():
    values = np.random.default_rng(0).normal(size=8)
    halves = [(0, 1, 2), (0, 2, 1), (1, 0, 2)]
    orders = [order for half in halves for order in (half, half[::-1])]
    estimate = shapley_sampled(asked(values, orders), orders)
    np.testing.assert_allclose(estimate.values, shapley_exact(values), atol=1e-12)


def test_the_stated_error_is_the_error():
    players = 7
    values = np.random.default_rng(3).normal(size=2**players).cumsum()
    truth = shapley_exact(values)
    draws = []
    for seed in range(300):
        orders = sample_permutations(players, 16, [seed])
        draws.append(shapley_sampled(asked(values, orders), orders))
    z = np.array([(draw.values - truth) / draw.standard_errors for draw in draws])
    # Student's t of 15 degrees of freedom: deviation 1.074.
    assert np.sqrt((z**2).mean()) == pytest.approx(1.074, abs=0.1)
    errors = np.array([draw.values - truth for draw in draws])
    assert np.all(np.abs(errors.mean(axis=0)) < 4 * errors.std(axis=0) / np.sqrt(300))
    for draw in draws[:5]:
        assert draw.values.sum() == pytest.approx(values[-1] - values[0])


def test_an_additive_game_has_no_error():
    worth = np.array([3.0, -1.0, 0.5])
    orders = sample_permutations(3, 2, [0])
    estimate = shapley_sampled(asked(coalitions(3) @ worth, orders), orders)
    np.testing.assert_allclose(estimate.values, worth)
    np.testing.assert_allclose(estimate.standard_errors, 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shapley_exact([1.0, 2.0, 3.0]), r"values.*got \(3,\)"),
        (lambda: shapley_sampled(np.zeros((2, 3)), [[0, 1], [1, 0]]), r"pairs.*got \(2, 2\)"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
