"""Pairing, worked by hand; the best-of-n bound against the exact distribution."""

import itertools

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from tokengym.agents.losses.ranking import (
    Choice,
    best_against_worst,
    best_of,
    best_of_n_kl_bound,
    mean_of_best,
)


def best_of_n_probs(probs: ArrayLike, scores: ArrayLike, n: int) -> NDArray[np.float64]:
    """The exact law: P(y) = probs(y) * (P(S <= s)^n - P(S < s)^n) / P(S = s), s = score of y."""
    drawn, values = np.asarray(probs, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    levels, level = np.unique(values, return_inverse=True)
    mass = np.bincount(level, drawn, len(levels))
    wins = np.diff(np.minimum(np.cumsum(mass), 1.0) ** n, prepend=0.0)
    share = np.divide(wins, mass, out=np.zeros_like(mass), where=mass > 0.0)
    return drawn * share[level]


def test_best_is_set_against_worst():
    assert best_against_worst([0.5, 2.0, -1.0, 1.0], ["a", "b", "c", "d"]) == Choice(1, 2)


def test_first_of_equals_is_taken():
    assert best_against_worst([2.0, 0.0, 2.0, 0.0], ["a", "b", "c", "d"]) == Choice(0, 1)
    assert best_of([0.0, 2.0, 2.0], ["a", "b", "c"]) == 1


@pytest.mark.parametrize(
    ("scores", "texts"),
    [([1.0, 1.0, 1.0], ["a", "b", "c"]), ([1.0, 0.0], ["same", "same"]), ([1.0], ["alone"])],
    ids=["tie", "equal texts", "one response"],
)
def test_nothing_to_learn_gives_no_pair(scores, texts):
    assert best_against_worst(scores, texts) is None


def test_length_penalty_turns_the_order_round():
    # 3 - .5 * 8 = -1, 1 - .5 * 1 = .5: the short one wins; without the penalty the long one does.
    texts = ["so long!", "s"]
    assert best_against_worst([3.0, 1.0], texts) == Choice(0, 1)
    assert best_against_worst([3.0, 1.0], texts, length_penalty=0.5) == Choice(1, 0)
    assert best_of([3.0, 1.0], texts, length_penalty=0.5) == 1
    # 3 - 8p = 1 - p at p = 2/7: penalties can make ties too.
    assert best_against_worst([8.0, 1.0], texts, length_penalty=1.0) is None


def test_min_gap_drops_pairs_that_hardly_differ():
    assert best_against_worst([1.0, 1.25], ["a", "b"], min_gap=0.25) is None
    assert best_against_worst([1.0, 1.5], ["a", "b"], min_gap=0.25) == Choice(1, 0)


@pytest.mark.parametrize(
    ("scores", "texts", "settings", "match"),
    [
        ([1.0], ["a", "b"], {}, r"shape \(1,\) for 2 texts"),
        ([], [], {}, "per response"),
        ([1.0, float("nan")], ["a", "b"], {}, r"finite.*scorer"),
        ([1.0, 2.0], ["a", "b"], {"length_penalty": -1.0}, r"length_penalty.*got -1\.0"),
        ([1.0, 2.0], ["a", "b"], {"min_gap": -0.5}, "min_gap.*>= 0, got -0.5"),
    ],
)
def test_bad_input_is_named(scores, texts, settings, match):
    with pytest.raises(ValueError, match=match):
        best_against_worst(scores, texts, **settings)


@pytest.mark.parametrize("n", [1, 2, 4, 16, 128])
def test_bound_holds_on_discrete_distributions(n):
    rng = np.random.default_rng(n)
    for size in (2, 3, 10, 1000):
        p = rng.dirichlet(np.full(size, 0.5))
        best = best_of_n_probs(p, np.arange(len(p)), n)
        held = best > 0
        kl = float((best[held] * np.log(best[held] / p[held])).sum())
        assert -1e-9 <= kl <= best_of_n_kl_bound(n) + 1e-9


@pytest.mark.parametrize("n", [2, 4, 16])
def test_bound_is_reached_where_no_outcome_has_mass(n):
    p = np.full(200_000, 1 / 200_000)
    best = best_of_n_probs(p, np.arange(len(p)), n)
    assert (best * np.log(best / p)).sum() == pytest.approx(best_of_n_kl_bound(n), abs=1e-3)


def test_bound_by_hand():
    assert best_of_n_kl_bound(2) == pytest.approx(0.6931472 - 0.5)
    with pytest.raises(ValueError, match=r"n must.*got 0"):
        best_of_n_kl_bound(0)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_best_of_n_is_that_of_brute_force(n):
    """Every tuple of n draws, its best by `best_of`; two responses tie, one is never drawn."""
    probs, scores = [0.1, 0.4, 0.0, 0.2, 0.3], [1.0, 0.0, 5.0, 1.0, -2.0]
    expected = np.zeros(5)
    for draws in itertools.product(range(5), repeat=n):
        best = draws[best_of([scores[i] for i in draws], ["" for _ in draws])]
        expected[best] += np.prod([probs[i] for i in draws])
    np.testing.assert_allclose(best_of_n_probs(probs, scores, n), expected, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_mean_of_the_best_of_n_is_that_over_all_subsets(n):
    proxy = np.array([[0.3, -1.0, 2.0, 0.5, 1.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    gold = np.array([[1.0, 2.0, -3.0, 0.0, 4.0], [1.0, 0.0, 0.0, 0.0, 7.0]])
    expected = [
        np.mean(
            [row[1][max(s, key=lambda i: row[0][i])] for s in itertools.combinations(range(5), n)]
        )
        for row in zip(proxy, gold, strict=True)
    ]
    np.testing.assert_allclose(mean_of_best(proxy, gold, n), expected, atol=1e-12)


def test_the_mean_of_the_best_is_unbiased_for_fresh_responses():
    """Against the exact law of the best of n: the mean over many samples of N = 6 responses."""
    probs, scores = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 3.0])
    drawn = np.random.default_rng(0).choice(scores, (40_000, 6), p=probs)
    for n in (1, 2, 4, 6):
        exact = float(best_of_n_probs(probs, scores, n) @ scores)
        assert mean_of_best(drawn, drawn, n).mean() == pytest.approx(exact, abs=0.015)


@pytest.mark.parametrize("n", [0, 4])
def test_more_than_the_responses_there_are_is_refused(n):
    with pytest.raises(ValueError, match=rf"\[1, 3\], .*got {n}"):
        mean_of_best([[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]], n)
