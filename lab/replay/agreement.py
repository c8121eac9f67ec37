"""Agreement of token rewards with the true worth of each token, and that worth by executed forks.

Pure functions of arrays, one response at a time, and their means over responses. A fork continues a
response with a token and without.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import rankdata, spearmanr

from tokengym.evaluation.statistics import DEFAULT_LEVEL, student_interval

Array = NDArray[np.float64]
"""Numbers, float64."""

FEWEST_RESPONSES = 5
"""Responses from which on the interval of a mean rank correlation is shown."""
ORDERS = 200
"""Random orders that the chance level is taken from."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One rule's token rewards against the truth, over a set of responses."""

    correlation: float
    """Mean over responses of `rank_correlation`; responses whose truth is flat are left out."""
    low: float
    """Lower end of its interval, Student's over responses, within what a correlation can be."""
    high: float
    """Upper end."""
    pooled: float
    """`rank_correlation` of all tokens of all responses together."""
    share: float
    """Mean of `share_on`: of the credit's absolute sum, how much fell on tokens that matter."""
    signs: float
    """Mean of `right_signs`."""
    ceiling: float
    """Mean of `tie_ceiling`: the correlation of a rule without ties that orders all rightly."""
    responses: int
    """Number of responses that have a token that matters."""

    @property
    def has_interval(self) -> bool:
        """Whether there are `FEWEST_RESPONSES`."""
        return self.responses >= FEWEST_RESPONSES


def agreement(
    credits: Sequence[ArrayLike],
    truths: Sequence[ArrayLike],
    matters: Sequence[ArrayLike] | None = None,
) -> Agreement:
    """Return the agreement of a rule's credit with the truth.

    Args:
        credits: Per response (n,) token rewards.
        truths: Per response (n,) true worth, signed.
        matters: Per response (n,) bool, the tokens that matter; None takes those whose worth is
            not 0.
    """
    if matters is None:
        matters = [np.asarray(truth) != 0 for truth in truths]
    rows = [
        (*_pair(credit, truth), np.asarray(mask, dtype=np.bool_))
        for credit, truth, mask in zip(credits, truths, matters, strict=True)
    ]
    told = [(credit, truth) for credit, truth, _ in rows if varies(truth)]
    useful = [row for row in rows if row[2].any()]
    if not told or not useful:
        raise ValueError(
            f"none of {len(rows)} responses has a token that matters; there is nothing to agree "
            "with"
        )
    correlations = [rank_correlation(*pair) for pair in told]
    mean, low, high, _ = map(float, student_interval(correlations))
    low, high = max(low, -1.0), min(high, 1.0)
    every = [np.concatenate(side) for side in list(zip(*rows, strict=True))[:2]]
    return Agreement(
        correlation=mean,
        low=low,
        high=high,
        pooled=rank_correlation(*every),
        share=float(np.mean([share_on(credit, mask) for credit, _, mask in useful])),
        signs=float(np.mean([right_signs(*row) for row in useful])),
        ceiling=float(np.mean([tie_ceiling(truth) for _, truth in told])),
        responses=len(useful),
    )


def rank_correlation(credit: ArrayLike, truth: ArrayLike) -> float:
    """Return Spearman's rank correlation, ties at their mean rank.

    rho = corr(rank(credit), rank(truth));  0 if either is flat: it orders nothing

    Args:
        credit: (n,).
        truth: (n,).

    Example:
        >>> rank_correlation([0.1, 0.2, 0.9], [1.0, 2.0, 3.0])
        1.0
        >>> rank_correlation([0.5, 0.5, 0.5], [1.0, 2.0, 3.0])
        0.0
    """
    left, right = _pair(credit, truth)
    if not (varies(left) and varies(right)):
        return 0.0
    return round(float(spearmanr(left, right).statistic), 12)


def varies(values: Array) -> bool:
    """Return whether one of some values, of which there may be none, differs from another."""
    return values.size > 0 and bool(np.ptp(values) > 0)


def tie_ceiling(truth: ArrayLike) -> float:
    """Return the rank correlation of a rule that never contradicts the truth, but has no ties.

    rho = sd(ranks of the truth, ties at their mean) / sd(1 .. n)

    Where most tokens are worth nothing, a rule that puts them in some order or other stays well
    below 1 though it finds all that matter.

    Args:
        truth: (n,).

    Example:
        >>> tie_ceiling([1.0, 2.0, 3.0]), round(tie_ceiling([0.0, 0.0, 0.0, 1.0]), 3)
        (1.0, 0.775)
    """
    ranks = rankdata(np.asarray(truth, dtype=np.float64))
    untied = np.arange(1, len(ranks) + 1)
    return float(ranks.std() / untied.std()) if len(ranks) > 1 else 0.0


def share_on(credit: ArrayLike, matters: ArrayLike) -> float:
    """Return the share of the credit's absolute sum on tokens that matter.

    sum_t |r_t| [t matters] / sum_t |r_t|;  0 for a credit of nothing

    Args:
        credit: (n,).
        matters: (n,) bool.

    Example:
        >>> share_on([3.0, -1.0, 0.0], [True, False, True])
        0.75
    """
    size = np.abs(np.asarray(credit, dtype=np.float64))
    total = float(size.sum())
    return float(size[np.asarray(matters, dtype=np.bool_)].sum()) / total if total > 0 else 0.0


