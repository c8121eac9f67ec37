"""Steps that runs need to a level, in which those that stay below it are kept."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tokengym.evaluation.statistics.scores import (
    DEFAULT_LEVEL,
    TIE,
    paired_difference,
    score_table,
    student_interval,
)
from tokengym.evaluation.statistics.series import final_points, rising

FASTER_AT = 0.75
"""Share of the way to a goal up to which speeds are compared."""


def steps_to_threshold(
    steps: ArrayLike, values: ArrayLike, threshold: float, *, interpolate: bool = False
) -> float:
    """Return the first step at which a curve is at or above a threshold; infinity if never.

    A score that is below it by rounding alone, at most the share `TIE`, is at it.

    Infinity keeps runs that never get there in order statistics: a median of steps is right as long
    as more than half the runs arrive.

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
    at, height = rising(steps, values)
    if not math.isfinite(threshold):
        raise ValueError(f"threshold must be finite, got {threshold}; pass a score to reach")
    # A run on a plateau may be below its own mean, by rounding.
    reached = height >= threshold - TIE * abs(threshold)
    if not reached.any():
        return math.inf
    first = int(reached.argmax())
    if first == 0 or not interpolate:
        return float(at[first])
    below, above = height[first - 1 : first + 1]  # below < threshold <= above
    share = min((threshold - below) / (above - below), 1.0)
    return float(at[first - 1] + share * (at[first] - at[first - 1]))


@dataclass(frozen=True, kw_only=True)
class RelativeSteps:
    """The steps x takes to y's way, as a share of those of y itself, by the areas over curves."""

    threshold: float
    """Level to which both are read: `FASTER_AT` of y's way, from the mean start to its end."""
    steps: float
    """Mean step at which runs of x are at the shares of that way, a geometric mean over pairs."""
    baseline_steps: float
    """That of y."""
    ratio: float
    """steps / baseline_steps; under 1 x is faster. It is never infinite."""
    low: float
    """Lower end of the ratio's interval."""
    high: float
    """Upper end of the ratio's interval."""


def relative_steps(
    steps: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    level: float = DEFAULT_LEVEL,
    *,
    end: ArrayLike | None = None,
) -> RelativeSteps | None:
    """Compare the speeds of two rewards on curves paired by seed, by the areas over their curves.

    start = mean of all first values;  threshold = start + FASTER_AT * (mean end of y - start)
    lag(c) = integral of max(threshold - c, 0) over steps / (threshold - start)
    ratio = exp(mean over pairs of log(lag(x) / lag(y))), with Student's interval of the logarithms

    A lag is the mean step at which a run is at the shares of the way. A run that does not arrive
    has the area over all of its steps, so that no ratio is infinite. On saturating curves the 95 %
    interval covers the ratio in 92 to 97 of 100 comparisons of five pairs.

    Args:
        steps: (time,), rising.
        x: (pairs, time).
        y: (pairs, time) of the same seeds, in the same order.
        level: Confidence level of the interval, in (0, 1).
        end: (time,) bool, True at y's end; None takes the last tenth. Where y was interpolated at
            the evaluations of other runs, the last points are not its last evaluations.

    Returns:
        None if y does not end clearly above its own starts, so that there is no way, or a run is at
        its end from the first.

    Raises:
        ValueError: if the shapes differ.
    """
    curves_x, curves_y = score_table("x", x), score_table("y", y)
    if curves_x.shape != curves_y.shape or np.ndim(x) != 2:
        raise ValueError(
            f"x and y must be (pairs, time) alike, got {np.shape(x)} and {np.shape(y)}; "
            "keep only the seeds that both have"
        )
    at, _ = rising(steps, curves_x[0])
    last = np.arange(len(at)) >= len(at) - final_points(len(at))
    ends = curves_y[:, last if end is None else np.asarray(end, dtype=bool)].mean(axis=1)
    gain = paired_difference(ends, curves_y[:, 0], level)
    start = float(curves_x[:, 0].mean() + curves_y[:, 0].mean()) / 2.0
    way = FASTER_AT * (float(ends.mean()) - start)
    is_clear = gain.pairs == 1 or gain.p_value < 1.0 - level
    if not (is_clear and gain.difference > 0.0 and way > TIE * abs(start)):
        return None
    lags = [
        np.trapezoid(np.maximum(start + way - curves, 0.0), at, axis=1) / way
        for curves in (curves_x, curves_y)
    ]
    if min(float(each.min()) for each in lags) <= 0.0:
        return None
    own, base = (float(np.exp(np.log(each).mean())) for each in lags)
    _, low, high, _ = student_interval(np.log(lags[0] / lags[1]), level)
    return RelativeSteps(
        threshold=start + way,
        steps=own,
        baseline_steps=base,
        ratio=own / base,
        low=float(np.exp(low)),
        high=float(np.exp(high)),
    )
