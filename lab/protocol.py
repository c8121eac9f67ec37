"""What docs/results/protocol.md says of every study: the criterion, and how rates are tuned."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokengym.evaluation.runs.record import RunRecord
from tokengym.evaluation.statistics import area_under_curve

Row = Mapping[str, Any]
PRICE = 0.05
"""Score that a nat of KL costs, in training and in the criterion."""
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
FIRST_RATE = 1e-3
"""Rate that a sweep begins with; it climbs from there while a neighbour is better."""
SPARE_SEED = 1000
"""Seed of the sweeps, which stands behind no difference."""
MEASURES = ("step", "tokens", "score", "gold_score", "kl")
"""What a study keeps of a measurement."""


def measured(record: RunRecord) -> list[dict[str, Any]]:
    """Return a run's measurements, one row each, as studies keep them."""
    return [{k: round(point[k], 4) for k in MEASURES} for point in record.curve]


def net(row: Row, price: float = PRICE) -> float:
    """Return score - c KL of a measurement."""
    return float(row["score"] - price * row["kl"])


def net_area(rows: Sequence[Row], price: float = PRICE) -> float:
    """Return the mean of score - c KL over the tokens of a run."""
    tokens = [row["tokens"] for row in rows]
    return float(area_under_curve(tokens, [net(row, price) for row in rows], normalize=True))


def next_rate(areas: Mapping[float, float], first: float = FIRST_RATE) -> float | None:
    """Return the rate that a sweep tries next, None once no neighbour of the best is untried.

    Args:
        areas: What each rate tried so far has reached.
        first: Rate that is tried first.

    Example:
        >>> next_rate({}), next_rate({1e-3: 2.0}), next_rate({1e-3: 2.0, 3e-3: 1.0, 3e-4: 1.0})
        (0.001, 0.003, None)
    """
    if not areas:
        return first
    at = RATES.index(max(areas, key=lambda rate: areas[rate]))
    near = RATES[max(at - 1, 0) : at + 2]
    return next((rate for rate in reversed(near) if rate not in areas), None)


def best_rate(areas: Mapping[float, float], first: float = FIRST_RATE) -> float | None:
    """Return the rate that a sweep found, None while it is not finished.

    Args:
        areas: What each rate tried so far has reached.
        first: Rate that is tried first.
    """
    if next_rate(areas, first) is not None:
        return None
    return max(areas, key=lambda rate: areas[rate])
