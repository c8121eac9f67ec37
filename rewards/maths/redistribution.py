"""The mathematics of rewards: credit by weights, and running moments. Pure functions.

Credit functions turn the score of one response into its token rewards. Throughout, ``score`` is R
in reward units; ``length`` is n >= 1, the response's tokens with the EOS; weights are (n,), >= 0
and of any scale; token rewards are (n,) float64 in reward units. Anything else is a ValueError.
Lengths differ between responses, so they take one at a time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def normalize_weights(weights: ArrayLike) -> FloatArray:
    """Return non-negative weights scaled to sum to 1; uniform if all are 0.

    alpha_t = w_t / sum_s w_s

    Args:
        weights: (n,) >= 0, any scale.

    Returns:
        (n,), sums to 1.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 1 or not len(weights):
        raise ValueError(f"weights must have shape (n,) with n >= 1, got {weights.shape}")
    if not np.isfinite(weights).all() or weights.min() < 0:
        raise ValueError(
            f"weights must be finite and >= 0, got {weights.min()} to {weights.max()}; "
            "signed attributions need a credit that takes signed parts, such as r3-dense"
        )
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(weights), 1.0 / len(weights))


def dirichlet_weights(length: int, entropy: Sequence[int]) -> FloatArray:
    """Return Dirichlet(1) weights that depend on ``entropy`` alone.

    alpha ~ Dirichlet(1, ..., 1): uniform over all ways to split the score

    Args:
        length: n, number of response tokens.
        entropy: Non-negative integers that seed the draw; the same give the same weights.

    Returns:
        (n,), sums to 1.
    """
    seeds: Sequence[int] | NDArray[np.uint32] = list(entropy)
    if max(seeds, default=0) < 2**32:  # the same draw, without taking each number apart
        seeds = np.array(seeds, dtype=np.uint32)
    return np.random.default_rng(seeds).dirichlet(np.ones(_check_length(length)))


