"""The most that a method gains for what it costs, by its runs' points; a bound for any method."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

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


def optimum_bound(scores: ArrayLike, price: float) -> float:
    """Return a lower bound on the most that any policy has of score - price * KL.

    mean over prompts of c log mean_i exp(R_i / c),  c the price

    The optimum itself is the mean of c log E[exp(R / c)]; by Jensen's inequality the estimate is
    below it on average, and rises with the number of responses: state that number.

    Args:
        scores: (prompts, N) of the reference policy's responses, score units.
        price: Price c of a nat of KL to the reference, score units.

    Raises:
        ValueError: if the price is not positive.

    Example:
        >>> round(optimum_bound([[0.0, 1.0]], price=0.01), 3)  # close to the greater one
        0.993
    """
    values = finite("scores", scores)
    if not price > 0.0:
        raise ValueError(
            f"price must be > 0, got {price:g}: without a price the optimum is the highest score "
            "there is, and all that is known of it is the highest among the responses"
        )
    exponents = logsumexp(values / price, axis=-1) - np.log(values.shape[-1])
    return float(price * np.mean(exponents))
