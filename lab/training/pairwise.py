"""The mathematics of learning from pairs: Bradley-Terry and what is measured on held-out pairs.

Throughout, differences are (pairs,) R_w - R_l, or log-odds of the chosen response.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit
from torch import Tensor
from torch.nn import functional


def bradley_terry_loss(
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the negative log-likelihood of each comparison.

    d = R_w - R_l - margin
    -(1 - e) log sigmoid(d) - e log sigmoid(-d), by logsigmoid: log(sigmoid(.)) is -inf where it
    underflows

    Args:
        chosen: (batch,) R_w, reward units.
        rejected: (batch,) R_l.
        margin: (batch,) >= 0, reward units; None is 0.
        label_smoothing: e, the share of comparisons taken to be the wrong way round, in [0, 0.5).

    Returns:
        (batch,) nats.

    Source: Bradley & Terry 1952; the margin is Touvron et al. 2023, arXiv:2307.09288, eq. 2; the
    smoothing is that of conservative DPO, Mitchell 2023.
    """
    shapes = {tuple(chosen.shape), tuple(rejected.shape)}
    shapes |= set() if margin is None else {tuple(margin.shape)}
    if len(shapes) != 1:
        raise ValueError(f"chosen, rejected and margin must have one shape, got {sorted(shapes)}")
    difference = chosen - rejected
    if margin is not None:
        difference = difference - margin
    loss = -functional.logsigmoid(difference)
    if not label_smoothing:
        return loss
    return (1 - label_smoothing) * loss - label_smoothing * functional.logsigmoid(-difference)


def pair_accuracy(differences: ArrayLike) -> float:
    """Return the share of pairs in the right order; a tie counts as half.

    Args:
        differences: (pairs,) R_w - R_l.

    Example:
        >>> pair_accuracy([1.0, -2.0, 0.0, 3.0])
        0.625
    """
    values = _vector(differences)
    return float(((values > 0) + 0.5 * (values == 0)).mean())


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """The pairs about which a model is about as sure."""

    low: float
    """Lowest confidence of the bin, in [.5, 1]."""
    high: float
    """Highest."""
    pairs: int
    """Number of pairs."""
    confidence: float | None
    """Their mean confidence; None if there are none."""
    accuracy: float | None
    """Share of them in the right order."""


def reliability(differences: ArrayLike, *, bins: int = 10) -> tuple[ReliabilityBin, ...]:
    """Return how often a model is right when it is so sure.

    confidence = sigmoid(|R_w - R_l|) in [.5, 1], in bins of equal width

    Args:
        differences: (pairs,) R_w - R_l, or the log-odds of the chosen response.
        bins: Number of bins.

    Source: Guo et al. 2017, arXiv:1706.04599, section 2.
    """
    values = _vector(differences)
    confidence = expit(np.abs(values))
    right = (values > 0) + 0.5 * (values == 0)
    places = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    table = []
    for bin_index in range(bins):
        inside = places == bin_index
        table.append(
            ReliabilityBin(
                low=0.5 + 0.5 * bin_index / bins,
                high=0.5 + 0.5 * (bin_index + 1) / bins,
                pairs=int(inside.sum()),
                confidence=float(confidence[inside].mean()) if inside.any() else None,
                accuracy=float(right[inside].mean()) if inside.any() else None,
            )
        )
    return tuple(table)


def calibration_error(differences: ArrayLike, *, bins: int = 10) -> float:
    """Return the expected calibration error of the preferences that the scores imply.

    sum_b |pairs in b| / |pairs| * |accuracy in b - mean confidence in b|, over `reliability`'s bins

    Args:
        differences: (pairs,) R_w - R_l.
        bins: Number of bins.

    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3.
    """
    table = reliability(differences, bins=bins)
    gaps = [
        row.pairs * abs(row.accuracy - row.confidence)
        for row in table
        if row.accuracy is not None and row.confidence is not None
    ]
    return sum(gaps) / sum(row.pairs for row in table)


def length_correlation(differences: ArrayLike, length_differences: ArrayLike) -> float:
    """Return how far the longer response gets the higher score, in [-1, 1]; 0 if nothing varies.

    sum dR * dL / sqrt(sum dR^2 * sum dL^2): Pearson's correlation over each pair in both orders,
    so that it measures the scores and not which of the two was preferred

    Args:
        differences: (pairs,) dR, of scores.
        length_differences: (pairs,) dL, of lengths, in the same order.
    """
    scores, lengths = _vector(differences), _vector(length_differences)
    if scores.shape != lengths.shape:
        raise ValueError(
            f"there must be as many length_differences as differences, got {lengths.shape} and "
            f"{scores.shape}"
        )
    scale = np.sqrt((scores**2).sum() * (lengths**2).sum())
    return float((scores * lengths).sum() / scale) if scale > 0 else 0.0


def _vector(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"differences must have shape (pairs,) with a pair, got {array.shape}")
    return array
