"""SCAR: each span of the response earns its Shapley value."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokengym.base import check_count, check_number
from tokengym.envs import Episode
from tokengym.rewards import (
    CreditError,
    Cut,
    Probe,
    Scores,
    SegmentedCredit,
    check_beta,
    register_credit,
)
from tokengym.rewards.maths import (
    coalitions_of,
    sample_permutations,
    shapley_exact,
    shapley_sampled,
    split_evenly,
)

MAX_SPANS = 62
"""A coalition is the bits of one integer."""


@register_credit
class SCAR(SegmentedCredit):
    """Each span of the response earns its Shapley value, spread evenly over its tokens.

    v(S) = R(x, y restricted to the spans S): the other tokens are left out, and what remains is
    scored as a text. The values sum to R(x, y) - R(x, empty); the last token gets R(x, empty).

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

    Raises:
        CreditError: if an argument is out of range.

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
        super().__init__(segments, cut)
        spans = segments or spans
        if permutations < 4 or permutations % 2:
            raise CreditError(f"permutations must be an even number >= 4, got {permutations}")
        self.spans = spans
        self.permutations = permutations
        self.seed = seed
        check_number(self, "spans", least=1, most=MAX_SPANS, error=CreditError)
        check_count(self, "seed", least=0, error=CreditError)
        self.beta = self._share = check_beta(beta)

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
            sizes = [len(span) for span in spans]
            rows.append(np.repeat(shapley / sizes, sizes))
        return scores.with_attributions(
            rows, signed=True, parts={"shapley_error": errors * self.beta}
        )

    def pieces(self, episodes: Sequence[Episode]) -> list[list[range]]:
        """Return the segments of each response, or its spans."""
        if self.segments is not None:
            return super().pieces(episodes)
        return [split_evenly(len(episode.response_ids), self.spans) for episode in episodes]

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
