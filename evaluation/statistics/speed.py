"""How many steps a reward needs to get where another one ends: runs that never do are kept.

Differs from a plain median of steps: a run that stays below the threshold is censored at the
budget, so its infinity enters order statistics and its budget enters the restricted mean.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tokengym.evaluation.statistics import (
    DEFAULT_RESAMPLES,
    Array,
    Random,
    final_mean,
    interval,
    iqm,
    steps_to_threshold,
)


@dataclass(frozen=True, kw_only=True)
class CensoredSteps:
    """Steps to a threshold over runs, those that never reach it kept as censored."""

    reached: float
    """Share of runs that reach the threshold within the budget."""
    median: float
    """Median steps; infinity when half the runs or fewer arrive."""
    restricted_mean: float
    """Mean of min(steps, budget): a lower bound on the mean when a run is censored."""
    low: float
    """Lower end of the restricted mean's interval."""
    high: float
    """Upper end of the restricted mean's interval."""


def censored_steps(
    steps: ArrayLike,
    budget: float,
    level: float = 0.95,
    *,
    rng: Random = 0,
    resamples: int = DEFAULT_RESAMPLES,
) -> CensoredSteps:
    """Summarise what `steps_to_threshold` gave for each run.

    All runs share one budget, so the Kaplan-Meier mean restricted to it is the plain mean of
    min(steps, budget).

    Args:
        steps: (runs,), infinity for a run that never arrived.
        budget: The steps every run had.
        level: Of the interval, in (0, 1).
        rng: A generator, or the seed of one.
        resamples: Number of bootstrap draws.

    Raises:
        ValueError: if there are no runs, or one is NaN.

    Example:
        >>> censored_steps([10.0, 20.0, float("inf")], 45.0).restricted_mean
        25.0
    """
    values = np.asarray(steps, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or np.isnan(values).any():
        raise ValueError(
            f"steps must be (runs,) numbers or infinity, got {steps!r}; "
            "infinity stands for a run that never arrived"
        )
    restricted = np.minimum(values, budget)
    low, high = interval(
        restricted, lambda runs: float(runs.mean()), level, rng=rng, resamples=resamples
    )
    return CensoredSteps(
        reached=float((values <= budget).mean()),
        median=float(np.quantile(values, 0.5, method="higher")),
        restricted_mean=float(restricted.mean()),
        low=low,
        high=high,
    )


@dataclass(frozen=True, kw_only=True)
class RelativeSteps:
    """The steps x needs to reach y's final level, as a share of the steps y needs itself."""

    threshold: float
    """y's final level: the mean of the last points of its interquartile mean curve."""
    steps: float
    """Steps at which x's interquartile mean curve gets there; infinity if it never does."""
    baseline_steps: float
    """Steps at which y's own does."""
    ratio: float
    """steps / baseline_steps; under 1 x is faster, infinity if it never arrives."""
    low: float
    """Lower end of the ratio's interval."""
    high: float
    """Upper end of the ratio's interval; infinity where too many resamples never arrive."""


def relative_steps(
    steps: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    level: float = 0.95,
    *,
    window: float = 0.1,
    rng: Random = 0,
    resamples: int = DEFAULT_RESAMPLES,
) -> RelativeSteps | None:
    """Compare the steps two rewards need to y's final level, on curves paired by seed.

    threshold = mean of the last ``window`` of iqm_runs(y);  s(c) = first step with iqm_runs(c) >=
    threshold, interpolated;  ratio = s(x) / s(y)

    Seeds are drawn with replacement and bring both curves; the threshold is taken anew each time,
    so its own uncertainty is in the interval.

    Args:
        steps: (time,), rising.
        x: (pairs, time).
        y: (pairs, time) of the same seeds, in the same order.
        level: Of the interval, in (0, 1).
        window: The share of the curve that is its end.
        rng: A generator, or the seed of one.
        resamples: Number of bootstrap draws.

    Returns:
        None if y ends no higher than it begins: there is no way to be faster along.

    Raises:
        ValueError: if the shapes differ.
    """
    curves_x, curves_y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if curves_x.shape != curves_y.shape or curves_x.ndim != 2:
        raise ValueError(
            f"x and y must be (pairs, time) alike, got {curves_x.shape} and {curves_y.shape}; "
            "keep only the seeds that both have"
        )
    at = np.asarray(steps, dtype=np.float64)
    threshold, own, baseline = _arrivals(at, iqm(curves_x, 0), iqm(curves_y, 0), window)
    if baseline <= at[0]:
        return None
    pairs = len(curves_x)
    rows = np.random.default_rng(rng).integers(0, pairs, (resamples, pairs))
    ratios = []
    for mean_x, mean_y in zip(iqm(curves_x[rows], 1), iqm(curves_y[rows], 1), strict=True):
        _, reached, needed = _arrivals(at, mean_x, mean_y, window)
        ratios.append(_ratio(reached - at[0], needed - at[0]))
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(ratios, [tail, 1.0 - tail], method="inverted_cdf")  # inf - inf is NaN
    return RelativeSteps(
        threshold=threshold,
        steps=own,
        baseline_steps=baseline,
        ratio=_ratio(own - at[0], baseline - at[0]),
        low=float(low),
        high=float(high),
    )


def _arrivals(steps: Array, x: Array, y: Array, window: float) -> tuple[float, float, float]:
    """Return y's final level, and the steps at which the curves x and y reach it."""
    threshold = final_mean(y, window)
    return (
        threshold,
        steps_to_threshold(steps, x, threshold, interpolate=True),
        steps_to_threshold(steps, y, threshold, interpolate=True),
    )


def _ratio(steps: float, baseline: float) -> float:
    if baseline > 0.0:
        return float(steps / baseline)
    return 1.0 if steps == 0.0 else math.inf