def right_signs(credit: ArrayLike, truth: ArrayLike, matters: ArrayLike) -> float:
    """Return the share of the tokens that matter whose credit has the truth's sign.

    A token that is paid nothing counts half: it is neither rewarded nor charged wrongly.

    Args:
        credit: (n,).
        truth: (n,).
        matters: (n,) bool, at least one.

    Example:
        >>> right_signs([3.0, -1.0, 0.0, 0.0], [1.0, 0.5, -2.0, 0.0], [True, False, True, False])
        0.75
    """
    paid, worth = _pair(credit, truth)
    mask = np.asarray(matters, dtype=np.bool_)
    agrees = np.sign(paid[mask]) * np.sign(worth[mask])
    return float(np.mean((agrees + 1) / 2))


def effective_tokens(credit: ArrayLike) -> float:
    """Return the number of tokens over which a credit is spread: the perplexity of its shares.

    exp(-sum_t p_t ln p_t),  p_t = |r_t| / sum_s |r_s|;  0 for a credit of nothing

    Args:
        credit: (n,).

    Example:
        >>> effective_tokens([0.0, 0.0, 3.0]), round(effective_tokens([1.0, -1.0, 1.0]), 9)
        (1.0, 3.0)
    """
    size = np.abs(np.asarray(credit, dtype=np.float64))
    if not size.sum() > 0:
        return 0.0
    shares = size[size > 0] / size.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def charged_share(credit: ArrayLike) -> float:
    """Return the share of a credit's absolute sum that is negative; 0 for a credit of nothing.

    Args:
        credit: (n,).

    Example:
        >>> charged_share([3.0, -1.0])
        0.25
    """
    paid = np.asarray(credit, dtype=np.float64)
    total = float(np.abs(paid).sum())
    return float(-paid[paid < 0].sum()) / total if total > 0 else 0.0


def _pair(credit: ArrayLike, truth: ArrayLike) -> tuple[Array, Array]:
    paid = np.asarray(credit, dtype=np.float64)
    worth = np.asarray(truth, dtype=np.float64)
    if paid.shape != worth.shape or paid.ndim != 1:
        raise ValueError(
            f"credit and truth must have one shape (n,), got {paid.shape} and {worth.shape}"
        )
    return paid, worth


@dataclass(frozen=True, kw_only=True)
class ExecutedWorth:
    """Estimated advantages of one response's tokens."""

    worth: Array
    """(n,) in score units; they sum to the score minus the prompt's value."""
    low: Array
    """(n,) lower ends of the intervals."""
    high: Array
    """(n,) upper ends."""
    halves: tuple[Array, Array]
    """(n,) twice: the same from one half of the continuations each."""


def executed_worth(draws: Array, score: float, *, bounds: tuple[float, float]) -> ExecutedWorth:
    """Return what each token changed in the mean score of the policy's continuations.

    A_t = mean of V(y_<=t) - mean of V(y_<t);   V of the whole response is its score

    Each mean's error is that of its k scores and two more, one at either bound, and the interval is
    centred on the difference of these means: k equal scores do not prove that the next is equal.

    Args:
        draws: (n, k) scores of k continuations of the first t tokens, t = 0 ... n - 1; k is even.
        score: Score of the response.
        bounds: The lowest and the highest score that is known.

    Example:
        >>> found = executed_worth(np.array([[0.0, 1.0], [1.0, 1.0]]), 1.0, bounds=(0.0, 1.0))
        >>> found.worth.tolist()
        [0.5, 0.0]

    Source: Agresti and Caffo 2000, "Simple and Effective Confidence Intervals for Proportions",
    The American Statistician 54(4).
    """
    k = draws.shape[1]
    if k < 2 or k % 2:
        raise ValueError(f"forks need an even number of continuations, at least 2, got k={k}")
    mean, variance = _bounded_mean(draws, bounds)
    mean, variance = np.append(mean, score), np.append(variance, 0.0)
    half = ndtri((1.0 + DEFAULT_LEVEL) / 2.0) * np.sqrt(variance[1:] + variance[:-1])
    return ExecutedWorth(
        worth=_differences(draws, score),
        low=np.diff(mean) - half,
        high=np.diff(mean) + half,
        halves=(_differences(draws[:, : k // 2], score), _differences(draws[:, k // 2 :], score)),
    )


def _bounded_mean(draws: Array, bounds: tuple[float, float]) -> tuple[Array, Array]:
    """Return the means (n,) of scores (n, k) and one at either bound, and their variances."""
    more = np.hstack([draws, np.broadcast_to(bounds, (len(draws), 2))])
    return more.mean(axis=1), more.var(axis=1) / more.shape[1]


def split_half_ceiling(halves: Sequence[tuple[Array, Array]]) -> float:
    """Return the mean rank correlation that a rule has with the estimate if it is the truth.

    ceiling = sqrt(2 rho / (1 + rho)),  rho = mean rank correlation of the two halves, at least 0

    Args:
        halves: Per response the estimates from each half of the continuations.

    Source: Spearman 1910; Brown 1910.
    """
    rho = max(float(np.mean([rank_correlation(*pair) for pair in halves])), 0.0)
    return float(np.sqrt(2.0 * rho / (1.0 + rho)))


def chance_correlation(truths: Sequence[Array], *, rng: np.random.Generator | int) -> float:
    """Return the mean rank correlation that a share `DEFAULT_LEVEL` of random orders stay below.

    Args:
        truths: Per response (n,) the estimates.
        rng: Shuffles the tokens of each response.
    """
    draw = np.random.default_rng(rng)
    means = [
        np.mean([rank_correlation(draw.permutation(truth), truth) for truth in truths])
        for _ in range(ORDERS)
    ]
    return float(np.quantile(means, DEFAULT_LEVEL))


def _differences(draws: Array, score: float) -> Array:
    return np.diff(np.append(draws.mean(axis=1), score))
