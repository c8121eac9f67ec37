"""Figures of one series of evaluations: area, end, collapse, over-optimisation, and KL crossed."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.evaluation.statistics.scores import Array, finite

FINAL = 0.1
"""The last tenth of a run's evaluations is its end."""
LEAP = 1.0
"""Nats between two measured policies beyond which nothing is known of the policies between."""
TINY_KL = 1e-3
"""Nats per response below which the error of a KL falls no further."""
LOST = 0.5
"""Share of a run's gain whose loss is a collapse."""
GOLD_LOSS = 0.25
"""Share of the gold score's best gain that is lost while the score still rises."""
NOISES = 3.5
"""Standard deviations of a curve's noise below which nothing is called a fall or a rise: the best
of a dozen flat noisy points lies that far above the last one in one curve of ten."""
SMALLER_HALF = 0.3777
"""Root mean square of those half of a standard normal's values that are nearest to 0."""
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
    at, height = rising(steps, values)
    if len(at) < 2:
        raise ValueError(f"an area needs at least two points, got {len(at)}; evaluate more often")
    area = float(np.trapezoid(height, at))
    return area / float(at[-1] - at[0]) if normalize else area


def final_mean(values: ArrayLike) -> float:
    """Return the mean of the last tenth of a curve's points, their number rounded up.

    Args:
        values: (time,).

    Example:
        >>> final_mean([0.0] * 9 + [1.0, 2.0])
        1.5
    """
    height = finite("values", values)
    return float(height[-final_points(len(height)) :].mean())


def final_points(count: int) -> int:
    """Return how many of a curve's points are its end: the last `FINAL`, rounded up."""
    return math.ceil(count * FINAL - 1e-9)


def figure_weights(steps: ArrayLike, kind: str) -> Array:
    """Return what a number of a run takes of each evaluation, (time,), which sums to 1.

    ``auc`` is the mean over the steps by trapezoids, ``final`` that of the last tenth.

    Example:
        >>> figure_weights([0, 10, 30], "auc").tolist(), figure_weights([0, 10], "final").tolist()
        ([0.16666666666666666, 0.5, 0.3333333333333333], [0.0, 1.0])
    """
    at = finite("steps", steps)
    weights = np.zeros(len(at))
    if kind == "final":
        weights[-final_points(len(at)) :] = 1.0
    else:
        halves = np.diff(at) / 2.0
        weights[:-1] += halves
        weights[1:] += halves
    return weights / weights.sum()


