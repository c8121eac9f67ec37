"""SCAR: each piece of the response earns its Shapley value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.base import check_count, check_memory
from tokengym.rewards import CreditError, token_credit

if TYPE_CHECKING:
    from torch import Tensor

MAX_PERMUTATIONS = 4_096


def _check(options: SimpleNamespace) -> None:
    hint = "an even number"
    check_count(
        options, "permutations", least=4, most=MAX_PERMUTATIONS, hint=hint, error=CreditError
    )
    if options.permutations % 2:
        raise CreditError(
            f"permutations must be an even number from 4 to {MAX_PERMUTATIONS}, got "
            f"{options.permutations}"
        )
    check_count(options, "seed", least=0, error=CreditError)


@token_credit(segments=6, parts=True, check=_check)
def scar(
    paid: Tensor,
    score_without: Callable[[Tensor], Tensor],
    positions: Tensor,
    segment_ends: Tensor,
    row_seeds: Sequence[Sequence[int]],
    permutations: int = 16,
    seed: int = 0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Each piece earns what it adds to the score, on average over all orders of adding pieces.

    This is its Shapley value, spread evenly over its tokens.

    v(S) = R(x, y restricted to the pieces S): the other tokens are left out, and what remains is
    scored as a text. The values sum to R(x, y) - R(x, empty); the last token gets R(x, empty).

    Where all 2^m coalitions of m pieces cost no more than sampling would, the values are exact.
    Otherwise they are the mean gains over random orders, each with its reverse, and the figure
    ``shapley_error`` states the root mean square of the values' standard errors (0 where exact), in
    reward units.

    Args:
        paid: R.
        score_without: R of the response without some pieces.
        positions: t.
        segment_ends: The ends of the pieces.
        row_seeds: What the orders depend on, with ``seed``.
        permutations: Orders sampled where exact values would cost more; an even number >= 4.
        seed: Seed of the orders.

    Source: Cao et al. 2025, "SCAR: Shapley Credit Assignment for More Efficient RLHF",
    arXiv:2505.20417.
    """
    lengths, ends = (positions >= 0).sum(1).tolist(), (segment_ends == positions).cpu().numpy()
    owners = [np.cumsum(row) - row for row in ends]  # (time,) number of each token's piece
    counts = ends.sum(1).tolist()
    orders: list[NDArray[np.int64] | None] = []  # None where exact
    joined = []  # (coalitions, pieces) of each row
    for pieces, ids in zip(counts, row_seeds, strict=True):
        is_exact = 2**pieces - 1 <= permutations * (pieces - 1) + 1
        drawn = None if is_exact else sample_permutations(pieces, permutations // 2, [seed, *ids])
        orders.append(drawn)
        joined.append(coalitions(pieces) if drawn is None else arrivals(drawn).reshape(-1, pieces))
    most = max(map(len, joined))
    check_memory("scar's coalitions of pieces", len(counts) * most * max(lengths), bytes_each=1)
    left_out = (positions < -1)[:, None].repeat(1, most, 1)  # nothing is, so far
    for row, (members, size) in enumerate(zip(joined, lengths, strict=True)):
        gone = ~members[:, owners[row][:size]]  # (coalitions, tokens)
        left_out[row, : len(members), :size] = left_out.new_tensor(gone)
    values = score_without(left_out).double().numpy()
    parts, errors = np.zeros(ends.shape), np.zeros(len(counts))
    for row, (size, drawn) in enumerate(zip(lengths, orders, strict=True)):
        known, owner = values[row, : len(joined[row])], owners[row][:size]
        if drawn is None:
            worth = shapley_exact(known)
        else:
            estimate = shapley_sampled(known.reshape(len(drawn), -1), drawn)
            worth = estimate.values
            errors[row] = np.sqrt(np.mean(estimate.standard_errors**2))
        parts[row, :size] = (worth / np.bincount(owner))[owner]
    return paid.new_tensor(parts), {"shapley_error": paid.new_tensor(errors)}


def coalitions(players: int) -> NDArray[np.bool_]:
    """Return all coalitions, (2^m, m): number S has player i where bit i of S is set."""
    return (np.arange(2**players)[:, None] >> np.arange(players)) % 2 == 1


def shapley_exact(values: ArrayLike) -> NDArray[np.float64]:
    """Return the Shapley value of each of m players from the value of all 2^m coalitions.

    phi_i = sum_{S without i} |S|! (m - |S| - 1)! / m! * (v(S + i) - v(S))

    Args:
        values: (2^m,) v, in the order of `coalitions`.

    Returns:
        (m,), sums to v(all) - v(none).

    Source: Shapley 1953.

    Example:
        >>> shapley_exact([0.0, 1.0, 2.0, 5.0])
        array([2., 3.])
    """
    values = np.asarray(values, dtype=np.float64)
    players = int(values.size).bit_length() - 1
    if values.ndim != 1 or players < 1 or values.size != 2**players:
        raise ValueError(f"values must have shape (2^m,) with m >= 1, got {values.shape}")
    members = coalitions(players)
    others = members.sum(1, keepdims=True) - members  # (2^m, m) |S| without the player itself
    orders = [math.factorial(k) * math.factorial(players - k - 1) for k in range(players)]
    weights = np.array([*orders, 0]) / math.factorial(players)
    # v of a coalition counts for those who are in it, and against those who are not.
    gains: NDArray[np.float64] = values @ (np.where(members, 1, -1) * weights[others])
    return gains


class ShapleyEstimate(NamedTuple):
    """Shapley values from sampled permutations."""

    values: NDArray[np.float64]
    """(m,), sums to v(all) - v(none) exactly."""
    standard_errors: NDArray[np.float64]
    """(m,) of each value, same units."""


def sample_permutations(players: int, pairs: int, entropy: Sequence[int]) -> NDArray[np.int64]:
    """Return random orders of the players, each followed by its reverse.

    Going through an order backwards as well cancels much of the variance (antithetic sampling).

    Args:
        players: m.
        pairs: Independent orders.
        entropy: Non-negative integers that seed the draw; the same give the same orders.

    Returns:
        (2 * pairs, m): the players as they arrive.
    """
    generator = np.random.default_rng(list(entropy))
    orders = [generator.permutation(players) for _ in range(pairs)]
    return np.array([order for one in orders for order in (one, one[::-1])], dtype=np.int64)


def arrivals(permutations: ArrayLike) -> NDArray[np.bool_]:
    """Return the coalition before each arrival, and the full one.

    Args:
        permutations: (orders, m).

    Returns:
        (orders, m + 1, m): nobody, then one more player per arrival.
    """
    places = np.argsort(permutations, axis=1)  # (orders, m) when each player arrives
    return places[:, None, :] < np.arange(places.shape[1] + 1)[:, None]


def shapley_sampled(values: ArrayLike, permutations: ArrayLike) -> ShapleyEstimate:
    """Return Shapley values as the mean gain of each player's arrival, with standard errors.

    phi_i = mean over orders of v(before i + i) - v(before i)

    Each order and its reverse make one independent draw, so the standard error is the deviation of
    the pairs' means over the root of their number.

    Args:
        values: (2 * pairs, m + 1) v of the `arrivals` of these permutations.
        permutations: (2 * pairs, m) as `sample_permutations` gives them, at least two pairs.

    Source: Castro, Gomez & Tejada 2009; pairs: Mitchell et al. 2022, arXiv:2104.12199.
    """
    orders = np.asarray(permutations, dtype=np.int64)
    if orders.ndim != 2 or len(orders) < 4 or len(orders) % 2:
        raise ValueError(
            f"permutations must have shape (2 * pairs, m) with two pairs or more, got "
            f"{orders.shape}; one pair says nothing about its error"
        )
    gains = np.empty(orders.shape)
    np.put_along_axis(gains, orders, np.diff(np.asarray(values, np.float64), axis=1), axis=1)
    pairs = gains.reshape(len(orders) // 2, 2, -1).mean(axis=1)  # (pairs, m)
    return ShapleyEstimate(
        values=pairs.mean(axis=0),
        standard_errors=pairs.std(axis=0, ddof=1) / math.sqrt(len(pairs)),
    )
