"""The worth of a response's tokens by executed forks: continuations with a token and without.

Pure functions of the continuations' scores, one response at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from tokengym.evaluation.statistics.aggregates import Array, Random
from tokengym.evaluation.statistics.agreement import rank_correlation


@dataclass(frozen=True, kw_only=True)
class ExecutedWorth:
    """Estimated advantages of one response's tokens."""

    worth: Array
    """(n,) in score units; they sum to the score minus the prompt's value."""
    low: Array
    """(n,) lower ends of the intervals."""
    high: Array
    """(n,) upper ends."""
    halves: tuple[Array, Array]
    """(n,) twice: the same from one half of the continuations each."""


def executed_worth(
    draws: Array, score: float, *, bounds: tuple[float, float], level: float = 0.95
) -> ExecutedWorth:
    """Return what each token changed in the mean score of the policy's continuations.

    A_t = mean of V(y_<=t) - mean of V(y_<t);   V of the whole response is its score

    Each mean's error is that of its k scores and two more, one at either bound, and the interval is
    centred on the difference of these means: k equal scores do not prove that the next is equal.

    Args:
        draws: (n, k) scores of k continuations of the first t tokens, t = 0 ... n - 1; k is even.
        score: Score of the response.
        bounds: The lowest and the highest score that is known.
        level: Confidence level of each token's interval, in (0, 1).

    Raises:
        ValueError: if there are fewer than 2 continuations of a prefix, or an odd number.

    Example:
        >>> found = executed_worth(np.array([[0.0, 1.0], [1.0, 1.0]]), 1.0, bounds=(0.0, 1.0))
        >>> found.worth.tolist()
        [0.5, 0.0]

    Source: Agresti and Caffo 2000, "Simple and Effective Confidence Intervals for Proportions",
    The American Statistician 54(4).
    """
    k = draws.shape[1]
    if k < 2 or k % 2:
        raise ValueError(f"forks need an even number of continuations, at least 2, got k={k}")
    mean, variance = _bounded_mean(draws, bounds)
    mean, variance = np.append(mean, score), np.append(variance, 0.0)
    half = ndtri((1.0 + level) / 2.0) * np.sqrt(variance[1:] + variance[:-1])
    return ExecutedWorth(
        worth=_differences(draws, score),
        low=np.diff(mean) - half,
        high=np.diff(mean) + half,
        halves=(_differences(draws[:, : k // 2], score), _differences(draws[:, k // 2 :], score)),
    )


def forked_worth(
    without: Array, taken: Array, *, bounds: tuple[float, float], level: float = 0.95
) -> tuple[float, float, float]:
    """Return one token's worth and the ends of its interval, as `executed_worth` has them.

    Args:
        without: (k,) scores of continuations before the token.
        taken: (k,) scores of continuations after it.
        bounds: The lowest and the highest score that is known.
        level: Confidence level, in (0, 1).

    Example:
        >>> worth, low, high = forked_worth(np.zeros(8), np.ones(8), bounds=(0.0, 1.0))
        >>> worth, round(low, 2), round(high, 2)
        (1.0, 0.54, 1.06)
    """
    mean, variance = _bounded_mean(np.stack([without, taken]), bounds)
    half = ndtri((1.0 + level) / 2.0) * np.sqrt(variance.sum())
    middle = mean[1] - mean[0]
    return float(taken.mean() - without.mean()), float(middle - half), float(middle + half)


def _bounded_mean(draws: Array, bounds: tuple[float, float]) -> tuple[Array, Array]:
    """Return the means (n,) of scores (n, k) and one at either bound, and their variances."""
    more = np.hstack([draws, np.broadcast_to(bounds, (len(draws), 2))])
    return more.mean(axis=1), more.var(axis=1) / more.shape[1]


def split_half_ceiling(halves: Sequence[tuple[Array, Array]]) -> float:
    """Return the mean rank correlation that a rule has with the estimate if it is the truth.

    ceiling = sqrt(2 rho / (1 + rho)),  rho = mean rank correlation of the two halves, at least 0

    Args:
        halves: Per response the estimates from each half of the continuations.

    Source: Spearman 1910; Brown 1910.
    """
    rho = max(float(np.mean([rank_correlation(*pair) for pair in halves])), 0.0)
    return float(np.sqrt(2.0 * rho / (1.0 + rho)))


def chance_correlation(
    truths: Sequence[Array], *, rng: Random, level: float = 0.95, resamples: int = 200
) -> float:
    """Return the mean rank correlation that a share ``level`` of random orders stay below.

    Args:
        truths: Per response (n,) the estimates.
        rng: Shuffles the tokens of each response.
        level: In (0, 1).
        resamples: Random orders of all responses.
    """
    draw = np.random.default_rng(rng)
    means = [
        np.mean([rank_correlation(draw.permutation(truth), truth) for truth in truths])
        for _ in range(resamples)
    ]
    return float(np.quantile(means, level))


def _differences(draws: Array, score: float) -> Array:
    return np.diff(np.append(draws.mean(axis=1), score))
