"""Scores at equal KL: what a run has where it is at k nats, and two arms beside each other there.

A lead in score minus the KL penalty is a lead in score or in KL that was not paid. Setting two arms
side by side at the same KL tells the two apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from tokengym.evaluation.statistics.curve import Curve
from tokengym.evaluation.statistics.scores import (
    DEFAULT_LEVEL,
    Array,
    PairedDifference,
    paired_difference,
)

FEWEST_PAIRS = 3
"""Fewest pairs of runs, both measured at a KL, that are compared there."""
MIN_KL = 0.1
"""Least KL, nats per response, at which runs are compared. Nearer to the reference a policy has
hardly moved: its score differs from the untrained one's by sampling noise, and so does its KL from
0, which is a mean over a few hundred sampled responses."""
Arm: TypeAlias = Mapping[Any, Mapping[int, Curve]]
"""Tuned cell (rate, lambda, price) -> seed -> run. An arm of one cell has one entry."""


def tuned_on_others(values: ArrayLike, chosen_by: ArrayLike | None = None) -> Array:
    """Return an arm's value for each seed, by the cell that does best on the other seeds.

    c(s) = argmax over cells c of mean over seeds t != s of chosen_by[c, t]
    result_s = values[c(s), s]

    The highest mean of several equal cells would be above what any of them has. Here the seed that
    is measured has no say in the choice, whose noise is then in the differences between seeds. A
    cell that lacks a value of some seed is left out: which seeds have one is not by chance.

    Args:
        values: (cells, seeds), NaN where a run has no value.
        chosen_by: (cells, seeds) by which the cell is chosen; None takes ``values``.

    Returns:
        (seeds,), NaN where no cell is left, or where several are and there is one seed alone.

    Example:
        >>> tuned_on_others([[1.0, 5.0, 1.0], [2.0, 2.0, 2.0]])
        array([1., 2., 1.])
    """
    table = np.asarray(values, dtype=np.float64)
    ranked = table if chosen_by is None else np.asarray(chosen_by, dtype=np.float64)
    if table.ndim != 2 or table.shape != ranked.shape:
        raise ValueError(
            f"values and chosen_by must be (cells, seeds) alike, got {table.shape}, {ranked.shape}"
        )
    whole = np.isfinite(table).all(axis=1) & np.isfinite(ranked).all(axis=1)
    table, ranked = table[whole], ranked[whole]
    cells, seeds = table.shape
    if cells == 0 or (cells > 1 and seeds == 1):
        return np.full(seeds, np.nan)
    others = ranked.sum(axis=1, keepdims=True) - ranked  # (cells, seeds)
    return table[np.argmax(others, axis=0), np.arange(seeds)]


@dataclass(frozen=True, kw_only=True)
class EqualKL:
    """Two arms at one KL, over the pairs of runs that were both there."""

    kl: float
    """Nats per response, the mean over those pairs."""
    update: float
    """Mean update at which the runs of x were there."""
    baseline_update: float
    """Mean update of those of y."""
    value: float
    """Mean of x."""
    baseline_value: float
    """Mean of y."""
    difference: PairedDifference
    """x - y, paired by seed; ``pairs`` is the number of pairs that were both there."""
    of: int
    """Pairs of runs that there are."""


def compare_at_kl(
    x: Mapping[int, Curve],
    y: Mapping[int, Curve],
    kl: float | None = None,
    *,
    measure: str = "score",
    level: float = DEFAULT_LEVEL,
) -> EqualKL | None:
    """Return what two arms have at one KL, paired by seed; None if too few pairs were there.

    The level is that of the question. By default it is where the baseline ends: each pair is
    compared at the KL that the run of y has in the mean of its last tenth, where y has its end and
    x is read at its `last_crossing`. At a KL that is given both are. No level depends on which
    other arms there are.

    A pair without a value on either side is left out, and `enough_pairs` are needed.

    Args:
        x: Runs by seed.
        y: Those of the baseline.
        kl: Nats; None takes the end of each run of the baseline.
        measure: Measurement that is compared, such as ``gold_score``.
        level: Confidence level of the interval, Student's t over pairs.

    Raises:
        ValueError: if the arms share no seed, or the KL is not above 0.
    """
    if kl is not None and not kl > 0.0:
        raise ValueError(f"kl must be above 0 nats, got {kl:g}")
    seeds = sorted(x.keys() & y.keys())
    if not seeds:
        raise ValueError(f"the arms share no seed, got {sorted(x)} and {sorted(y)}")
    table = at_equal_kl([(x[seed], y[seed]) for seed in seeds], kl, measure)
    table = table[np.isfinite(table).all(axis=1)]
    if len(table) < enough_pairs(len(seeds)):
        return None
    nats, update, baseline_update, value, baseline_value = map(float, table.mean(axis=0))
    return EqualKL(
        kl=nats,
        update=update,
        baseline_update=baseline_update,
        value=value,
        baseline_value=baseline_value,
        difference=paired_difference(table[:, 3], table[:, 4], level),
        of=len(seeds),
    )


def enough_pairs(pairs: int) -> int:
    """Return how many pairs must have been at a KL to be compared: half, and `FEWEST_PAIRS`.

    Of runs beside a level a few seem to be there by the error of their KL, and which is chance.

    Example:
        >>> enough_pairs(3), enough_pairs(5), enough_pairs(10)
        (3, 3, 5)
    """
    return max(FEWEST_PAIRS, -(-pairs // 2))


def at_equal_kl(
    both: Sequence[tuple[Curve, Curve]], kl: float | None = None, measure: str = "score"
) -> Array:
    """Return what each pair of runs has at one KL, see `compare_at_kl`.

    Returns:
        (pairs, 5): the KL, the steps at which x and y were there, and their values; NaN where x
        was not there, or at a given KL one of them was not.
    """
    table = np.full((len(both), 5), np.nan)
    for row, (x, y) in zip(table, both, strict=True):
        base = y.at_end(measure) if kl is None else y.at_kl(kl, measure)
        if base is None:
            continue
        row[0] = base.kl
        if (one := x.at_kl(base.kl, measure)) is not None:
            row[1:] = one.step, base.step, one.value, base.value
    return table
