"""Backward induction against a tree worked by hand."""

from typing import Any

import numpy as np
import pytest

from tokengym.lab.envs.oracle.dynamic_programming import level_starts, optimal_values, policy_values

# Two tokens, two steps; rows: (), 0, 1, 00, 01, 10, 11.
SCORES = np.array([1.0, 4.0, 0.0, 3.0, 8.0, 2.0, -2.0])
TREE: dict[str, Any] = {"branching": 2, "horizon": 2, "end_from": 0}


def test_numbering() -> None:
    assert level_starts(2, 2) == [0, 1, 3, 7]
    assert level_starts(1, 3) == [0, 1, 2, 3, 4]


def test_best_play_by_hand() -> None:
    values, q_values = optimal_values(SCORES, **TREE)
    assert values.tolist() == [8.0, 8.0, 2.0]
    assert q_values.tolist() == [[8.0, 2.0, 1.0], [3.0, 8.0, 4.0], [2.0, -2.0, 0.0]]


def test_a_policy_by_hand() -> None:
    probs = np.array([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
    values, q_values = policy_values(SCORES, probs, **TREE)
    # V(0) = (8 + 4) / 2 = 6, V(1) = 2, V() = 6 / 2 + 2 / 4 + 1 / 4
    assert values.tolist() == [3.75, 6.0, 2.0]
    assert q_values[0].tolist() == [6.0, 2.0, 1.0]


def test_ends_that_are_not_allowed_yet() -> None:
    values, q_values = optimal_values(np.array([9.0, 1, 2, 0, 0, 0, 0]), **TREE | {"end_from": 1})
    assert values.tolist() == [2.0, 1.0, 2.0]
    assert np.isnan(q_values[:, 2]).tolist() == [True, False, False]
    uniform = np.array([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5], [0.0, 0.0, 1.0]])
    values, _ = policy_values(np.array([9.0, 1, 2, 0, 0, 0, 0]), uniform, **TREE | {"end_from": 1})
    assert values.tolist() == [1.25, 0.5, 2.0]
    never, _ = optimal_values(SCORES, **TREE | {"end_from": 2})
    assert never.tolist() == [8.0, 8.0, 2.0]


def test_the_best_policy_has_the_best_values() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=level_starts(3, 4)[-1])
    tree: dict[str, Any] = {"branching": 3, "horizon": 4, "end_from": 1}
    best, q_values = optimal_values(scores, **tree)
    greedy = np.eye(4)[np.nanargmax(q_values, axis=1)]
    np.testing.assert_allclose(policy_values(scores, greedy, **tree)[0], best)


def test_scores_of_another_tree() -> None:
    with pytest.raises(ValueError, match=r"shape \(7,\)"):
        optimal_values(SCORES[:-1], **TREE)
