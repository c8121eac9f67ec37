"""SCAR: each span of the response earns its Shapley value."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.base import check_count, check_number
from tokengym.envs import Episode
from tokengym.rewards import (
    CreditError,
    Cut,
    Probe,
    Scores,
    SegmentedCredit,
)

MAX_SPANS = 62
MAX_PERMUTATIONS = 4_096
"""A coalition is the bits of one integer."""


class SCAR(SegmentedCredit):
    """Each span earns what it adds to the score, on average over all orders of adding spans.

    This is its Shapley value, spread evenly over its tokens.

    v(S) = R(x, y restricted to the spans S): the other tokens are left out, and what remains is
    scored as a text. The values sum to R(x, y) - R(x, empty); the last token gets R(x, empty).
    In a conversation it is the written tokens that are cut and paid, and a reply belongs to the
    span of the token that it answers.

    Where all 2^spans coalitions cost no more than sampling would, the values are exact. Otherwise
    they are the mean gains over random orders, each with its reverse, and
    ``score_parts["shapley_error"]`` states the root mean square of the spans' standard errors
    (0 where exact), in reward units.

    Args:
        spans: Most spans that a response is cut into, of equal size up to one token.
        permutations: Orders sampled where exact values would cost more; an even number >= 4.
        seed: Seed of the orders; they depend on it and on the episode's ids alone.
        beta: Share of the score that is spread; the rest stays on the last token.
        segments: As ``spans``, in its place, but each is paid in one sum on its last token.
        cut: Where segments begin, see `SegmentedCredit`.

    Source: Cao et al. 2025, "SCAR: Shapley Credit Assignment for More Efficient RLHF",
    arXiv:2505.20417.
    """

    name = "scar"

    def __init__(
        self,
        spans: int = 6,
        permutations: int = 16,
        seed: int = 0,
        beta: float = 1.0,
        segments: int | None = None,
        cut: Cut = "even",
    ) -> None:
        super().__init__(segments, cut, beta)
        spans = segments or spans
        if not 4 <= permutations <= MAX_PERMUTATIONS or permutations % 2:
            raise CreditError(
                f"permutations must be an even number from 4 to {MAX_PERMUTATIONS}, got "
                f"{permutations}"
            )
        self.spans = spans
        self.permutations = permutations
        self.seed = seed
        check_number(self, "spans", least=1, most=MAX_SPANS, error=CreditError)
        check_count(self, "spans", "permutations", error=CreditError)
        check_count(self, "seed", least=0, error=CreditError)

    def attribute(self, probe: Probe, episodes: Sequence[Episode], scores: Scores) -> Scores:
        """Return the scores with each token's part of its span's Shapley value."""
        cuts = self.pieces(episodes)
        games = [self._game(*game) for game in zip(episodes, cuts, strict=True)]
        texts: list[Episode] = []
        for episode, (spans, _, masks) in zip(episodes, games, strict=True):
            for mask in masks:
                kept = [t for i, span in enumerate(spans) if mask >> i & 1 for t in span]
                texts.append(probe.restrict(episode, kept))
        values, start = probe.values(texts), 0
        rows, errors = [], np.zeros(len(episodes))
        for row, (spans, orders, masks) in enumerate(games):
            table = dict(zip(masks, values[start : start + len(masks)].tolist(), strict=True))
            start += len(masks)
            table[2 ** len(spans) - 1] = float(scores.values[row])
            if orders is None:
                shapley = shapley_exact([table[mask] for mask in range(2 ** len(spans))])
            else:
                shapley, deviation = shapley_sampled(table, orders)
                errors[row] = np.sqrt(np.mean(deviation**2))
            written = np.ones(len(episodes[row].response_ids))
            if episodes[row].written is not None:
                written = np.asarray(episodes[row].written, dtype=np.float64)
            # A reply's tokens take no part of their span's value: the policy did not write them.
            sizes = [len(span) for span in spans]
            counts = np.add.reduceat(written, [span.start for span in spans])
            rows.append(np.repeat(shapley / counts, sizes) * written)
        return scores.with_attributions(
            rows, signed=True, parts={"shapley_error": errors * self.beta}
        )

    def pieces(self, episodes: Sequence[Episode]) -> list[list[range]]:
        """Return the segments of each response, or its spans, both cut as segments are."""
        if self.segments is not None:
            return super().pieces(episodes)
        return SegmentedCredit(self.spans, "even").pieces(episodes)

    def _game(
        self, episode: Episode, spans: list[range]
    ) -> tuple[list[range], NDArray[np.int64] | None, list[int]]:
        """Return the spans, the orders (None if exact) and the coalitions to score.

        The full coalition is not among them: it is the episode, and has its score.
        """
        count = len(spans)
        if 2**count - 1 <= self.permutations * (count - 1) + 1:
            return spans, None, list(range(2**count - 1))
        entropy = [self.seed, len(episode.prompt_ids), *episode.prompt_ids, *episode.response_ids]
        orders = sample_permutations(count, self.permutations // 2, entropy)
        masks = set(coalitions_of(orders).reshape(-1).tolist())
        return spans, orders, sorted(masks - {2**count - 1})


def shapley_exact(values: ArrayLike) -> NDArray[np.float64]:
    """Return the Shapley value of each of m players from the value of all 2^m coalitions.

    phi_i = sum_{S without i} |S|! (m - |S| - 1)! / m! * (v(S + i) - v(S))

    Args:
        values: (2^m,) v, coalition S at index sum_{i in S} 2^i.

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
    masks = np.arange(values.size)
    sizes = np.array([int(mask).bit_count() for mask in masks])
    weights = np.array(
        [
            math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)
            for size in range(players)
        ]
    )
    result = np.zeros(players)
    for player in range(players):
        without = masks[(masks >> player) & 1 == 0]
        gains = values[without | (1 << player)] - values[without]
        result[player] = (weights[sizes[without]] * gains).sum()
    return result


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
        (2 * pairs, players).
    """
    generator = np.random.default_rng(list(entropy))
    orders = [generator.permutation(players) for _ in range(pairs)]
    return np.array([order for one in orders for order in (one, one[::-1])], dtype=np.int64)


def coalitions_of(permutations: ArrayLike) -> NDArray[np.int64]:
    """Return the coalition before each arrival, and the full one, as bit masks.

    Args:
        permutations: (orders, m).

    Returns:
        (orders, m + 1): 0, then one more bit per arrival.
    """
    orders = np.asarray(permutations, dtype=np.int64)
    joined = np.cumsum(np.int64(1) << orders, axis=1)
    return np.concatenate([np.zeros((len(orders), 1), dtype=np.int64), joined], axis=1)


def shapley_sampled(values: Mapping[int, float], permutations: ArrayLike) -> ShapleyEstimate:
    """Return Shapley values as the mean gain of each player's arrival, with standard errors.

    phi_i = mean over orders of v(before i + i) - v(before i)

    Each order and its reverse make one independent draw, so the standard error is the deviation of
    the pairs' means over the root of their number.

    Args:
        values: v of every coalition in `coalitions_of` these permutations.
        permutations: (2 * pairs, m) as `sample_permutations` gives them, at least two pairs.

    Source: Castro, Gomez & Tejada 2009; pairs: Mitchell et al. 2022, arXiv:2104.12199.
    """
    orders = np.asarray(permutations, dtype=np.int64)
    if orders.ndim != 2 or len(orders) < 4 or len(orders) % 2:
        raise ValueError(
            f"permutations must have shape (2 * pairs, m) with two pairs or more, got "
            f"{orders.shape}; one pair says nothing about its error"
        )
    table = np.array([[values[int(mask)] for mask in row] for row in coalitions_of(orders)])
    gains = np.empty(orders.shape)
    np.put_along_axis(gains, orders, np.diff(table, axis=1), axis=1)
    pairs = gains.reshape(len(orders) // 2, 2, -1).mean(axis=1)  # (pairs, m)
    return ShapleyEstimate(
        values=pairs.mean(axis=0),
        standard_errors=pairs.std(axis=0, ddof=1) / math.sqrt(len(pairs)),
    )
