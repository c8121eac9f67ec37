"""The mathematics of signed credit: parts of a score that need not sum to it.

Pure functions, one response at a time; `redistribution` has credit by weights. Throughout,
``score`` is R and ``parts`` are a, (n,) signed, finite and n >= 1, both in reward units like the
(n,) float64 results; ``segments`` are consecutive spans that cover the n tokens. Anything else
is a ValueError.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.rewards.maths.redistribution import FloatArray


def add_rest_to_last(score: float, parts: ArrayLike) -> FloatArray:
    """Return signed parts of a score, with what belongs to no token on the last one.

    r_t = a_t + 1[t = n - 1] * (R - sum_s a_s)

    Args:
        score: R, reward units.
        parts: (n,) a, reward units.

    Returns:
        (n,) reward units, sums to the score.

    Raises:
        ValueError: if the parts are no vector of finite numbers.

    Example:
        >>> add_rest_to_last(1.0, [2.0, -0.5, 0.0])
        array([ 2. , -0.5, -0.5])
    """
    rewards = _finite_vector(parts).copy()
    rewards[-1] += score - rewards.sum()
    return rewards


def add_rest_evenly(score: float, parts: ArrayLike) -> FloatArray:
    """Return signed parts of a score with the same amount added to each.

    r_t = a_t + (R - sum_s a_s) / n

    Args:
        score: R, reward units.
        parts: (n,) a, reward units.

    Returns:
        (n,) reward units, sums to the score.

    Example:
        >>> add_rest_evenly(1.0, [2.0, -0.5, 1.0])
        array([ 1.5, -1. ,  0.5])
    """
    rewards = _finite_vector(parts)
    return rewards + (score - rewards.sum()) / len(rewards)


def split_evenly(length: int, parts: int) -> list[range]:
    """Return consecutive spans that cover ``length`` tokens, of sizes that differ by at most 1.

    Args:
        length: Tokens, at least 1.
        parts: Spans; fewer where there are fewer tokens.

    Example:
        >>> split_evenly(5, 2)
        [range(0, 3), range(3, 5)]
    """
    if length < 1 or parts < 1:
        raise ValueError(f"length and parts must be at least 1, got {length} and {parts}")
    bounds = [len(piece) for piece in np.array_split(np.arange(length), min(parts, length))]
    ends = np.cumsum(bounds).tolist()
    return [range(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def split_before_largest(values: ArrayLike, parts: int) -> list[range]:
    """Return consecutive spans that begin at the first token and at the tokens of largest value.

    Args:
        values: (n,) one per token, such as the entropy it was drawn with; the first token's is not
            read. Of equal ones the earlier counts as larger.
        parts: Spans; fewer where there are fewer tokens.

    Example:
        >>> split_before_largest([0.0, 0.1, 0.9, 0.2], 2)
        [range(0, 2), range(2, 4)]
    """
    values = _finite_vector(values)
    if parts < 1:
        raise ValueError(f"parts must be at least 1, got {parts}")
    # The first token begins a span in any case, so that it is not among those to choose from.
    largest = np.argsort(-values[1:], kind="stable")[: parts - 1] + 1
    starts = [0, *sorted(largest.tolist())]
    return [range(*span) for span in zip(starts, [*starts[1:], len(values)], strict=True)]


def shift_reply_credit(values: ArrayLike, written: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return values with those of unwritten tokens moved to the last written token before them.

    Args:
        values: (n,) whatever a token has to do with the score, additive.
        written: (n,) non-zero where the policy wrote the token; it wrote the first.

    Example:
        >>> shift_reply_credit([1.0, 2.0, 3.0, 4.0], np.array([1, 1, 0, 1])).tolist()
        [1.0, 5.0, 0.0, 4.0]
    """
    # (n,) the place of the last written token at or before each token; the first is written.
    owner = np.maximum.accumulate(np.where(written > 0, np.arange(len(written)), 0))
    sums = np.bincount(owner, weights=np.asarray(values, np.float64), minlength=len(written))
    return sums.astype(np.float32)


def _finite_vector(parts: ArrayLike) -> FloatArray:
    """Return parts as an array (n,), once they are finite."""
    array = np.asarray(parts, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all():
        raise ValueError(
            f"parts must be finite, of shape (n,) with n >= 1, got {array} of shape {array.shape}"
        )
    return array