def error_of_mean(values: ArrayLike) -> float | None:
    """Return the standard error of the mean of what is known, None of fewer than two.

    Example:
        >>> error_of_mean([0.0, 2.0, float("nan")])
        1.0
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(known.std(ddof=1) / len(known) ** 0.5) if len(known) > 1 else None


def collapsed(values: ArrayLike, anchor: float, deviation: float | None = None) -> bool:
    """Return whether a run lost most of what it had gained.

    best = highest mean of a tenth of the points in a row;  final = the last such mean
    gain = best - anchor;  floor = NOISES * deviation / sqrt(points of a mean)
    collapsed = gain > floor  and  best - final > max(LOST * gain, floor)

    The floor keeps a run that never learnt from counting as one that lost everything: the best of
    its means is above the anchor by luck alone. On a flat curve (`is_flat`) `HELD` points or more
    make a mean. Fewer than `FEWEST` points show no collapse.

    Args:
        values: (time,) scores.
        anchor: Score before training, that of the reference policy.
        deviation: Standard deviation of the noise, the `jitter` of all runs of the arm, which is
            better known than that of one; None takes this run's.

    Example:
        >>> collapsed([0.0, 1.0, 2.0, 3.0, 3.0, 0.2], anchor=0.0)
        True
    """
    height = finite("values", values)
    if len(height) < FEWEST:
        return False
    width = max(final_points(len(height)), HELD if is_flat(height) else 1)
    # Running means: a single high point is luck, not a level that was lost.
    means = _running_means(height, width)
    gain, lost = float(means.max()) - anchor, float(means.max() - means[-1])
    floor = NOISES * (jitter([height]) if deviation is None else deviation) / math.sqrt(width)
    return gain > floor and lost > max(LOST * gain, floor)


def jitter(runs: Iterable[ArrayLike]) -> float:
    """Return the standard deviation of the noise of runs of one arm; 0 below three points.

    rms_n = root mean square of the smaller half of the n-th differences of all runs together
    jitter = min(rms_1 / sqrt(2), rms_2 / sqrt(6)) / SMALLER_HALF

    Where the smaller half is 0 throughout, rms_n is that of all differences, and not divided.

    Either is the deviation of noise alone. A slope adds to the first differences; a sudden drop is
    in one of them and in two of the second ones, and not among the smaller half. Of discrete scores
    the median, as `noise` has it, would be a multiple of their step.

    Args:
        runs: Each (time,).

    Example:
        >>> jitter([[0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]])
        0.0
    """
    curves = [np.asarray(run, dtype=np.float64) for run in runs]
    deviations = []
    for order, scale in ((1, 2.0), (2, 6.0)):
        squares = np.sort(np.concatenate([np.diff(run, n=order) for run in curves]) ** 2)
        if not len(squares):
            return 0.0
        half = squares[: -(-len(squares) // 2)]
        mean = half.mean() / SMALLER_HALF**2 if half.any() else squares.mean()
        deviations.append(float((mean / scale) ** 0.5))
    return min(deviations)


class Fall(NamedTuple):
    """A gold score that was best and then fell."""

    best_at: int
    """Index of the evaluation at which it was best; 0 if it fell from the start."""
    below_at: int
    """Index of the first evaluation after that at which as much was lost as counts."""


def fall(gold: ArrayLike) -> Fall | None:
    """Return where a gold score was best before it fell; None if it ended near its best.

    best = argmax(gold);  gain = gold_best - gold_0
    lost_t = gold_best - gold_t > max(GOLD_LOSS * gain, NOISES * noise(gold))
    fell = lost at the end;  below_at = the first t after best that is lost

    It is taken as `levels`. Fewer than `FEWEST` evaluations have not fallen.

    Args:
        gold: (time,) the score that the proxy stands for, the first that of the untrained policy.

    Example:
        >>> fall([0.0, 1.0, 2.0, 1.75, 1.0, 0.5])
        Fall(best_at=2, below_at=4)
    """
    truth = levels(gold)
    if len(truth) < FEWEST:
        return None
    best = int(np.argmax(truth))
    limit = max(GOLD_LOSS * (truth[best] - truth[0]), NOISES * noise(gold), 0.0)
    lost = truth[best] - truth[best:] > limit
    return Fall(best, best + int(np.argmax(lost))) if lost[-1] else None


def parting(score: ArrayLike, gold: ArrayLike) -> Fall | None:
    """Return where the gold score fell while the score still rose; None if it did not.

    parted = gold fell (`fall`)  and  score_last - score_best > NOISES * noise(score)

    The score is taken as `levels`. Proxy and gold rise together until the proxy is over-optimised,
    then gold falls (Gao et al. 2023, arXiv:2210.10760).

    Args:
        score: (time,) the proxy that training maximises, a mean over seeds.
        gold: (time,) the score it stands for, at the same evaluations.

    Example:
        >>> parting([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 1.0, 2.0, 1.5, 1.0, 0.5]).best_at
        2
    """
    proxy, fell = levels(score), fall(gold)
    if fell is None or not proxy[-1] - proxy[fell.best_at] > NOISES * noise(score):
        return None
    return fell


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


# --- KL -------------------------------------------------------------------------------------------


def pooled_kl(kl: ArrayLike, round_kl: ArrayLike | None = None) -> tuple[Array, Array]:
    """Return the KL of a run's policies from both of its measurements, and its standard errors.

    kl_i = k_i + a_i,  round_i = k_i + b_i;  var a and var b in proportion to k, a and b independent
    D the second differences in i, each divided by the root of the KL there
    var a = (mean Da^2 - mean Da Db) / 6,  var b = (mean Db^2 - mean Da Db) / 6
    pooled = (kl var b + round var a) / (var a + var b);  its variance var a var b / (var a + var b)

    What both have in common is the policy's own movement, and the rest is error. Of one measurement
    alone, or below `FEWEST` policies, the error is its `noise` about its own trend.

    Args:
        kl: (time,) nats per response, on held-out prompts.
        round_kl: (time,) nats, of the round that each policy sampled next; NaN where it sampled
            none. None where no round was measured.

    Returns:
        (time,) nats each.
    """
    held_out = finite("kl", kl)
    rounds = np.full_like(held_out, np.nan) if round_kl is None else np.asarray(round_kl, float)
    if held_out.ndim != 1 or rounds.shape != held_out.shape:
        raise ValueError(
            f"kl and round_kl must be (time,) alike, got {held_out.shape} and {rounds.shape}"
        )
    both = np.isfinite(rounds)
    middle = np.where(both, (held_out + np.where(both, rounds, 0.0)) / 2.0, held_out)
    scale = np.sqrt(np.maximum(middle, TINY_KL))  # errors grow as the root of the KL
    if both.sum() < FEWEST:
        return held_out, _deviation(np.diff(held_out, n=2) / scale[1:-1]) / 6.0**0.5 * scale
    of_both = scale[both][1:-1]
    a, b = (np.diff(one[both], n=2) / of_both for one in (held_out, rounds))
    shared, floor = float(np.mean(a * b)), 1e-3 * float(np.mean(a * a + b * b))
    var_a, var_b = (max(float(np.mean(one * one)) - shared, floor) / 6.0 for one in (a, b))
    weight = var_b / (var_a + var_b) if var_a + var_b > 0.0 else 0.5
    pooled = np.where(both, weight * held_out + (1.0 - weight) * rounds, held_out)
    return pooled, np.sqrt(np.where(both, weight * var_a, var_a)) * scale


def leaps(updates: ArrayLike, kl: ArrayLike) -> NDArray[np.bool_]:
    """Return which stretches between two evaluations hold an update that crosses over a nat.

    leap_i = |kl_{i+1} - kl_i| > LEAP * (updates_{i+1} - updates_i)

    Where several updates are made between two evaluations, some one of them must have crossed more
    than `LEAP`; a leap that slower updates hide is not found. Measure after every update.

    Args:
        updates: (time,), in order.
        kl: (time,), nats.

    Returns:
        (time - 1,).

    Example:
        >>> leaps([0, 1, 2, 5], [0.0, 0.5, 4.0, 6.0]).tolist()
        [False, True, False]
    """
    return np.abs(np.diff(finite("kl", kl))) > LEAP * np.diff(finite("updates", updates))


def nats_per_update(updates: ArrayLike, kl: ArrayLike) -> Array:
    """Return the KL that an update crossed, a mean over those between two evaluations.

    (kl_{i+1} - kl_i) / (updates_{i+1} - updates_i)

    Args:
        updates: (time,), strictly increasing.
        kl: (time,), nats.

    Returns:
        (time - 1,) nats.

    Example:
        >>> nats_per_update([0, 1, 5], [0.0, 0.5, 4.5]).tolist()
        [0.5, 1.0]
    """
    at, nats = rising(updates, kl)
    return np.diff(nats) / np.diff(at)


def rising(steps: ArrayLike, values: ArrayLike) -> tuple[Array, Array]:
    """Return steps, which must rise, and the values there as arrays, (time,) each."""
    at, height = finite("steps", steps), finite("values", values)
    if at.ndim != 1 or at.shape != height.shape:
        raise ValueError(
            f"steps and values must be (time,) alike, got {at.shape} and {height.shape}"
        )
    if (np.diff(at) <= 0).any():
        where = int(np.argmax(np.diff(at) <= 0))
        raise ValueError(
            f"steps must rise, got {at[where]:.10g} then {at[where + 1]:.10g}; sort the curve and "
            "keep one value per step"
        )
    return at, height