def close_sum(score: float, rewards: ArrayLike) -> bool:
    """Return whether token rewards sum to the score, up to float32 rounding.

    |sum_t r_t - R| <= 1e-5 * |R| + 1e-6 * sum_t |r_t| + n * (smallest normal float32)

    The second term covers signed rewards that cancel: each is rounded on its own. The third
    covers those that float32 cannot tell from 0.

    Args:
        score: R, reward units.
        rewards: (n,) reward units.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    bound = 1e-5 * abs(score) + 1e-6 * float(np.abs(rewards).sum())
    bound += rewards.size * float(np.finfo(np.float32).tiny)
    return bool(abs(float(rewards.sum()) - score) <= bound)


SLOPE_GUARD = 4.0
"""Largest ratio of one episode, in those of all episodes together."""
ROUNDING = 1e-5
"""Share of the largest amount that rounding to float32 on the way may change."""


def through_layers(
    token_rewards: Sequence[ArrayLike],
    layer_rewards: Sequence[ArrayLike],
    paid: Sequence[ArrayLike],
    *,
    only_scaled: bool = False,
) -> list[FloatArray]:
    """Return token rewards that add up to what layers around a reward layer paid.

    r'_t = p_t + k (r_t - q_t)

    r - q is what the credit moves between the steps, and k brings it into the units of p. What a
    layer adds to a step stays at that step, also what it adds to the last one. k is
    `terminal_slopes` of the scores q_T and of what was paid for them: p_T minus the median of the
    steps before, over the episodes in which q is 0 before its last step. Where q = r, k has no
    effect.

    Args:
        token_rewards: (steps,) of each episode of a round: r, what the credit gives.
        layer_rewards: (steps,): q, what the reward layer paid at each step.
        paid: (steps,): p, what the outermost layer paid.
        only_scaled: Whether the layers are known to scale or bound rewards and to add nothing.

    Returns:
        (steps,) of each episode, reward units; sums to sum(p) where r and q have the same sum.

    Example:
        >>> halved_minus_one = through_layers([[1.0, 2.0]], [[0.0, 3.0]], [[-1.0, 0.5]])
        >>> halved_minus_one[0].tolist()
        [-0.5, 0.0]
    """
    rows = [
        [np.asarray(one, dtype=np.float64) for one in row]
        for row in zip(token_rewards, layer_rewards, paid, strict=True)
    ]
    slopes = np.ones(len(rows))
    at_the_end = [
        number
        for number, (_, before, _) in enumerate(rows)
        if len(before) > 1 and not before[:-1].any()
    ]
    if at_the_end:
        slopes[at_the_end] = terminal_slopes(
            [rows[number][1][-1] for number in at_the_end],
            [rows[number][2][-1] for number in at_the_end],
            [float(np.median(rows[number][2][:-1])) for number in at_the_end],
            only_scaled=only_scaled,
        )
    return [
        after + slope * (earned - before)
        for slope, (earned, before, after) in zip(slopes, rows, strict=True)
    ]


def terminal_slopes(
    scores: ArrayLike, paid: ArrayLike, prices: ArrayLike, *, only_scaled: bool = False
) -> FloatArray:
    """Return by how much layers scaled each score of a round: k in `through_layers`.

    With t = paid - prices: of layers that only scale, k = t / q of each episode, and where q = 0
    that of all together. Of others, the first that holds of all episodes, up to `ROUNDING`:

    1. t = a q, for two different scores or more, or a = -1: a factor, k = a.
    2. t = q + c, for two or more: a bonus, k = 1.
    3. t = a q + c with a != 0, for three or more: a factor and a bonus, k = a.
    4. t / q has one sign, and varies less than t - q: a clip, a running scale, or one score
       alone. k = t / q of each episode, at most `SLOPE_GUARD` times rms(t) / rms(q) (and may
       always be 1).
    5. Bonuses that differ. k is the least-squares slope of t = a q + c if its residuals are less
       than half as large as those of t = q + c, and t / q has both signs or t is not 0 where q is;
       otherwise 1.

    In 4, sd(t / q) times the geometric mean of abs(q), which is in units of t, is at most
    2 sd(t - q) where t / q >= 0, and below sd(t - q) / 2 where it is negative: that credit changes
    its sign needs clear evidence.

    Args:
        scores: (episodes,) q, reward units.
        paid: (episodes,) what was paid at the step of the score.
        prices: (episodes,) what was paid at a step without one.
        only_scaled: See `through_layers`.

    Returns:
        (episodes,).

    Example:
        >>> terminal_slopes([-3.0, -1.0, 2.0], [2.0, 4.0, 7.0], [0.0, 0.0, 0.0]).tolist()
        [1.0, 1.0, 1.0]
        >>> terminal_slopes([-3.0, -1.0, 2.0], [-1.0, -1.0, 1.0], [0.0, 0.0, 0.0]).tolist()
        [0.3333333333333333, 1.0, 0.5]
    """
    q, whole, price = (np.asarray(one, dtype=np.float64) for one in (scores, paid, prices))
    t = whole - price
    largest = np.abs(q).max()
    if largest == 0.0:
        return np.ones(len(q))
    noise = ROUNDING * np.abs([whole, price]).max()
    distinct = len(np.unique(np.round(q / (ROUNDING * largest))))
    factor = float(q @ t / (q @ q))
    is_scored, is_paid = np.abs(q) > ROUNDING * largest, np.abs(t) > noise
    ratios = np.full(len(q), factor)
    ratios[is_scored] = t[is_scored] / q[is_scored]
    if only_scaled:
        return ratios
    is_factor = np.abs(t - factor * q).max() <= noise
    if is_factor and (distinct > 1 or abs(factor + 1.0) <= ROUNDING):
        return np.full(len(q), factor)
    if distinct > 1 and np.ptp(t - q) <= max(noise, ROUNDING * largest):
        return np.ones(len(q))
    line, residuals = 1.0, t - q
    if distinct > 2:
        centred = q - q.mean()
        line = float(centred @ t / (centred @ centred))
        residuals = t - t.mean() - line * centred
        if np.abs(residuals).max() <= noise and abs(line) * np.ptp(q) > noise:
            return np.full(len(q), line)
    shift = float((t - q).std())
    signs = set(np.sign(t * q)[is_scored & is_paid].tolist())
    if len(signs) > 1 or (is_paid & ~is_scored).any():
        return np.full(len(q), line if 2.0 * float(residuals.std()) < shift else 1.0)
    varies = float(ratios[is_scored].std() * np.exp(np.log(np.abs(q[is_scored])).mean()))
    if varies > 2.0 * shift + noise or (-1.0 in signs and 2.0 * varies >= shift - noise):
        return np.ones(len(q))
    bound = max(1.0, SLOPE_GUARD * float(np.linalg.norm(t) / np.linalg.norm(q)))
    return np.clip(ratios, -bound, bound)


class Moments(NamedTuple):
    """Running mean and variance of a stream of batches."""

    seen: int = 0
    """Number of values."""
    mean: float = 0.0
    """Weighted mean, units of the values."""
    variance: float = 0.0
    """Weighted population variance, squared units."""


def update_moments(moments: Moments, batch: ArrayLike, *, window: int | None) -> Moments:
    """Return the moments after one more batch.

    a = b / min(seen + b, max(window, b)),  b = batch size;  a = b / (seen + b) without window
    mean' = mean + a * (batch_mean - mean)
    variance' = (1 - a) * variance + a * batch_variance + a * (1 - a) * (batch_mean - mean)^2

    Without a window these are exactly the moments of everything seen. With one, the weight of
    the past decays exponentially once it is full; a batch of ``window`` values or more replaces it.

    Args:
        moments: Moments of the scores seen before.
        batch: (b,) new values, at least one.
        window: Number of values remembered, or None for all.

    Source: the parallel update of Chan, Golub & LeVeque 1979.
    """
    values = np.asarray(batch, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"batch must have shape (n,) with n >= 1, got {values.shape}")
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, got {window}; pass None to remember all")
    size = len(values)
    seen = moments.seen + size
    weight = size / (seen if window is None else min(seen, max(window, size)))
    difference = float(values.mean()) - moments.mean
    # Within the two parts, and between their means: what a plain average of variances forgets.
    return Moments(
        seen=seen,
        mean=moments.mean + weight * difference,
        variance=(1 - weight) * moments.variance
        + weight * float(values.var())
        + weight * (1 - weight) * difference**2,
    )


def _check_length(length: int) -> int:
    if length < 1:
        raise ValueError(f"length must be at least 1 token, got {length}")
    return length
