"""Learning curves: area, final level, collapse, over-optimisation, steps needed to a level.

A run that stays below a level is censored at its budget instead of being left out: it enters order
statistics as infinity and the restricted mean as its budget.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.evaluation.statistics.scores import (
    DEFAULT_RESAMPLES,
    Array,
    Random,
    checked_draws,
    finite,
    interval,
    iqm,
    score_table,
)

SHARES = (0.5, 0.75, 0.9)
"""Shares of the way to a goal at which steps are counted."""
FASTER_AT = 0.75
"""The one of them at which speeds are compared."""
GOLD_LOSS = 0.25
"""Share of the gold score's best gain that is lost while the score still rises."""
NOISES = 3.5
"""Standard deviations of a curve's noise below which nothing is called a fall or a rise: the best
of a dozen flat noisy points lies that far above the last one in one curve of ten."""
FEWEST = 4
"""Evaluations below which no fall is told from noise."""
HELD = 3
"""Evaluations in a row that make a level of a flat curve, whose single steps may be luck."""


def area_under_curve(steps: ArrayLike, values: ArrayLike, *, normalize: bool = False) -> float:
    """Return the area under a learning curve by the trapezoid rule.

    area = sum_i (values_i + values_{i+1}) / 2 * (steps_{i+1} - steps_i)

    Args:
        steps: (time,), strictly increasing.
        values: (time,).
        normalize: Divide by the steps covered, which gives the curve's mean height, in its own
            unit.

    Raises:
        ValueError: if the shapes differ, there are fewer than two points, or steps do not rise.

    Example:
        >>> area_under_curve([0, 10, 20], [0.0, 1.0, 1.0])
        15.0
        >>> area_under_curve([0, 10, 20], [0.0, 1.0, 1.0], normalize=True)
        0.75
    """
    at, height = _curve(steps, values)
    if len(at) < 2:
        raise ValueError(f"an area needs at least two points, got {len(at)}; evaluate more often")
    area = float(np.trapezoid(height, at))
    return area / float(at[-1] - at[0]) if normalize else area


def final_mean(values: ArrayLike, fraction: float = 0.1) -> float:
    """Return the mean of the last ``fraction`` of a curve's points, at least of one.

    Args:
        values: (time,).
        fraction: In (0, 1]; the number of points is rounded up.

    Example:
        >>> final_mean([0.0, 1.0, 2.0, 4.0], fraction=0.5)
        3.0
    """
    height = finite("values", values)
    return float(height[-final_points(len(height), fraction) :].mean())


def collapsed(
    values: ArrayLike, anchor: float, *, fraction: float = 0.5, window: float = 0.1
) -> bool:
    """Return whether a run lost most of what it had gained.

    best  = highest mean of ``window`` of the points in a row;  final = the last such mean
    noise = median |difference of neighbouring points| / (0.6745 * sqrt(2))
    collapsed = best - final > max(fraction * (best - anchor), 2 * noise)  and  best > anchor

    The noise keeps a run that never learnt from counting as one that lost everything. On a flat
    curve (`is_flat`) the root mean square replaces the median, and `HELD` points or more make a
    mean. Fewer than `FEWEST` points show no collapse.

    Args:
        values: (time,) scores.
        anchor: Score before training, that of the reference policy.
        fraction: Share of the gain whose loss counts as a collapse, in (0, 1].
        window: Share of the points in a mean, as ``fraction`` in `final_mean`.

    Example:
        >>> collapsed([0.0, 1.0, 2.0, 3.0, 3.0, 0.2], anchor=0.0)
        True
    """
    height = finite("values", values)
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}; 0.5 is half the gain")
    width = final_points(len(height), window)
    if len(height) < FEWEST:
        return False
    # Running means: a single high point is luck, not a level that was lost.
    means = _running_means(height, max(width, HELD) if is_flat(height) else width)
    best, final = float(means.max()), float(means[-1])
    noise = _deviation(np.diff(height)) / math.sqrt(2.0)
    return best > anchor and best - final > max(fraction * (best - anchor), 2.0 * noise)


