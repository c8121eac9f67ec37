"""Exact values on the tree of all sequences, by backward induction: arrays in, arrays out.

Sequences over k tokens are numbered level by level: the empty one is row 0, and row i followed by
the c-th token is row k * i + c + 1. The states are the sequences shorter than the horizon. In a
state one appends a token or, from some length on, ends; a sequence earns its score once, when it
is ended or has reached the horizon.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, rel_entr

FloatArray = NDArray[np.float64]


def level_starts(branching: int, horizon: int) -> list[int]:
    """Return the row at which each length begins, lengths 0 to ``horizon`` + 1.

    The last entry is the number of all sequences, the one before it the number of states.
    """
    starts = [0]
    for length in range(horizon + 1):
        starts.append(starts[-1] + branching**length)
    return starts


def optimal_values(
    scores: FloatArray, *, branching: int, horizon: int, end_from: int
) -> tuple[FloatArray, FloatArray]:
    """Return the values of the optimal policy.

    Q(s, a) = V(s + a), Q(s, end) = score(s), V(s) = max_a Q(s, a), V = score at the horizon

    Args:
        scores: (sequences,) scores of all sequences up to the horizon, including the empty one.
        branching: Number of tokens.
        horizon: Longest sequence.
        end_from: Shortest sequence that may be ended; ``horizon`` or more if none may.

    Returns:
        V (states,) and Q (states, branching + 1): the tokens in order, then the end; NaN where
        ending is not allowed.
    """
    tree = {"branching": branching, "horizon": horizon, "end_from": end_from}
    return _backwards(scores, lambda rows, q: np.nanmax(q, axis=1), **tree)


def soft_optimal_values(
    scores: FloatArray,
    ref_probs: FloatArray,
    *,
    kl_coef: float,
    branching: int,
    horizon: int,
    end_from: int,
) -> tuple[FloatArray, FloatArray]:
    """Return the values of the policy that is best by score - kl_coef * KL(policy || reference).

    Q(s, a) = V(s + a), Q(s, end) = score(s), V(s) = c log sum_a ref(s, a) exp(Q(s, a) / c)

    That policy is ref(s, a) exp((Q(s, a) - V(s)) / c); of whole responses,
    ref(y) exp(score(y) / c) / Z with V(empty) = c log Z.

    Args:
        scores: (sequences,) as in `optimal_values`.
        ref_probs: (states, branching + 1) of the reference, as ``probs`` in `policy_values`.
        kl_coef: Price of a nat of KL, score units, above 0.
        branching: As in `optimal_values`.
        horizon: As in `optimal_values`.
        end_from: As in `optimal_values`.

    Returns:
        V and Q as `optimal_values` returns them.

    Source: Ziebart 2010; for language models Rafailov et al. 2023, arXiv:2305.18290, eq. 4.
    """

    def value(rows: slice, q: FloatArray) -> FloatArray:
        return kl_coef * logsumexp(np.nan_to_num(q) / kl_coef, axis=1, b=ref_probs[rows])

    return _backwards(scores, value, branching=branching, horizon=horizon, end_from=end_from)


def policy_values(
    scores: FloatArray,
    probs: FloatArray,
    *,
    branching: int,
    horizon: int,
    end_from: int,
    ref_probs: FloatArray | None = None,
    kl_coef: float = 0.0,
) -> tuple[FloatArray, FloatArray]:
    """Return the values of a policy, of score - kl_coef * KL(policy || reference).

    Q(s, a) = V(s + a), Q(s, end) = score(s),
    V(s) = sum_a probs(s, a) (Q(s, a) - c log(probs(s, a) / ref(s, a)))

    Args:
        scores: (sequences,) as in `optimal_values`.
        probs: (states, branching + 1), each row summing to 1, 0 where ending is not allowed.
        ref_probs: (states, branching + 1) of the reference; None has no KL.
        kl_coef: Price of a nat of KL to the reference, score units.
        branching: As in `optimal_values`.
        horizon: As in `optimal_values`.
        end_from: As in `optimal_values`.

    Returns:
        V and Q as `optimal_values` returns them.
    """
    price = np.zeros(len(probs))
    if ref_probs is not None:
        price = kl_coef * rel_entr(probs, ref_probs).sum(axis=1)

    def value(rows: slice, q: FloatArray) -> FloatArray:
        return np.nansum(probs[rows] * q, axis=1) - price[rows]

    return _backwards(scores, value, branching=branching, horizon=horizon, end_from=end_from)


def response_probs(probs: FloatArray, *, branching: int, horizon: int) -> FloatArray:
    """Return the probability that each sequence is the whole response.

    reach(empty) = 1, reach(s + a) = reach(s) probs(s, a)
    P(s) = reach(s) probs(s, end), at the horizon reach(s)

    Args:
        probs: (states, branching + 1) as in `policy_values`.
        branching: As in `optimal_values`.
        horizon: As in `optimal_values`.

    Returns:
        (sequences,), with sum 1.
    """
    starts = level_starts(branching, horizon)
    reach = np.ones(starts[-1])
    for length in range(horizon):
        rows = slice(starts[length], starts[length + 1])
        children = slice(starts[length + 1], starts[length + 2])
        reach[children] = (reach[rows, np.newaxis] * probs[rows, :branching]).ravel()
    reach[: starts[-2]] *= probs[:, branching]
    return reach


def _backwards(
    scores: FloatArray,
    value: Callable[[slice, FloatArray], FloatArray],
    *,
    branching: int,
    horizon: int,
    end_from: int,
) -> tuple[FloatArray, FloatArray]:
    """Return V and Q, with V computed from Q by ``value``."""
    starts = level_starts(branching, horizon)
    if scores.shape != (starts[-1],):
        raise ValueError(
            f"scores must have shape ({starts[-1]},), one per sequence of at most {horizon} of "
            f"{branching} tokens, got {scores.shape}"
        )
    values = scores.astype(np.float64)
    q_values = np.full((starts[-2], branching + 1), np.nan)
    for length in reversed(range(horizon)):
        rows = slice(starts[length], starts[length + 1])
        children = slice(starts[length + 1], starts[length + 2])
        q_values[rows, :branching] = values[children].reshape(branching**length, branching)
        if length >= end_from:
            q_values[rows, branching] = scores[rows]
        values[rows] = value(rows, q_values[rows])
    return values[: starts[-2]], q_values
