"""Comparison of two sets of runs: probability of improvement, and differences paired by seed.

Source: Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice", arXiv:2108.13264.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tokengym.evaluation.statistics.aggregates import (
    DEFAULT_RESAMPLES,
    Array,
    Random,
    Statistic,
    central,
    checked_draws,
    finite,
    interval,
    iqm,
    resample,
    score_table,
)


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """Return the probability that a run of x beats a run of y, ties counting half.

    P = mean over tasks of mean_ij [x_i > y_j] + 0.5 * [x_i = y_j]

    Args:
        x: (runs of x, tasks) or (runs of x,).
        y: (runs of y, tasks) or (runs of y,).

    Returns:
        A probability; 0.5 means that neither is better.

    Raises:
        ValueError: if the two have different numbers of tasks, or a score is not finite.

    Source:
        arXiv:2108.13264, section 4.3; per task the Mann-Whitney U of x over (runs x * runs y).

    Example:
        >>> probability_of_improvement([1.0, 3.0], [2.0, 1.0])
        0.625
    """
    left, right = score_table("x", x), score_table("y", y)
    _same_tasks(left, right)
    return float(_improvement(left[None], right[None])[0])


def improvement_interval(
    x: ArrayLike,
    y: ArrayLike,
    level: float = 0.95,
    *,
    rng: Random = 0,
    resamples: int = DEFAULT_RESAMPLES,
) -> tuple[float, float]:
    """Return the bootstrap interval of `probability_of_improvement`, x and y drawn apart."""
    left, right = score_table("x", x), score_table("y", y)
    _same_tasks(left, right)
    generator = np.random.default_rng(rng)
    count = checked_draws(level, resamples)
    values = _improvement(resample(left, count, generator), resample(right, count, generator))
    return central(values, level)


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Difference between two sets of runs with the same seeds."""

    difference: float
    """The statistic of x - y over the pairs."""
    low: float
    """Lower end of its interval."""
    high: float
    """Upper end of its interval."""
    wins: int
    """Pairs where x is greater."""
    ties: int
    """Pairs where the two are equal."""
    pairs: int
    """Number of pairs."""


def paired_difference(
    x: ArrayLike,
    y: ArrayLike,
    statistic: Statistic = iqm,
    level: float = 0.95,
    *,
    rng: Random = 0,
    resamples: int = DEFAULT_RESAMPLES,
) -> PairedDifference:
    """Return the difference x - y of runs paired by seed, with its paired-bootstrap interval.

    Seeds are resampled with replacement, each with both its runs, so that an effect the seed has
    on both cancels.

    Args:
        x: (pairs,) scores.
        y: (pairs,) scores of the same seeds, in the same order.
        statistic: Statistic of the differences to report.
        level: As in `interval`.
        rng: Generator, or a seed for one.
        resamples: Number of bootstrap draws.

    Raises:
        ValueError: if the two differ in length, or a score is not finite.

    Example:
        >>> paired_difference([2.0, 3.0, 4.0], [1.0, 2.0, 3.0]).difference
        1.0
    """
    left, right = finite("x", x), finite("y", y)
    if left.ndim != 1 or left.shape != right.shape:
        raise ValueError(
            f"x and y must be (pairs,) alike, got {left.shape} and {right.shape}; "
            "keep only the seeds that both have, in one order"
        )
    differences = left - right
    low, high = interval(differences, statistic, level, rng=rng, resamples=resamples)
    return PairedDifference(
        difference=float(statistic(differences)),
        low=low,
        high=high,
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        pairs=len(differences),
    )


def _improvement(left: Array, right: Array) -> Array:
    """Return P(left beats right) for each resample: (resamples, runs, tasks) -> (resamples,)."""
    gap = left[:, :, None, :] - right[:, None, :, :]  # (resamples, runs x, runs y, tasks)
    return (np.sign(gap).mean(axis=(1, 2, 3)) + 1.0) / 2.0


def _same_tasks(left: Array, right: Array) -> None:
    if left.shape[1] != right.shape[1]:
        raise ValueError(
            f"x and y must have the same tasks, got {left.shape[1]} and {right.shape[1]} columns"
        )
