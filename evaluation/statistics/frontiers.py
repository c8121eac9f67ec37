"""The most that a method gains for what it costs, as a frontier of its runs' points."""

import numpy as np
from numpy.typing import ArrayLike

from tokengym.evaluation.statistics.aggregates import Array, finite


def frontier(costs: ArrayLike, gains: ArrayLike) -> tuple[Array, Array]:
    """Return the points that gain more than every point that costs no more.

    Args:
        costs: (points,) such as KL, nats, or tokens.
        gains: (points,) such as gold scores.

    Returns:
        Their costs and gains, each (kept,), both strictly rising.

    Raises:
        ValueError: if the shapes differ, or a value is not finite.

    Example:
        >>> costs, gains = frontier([0.0, 8.0, 2.0, 4.0], [0.0, 0.4, 0.3, 0.2])
        >>> costs.tolist(), gains.tolist()
        ([0.0, 2.0, 8.0], [0.0, 0.3, 0.4])
    """
    cost, gain = finite("costs", costs), finite("gains", gains)
    if cost.ndim != 1 or cost.shape != gain.shape:
        raise ValueError(f"costs and gains must be (points,) alike, got {cost.shape}, {gain.shape}")
    order = np.lexsort((-gain, cost))  # of equal costs the highest gain first
    cost, gain = cost[order], gain[order]
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(gain)[:-1]])
    kept = gain > best_before
    return cost[kept], gain[kept]


def gain_at(
    costs: ArrayLike, gains: ArrayLike, budgets: ArrayLike, *, interpolate: bool = True
) -> Array:
    """Return what a method gains at each budget, by the frontier of its points.

    Args:
        costs: (points,) of everything that was measured, the untrained policy included.
        gains: (points,).
        budgets: (budgets,) costs at which methods are compared.
        interpolate: Follow straight lines between the frontier's points, for a cost that takes
            any value, such as KL. Otherwise the best point within the budget counts.

    Returns:
        (budgets,); NaN below the cheapest point and, with ``interpolate``, above the dearest.

    Raises:
        ValueError: as for `frontier`.

    Example:
        >>> gain_at([0.0, 4.0], [0.0, 1.0], [1.0, 4.0, 5.0]).tolist()
        [0.25, 1.0, nan]
        >>> gain_at([0.0, 4.0], [0.0, 1.0], [1.0, 4.0, 5.0], interpolate=False).tolist()
        [0.0, 1.0, 1.0]
    """
    cost, gain = frontier(costs, gains)
    at = finite("budgets", budgets)
    if interpolate:
        found = np.interp(at, cost, gain)
        return np.where((at < cost[0]) | (at > np.max(costs)), np.nan, found)
    place = np.searchsorted(cost, at, side="right") - 1
    return np.where(place < 0, np.nan, gain[place])