@dataclass(frozen=True, kw_only=True)
class OveroptimizationPoint:
    """The point where proxy and gold part: gold was best and then fell, the proxy kept rising."""

    index: int
    """Index of the evaluation at which gold was best; 0 if it fell from the start."""
    gold_best: float
    """Gold score there."""
    gold_last: float
    """Gold score at the end."""
    score_then: float
    """Proxy there."""
    score_last: float
    """Proxy at the end."""


def parting(score: ArrayLike, gold: ArrayLike) -> OveroptimizationPoint | None:
    """Return where the gold score turned down while the score still rose; None if it did not.

    best = argmax(gold);  gain = gold_best - gold_0;  loss = gold_best - gold_last
    parted = loss > max(GOLD_LOSS * gain, NOISES * noise(gold))
             and score_last - score_best > NOISES * noise(score)

    Both are taken as `levels`. Fewer than `FEWEST` evaluations have not parted.

    Proxy and gold rise together until the proxy is over-optimised, then gold falls (Gao et al.
    2023, arXiv:2210.10760).

    Args:
        score: (time,) the proxy that training maximises, a mean over seeds.
        gold: (time,) the score it stands for, at the same evaluations.

    Example:
        >>> parting([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 1.0, 2.0, 1.5, 1.0, 0.5]).index
        2
    """
    proxy, truth = np.asarray(score, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    if proxy.ndim != 1 or proxy.shape != truth.shape or len(proxy) == 0:
        raise ValueError(
            f"score and gold must be (time,) alike, got {proxy.shape} and {truth.shape}; take "
            "both at the same evaluations"
        )
    if len(proxy) < FEWEST:
        return None
    noises = noise(proxy), noise(truth)
    proxy, truth = levels(proxy), levels(truth)
    best = int(np.argmax(truth))
    gain, loss = truth[best] - truth[0], truth[best] - truth[-1]
    fell = loss > max(GOLD_LOSS * gain, NOISES * noises[1], 0.0)
    rose = proxy[-1] - proxy[best] > NOISES * noises[0]
    if not (fell and rose):
        return None
    return OveroptimizationPoint(
        index=best,
        gold_best=float(truth[best]),
        gold_last=float(truth[-1]),
        score_then=float(proxy[best]),
        score_last=float(proxy[-1]),
    )


def noise(curve: ArrayLike) -> float:
    """Return the standard deviation of a curve's noise about its trend; 0 below three points.

    noise = median_i |y_{i+1} - 2 y_i + y_{i-1}| / (0.6745 * sqrt(6))

    Second differences are 0 on a straight rise or fall; the median ignores single jumps. Where it
    is 0, as of a score that seldom changes, the root mean square takes its place.

    Example:
        >>> noise([0.0, 1.0, 2.0, 3.0])
        0.0
    """
    return _deviation(np.diff(np.asarray(curve, dtype=np.float64), n=2)) / 6.0**0.5


def is_flat(curve: ArrayLike) -> bool:
    """Return whether half of a curve's points or more equal the one before, as discrete scores do.

    Example:
        >>> is_flat([0.0, 0.0, 0.25, 0.0, 0.0, 0.0])
        True
    """
    steps = np.abs(np.diff(np.asarray(curve, dtype=np.float64)))
    return len(steps) > 0 and float(np.median(steps)) == 0.0


def levels(curve: ArrayLike) -> Array:
    """Return a curve, or the running means of `HELD` points of a flat one, (time,).

    The first and last mean stand at its ends too.

    Example:
        >>> levels([0.0, 0.0, 0.75, 0.0, 0.0, 0.0]).tolist()
        [0.25, 0.25, 0.25, 0.25, 0.0, 0.0]
    """
    height = np.asarray(curve, dtype=np.float64)
    if len(height) < FEWEST or not is_flat(height):
        return height
    return np.pad(_running_means(height, HELD), HELD // 2, mode="edge")


def _running_means(height: Array, width: int) -> Array:
    return np.convolve(height, np.full(width, 1.0 / width), mode="valid")


def _deviation(differences: Array) -> float:
    """Return the standard deviation of differences about 0; 0 of none.

    By the median, as a collapse is itself a large step and must not pass for noise. It is 0 where
    half of them are, which says nothing of the others.
    """
    if not len(differences):
        return 0.0
    middle = float(np.median(np.abs(differences))) / 0.6745
    return middle or float(np.sqrt(np.mean(differences**2)))


def steps_to_threshold(
    steps: ArrayLike, values: ArrayLike, threshold: float, *, interpolate: bool = False
) -> float:
    """Return the first step at which a curve is at or above a threshold; infinity if never.

    A run that never gets there is censored at its last step, not left out: see `censored_steps`.
    Infinity keeps such runs in order statistics: a median of steps is right as long as more than
    half the runs arrive.

    Args:
        steps: (time,), strictly increasing.
        values: (time,).
        threshold: Level to reach, in the unit of ``values``.
        interpolate: Where the curve first comes up to the threshold between two points, return
            the crossing of the straight line between them, not the later point.

    Raises:
        ValueError: if the shapes differ, steps do not rise, or the threshold is not finite.

    Example:
        >>> steps_to_threshold([0, 10, 20], [0.0, 1.0, 3.0], 2.0)
        20.0
        >>> steps_to_threshold([0, 10, 20], [0.0, 1.0, 3.0], 2.0, interpolate=True)
        15.0
        >>> steps_to_threshold([0, 10, 20], [0.0, 1.0, 3.0], 9.0)
        inf
    """
    at, height = _curve(steps, values)
    if not math.isfinite(threshold):
        raise ValueError(f"threshold must be finite, got {threshold}; pass a score to reach")
    reached = np.flatnonzero(height >= threshold)
    if len(reached) == 0:
        return math.inf
    first = int(reached[0])
    if not interpolate or first == 0:
        return float(at[first])
    below, above = height[first - 1], height[first]  # below < threshold <= above
    share = (threshold - below) / (above - below)
    return float(at[first - 1] + share * (at[first] - at[first - 1]))


def steps_to_shares(
    steps: ArrayLike,
    curves: ArrayLike,
    start: float,
    goal: float,
    shares: Sequence[float] = SHARES,
) -> Array:
    """Return the steps at which runs come so far on the way from a start to a goal.

    threshold = start + share * (goal - start);  interpolated, infinity if never

    Start and goal must not depend on the runs, unlike a baseline's final score: then the steps of
    one comparison can be set beside another's. `censored_steps` summarises each row, and
    ``paired_difference`` of min(steps, budget) compares two rules.

    Args:
        steps: (time,), rising.
        curves: (runs, time).
        start: Level before training, in the unit of ``curves``.
        goal: Level at the end of the way, above ``start``.
        shares: Shares of the way, in (0, 1].

    Returns:
        (shares, runs).

    Raises:
        ValueError: if the goal is not above the start, or a share is out of range.

    Example:
        >>> steps_to_shares([0, 10], [[0.0, 2.0], [0.0, 1.0]], start=0.0, goal=2.0).tolist()
        [[5.0, 10.0], [7.5, inf], [9.0, inf]]
    """
    if not goal > start:
        raise ValueError(f"goal must be above start, got {goal} and {start}: there is no way to it")
    if bad := [share for share in shares if not 0.0 < share <= 1.0]:
        raise ValueError(f"shares must lie in (0, 1], got {bad[0]}; 0.5 is half of the way")
    levels = [start + share * (goal - start) for share in shares]
    rows = score_table("curves", curves)
    return np.array(
        [[steps_to_threshold(steps, row, at, interpolate=True) for row in rows] for at in levels]
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
    """Summarise the result of `steps_to_threshold` over runs.

    All runs share one budget, so the Kaplan-Meier mean restricted to it is the plain mean of
    min(steps, budget).

    Args:
        steps: (runs,), infinity for a run that never arrived.
        budget: The steps every run had.
        level: Confidence level of the interval, in (0, 1).
        rng: Generator, or a seed for one.
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
        # An interpolated median would lie between a number and infinity.
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
    end: ArrayLike | None = None,
    rng: Random = 0,
    resamples: int = DEFAULT_RESAMPLES,
) -> RelativeSteps | None:
    """Compare the steps two rewards need to y's final level, on curves paired by seed.

    threshold = mean of iqm_runs(y) at its end;  s(c) = first step with iqm_runs(c) >= threshold,
    interpolated;  ratio = s(x) / s(y)

    Seeds are resampled with replacement, each with both its curves. The threshold is computed for
    each resample, so the interval includes its uncertainty.

    Args:
        steps: (time,), rising.
        x: (pairs, time).
        y: (pairs, time) of the same seeds, in the same order.
        level: Confidence level of the interval, in (0, 1).
        window: The share of the curve that is its end.
        end: (time,) bool, True at y's end, in place of ``window``: where y was interpolated at the
            evaluations of other runs, the last points are not its last evaluations.
        rng: Generator, or a seed for one.
        resamples: Number of bootstrap draws.

    Returns:
        None if y ends no higher than it begins, so that there is no rise to compare.

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
    if end is None:
        ending = np.arange(len(at)) >= len(at) - final_points(len(at), window)
    else:
        ending = np.asarray(end, dtype=bool)
    if ending.shape != at.shape or not ending.any():
        raise ValueError(
            f"end must be True at one of {len(at)} steps or more, got shape {ending.shape} with "
            f"{ending.sum()}; give one value a step"
        )
    threshold, needed, baseline = _arrivals(at, iqm(curves_x, 0), iqm(curves_y, 0), ending)
    if baseline <= at[0]:
        return None
    pairs = len(curves_x)
    count = checked_draws(level, resamples)
    rows = np.random.default_rng(rng).integers(0, pairs, (count, pairs))
    ratios = []
    # One draw of seeds for both, (count, pairs, time) each: what a seed does to both cancels.
    for mean_x, mean_y in zip(iqm(curves_x[rows], 1), iqm(curves_y[rows], 1), strict=True):
        _, reached, other = _arrivals(at, mean_x, mean_y, ending)
        ratios.append(_ratio(reached, other))
    tail = (1.0 - level) / 2.0
    # Of ratios some are infinite: interpolated between two of those, an end would be NaN.
    low, high = np.quantile(ratios, [tail, 1.0 - tail], method="inverted_cdf")
    return RelativeSteps(
        threshold=threshold,
        steps=needed,
        baseline_steps=baseline,
        ratio=_ratio(needed, baseline),
        low=float(low),
        high=float(high),
    )


def _arrivals(
    steps: Array, x: Array, y: Array, end: NDArray[np.bool_]
) -> tuple[float, float, float]:
    """Return y's final level, and the steps at which the curves x and y reach it."""
    threshold = min(float(y[end].mean()), float(y.max()))  # by rounding, y might not reach it
    return (
        threshold,
        steps_to_threshold(steps, x, threshold, interpolate=True),
        steps_to_threshold(steps, y, threshold, interpolate=True),
    )


def _ratio(steps: float, baseline: float) -> float:
    if baseline > 0.0:
        return float(steps / baseline)
    return 1.0 if steps == 0.0 else math.inf


def _curve(steps: ArrayLike, values: ArrayLike) -> tuple[Array, Array]:
    at, height = finite("steps", steps), finite("values", values)
    if at.ndim != 1 or at.shape != height.shape:
        raise ValueError(
            f"steps and values must be (time,) alike, got {at.shape} and {height.shape}"
        )
    if (np.diff(at) <= 0).any():
        where = int(np.argmax(np.diff(at) <= 0))
        raise ValueError(
            f"steps must rise, got {at[where]:g} then {at[where + 1]:g}; sort the curve and keep "
            "one value per step"
        )
    return at, height


def final_points(count: int, fraction: float) -> int:
    """Return how many of a curve's points are its end: the share, rounded up."""
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}; 0.1 is the last tenth")
    return math.ceil(count * fraction - 1e-9)
