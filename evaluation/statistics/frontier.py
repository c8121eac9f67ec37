"""Scores at equal KL: what a run has where it is at k nats, and two arms beside each other there.

A lead in score minus the KL penalty is a lead in score or in KL that was not paid. Setting two arms
side by side at the same KL tells the two apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.evaluation.statistics.curves import final_mean
from tokengym.evaluation.statistics.scores import (
    Array,
    PairedDifference,
    finite,
    paired_difference,
)

LEAP = 1.0
"""Nats between two measured policies beyond which nothing is known of the policies between."""
FEWEST_PAIRS = 3
"""Pairs of runs, both measured at a KL, below which two arms are not compared there."""
MIN_KL = 0.1
"""Least KL, nats per response, at which runs are compared. Nearer to the reference a policy has
hardly moved: its score differs from the untrained one's by sampling noise, and so does its KL from
0, which is a mean over a few hundred sampled responses."""


@dataclass(frozen=True, kw_only=True)
class RunPath:
    """The policies that one run passed through, in the order of training.

    Raises:
        ValueError: if the arrays differ in length, or updates or tokens fall.
    """

    updates: Array
    """(time,) updates made, in order."""
    tokens: Array
    """(time,) response tokens sampled."""
    kl: Array
    """(time,) nats per response to the reference."""
    values: Mapping[str, Array]
    """Per measurement (time,), such as ``score`` and ``gold_score``."""

    def __post_init__(self) -> None:
        _checked(self.updates, self.kl, *self.values.values())
        if (
            len(finite("tokens", self.tokens)) != len(self.updates)
            or (np.diff(self.tokens) < 0.0).any()
        ):
            raise ValueError(
                f"tokens must be ({len(self.updates)},) and never fall, got {self.tokens}"
            )

    def within(self, budget: float) -> "RunPath":
        """Return the path up to a budget of tokens; its end is interpolated linearly in tokens.

        That end is for means over equal tokens. No policy was measured there, so that the path says
        nothing at a KL. A run that has fewer tokens stays as it is.

        Args:
            budget: Response tokens.

        Raises:
            ValueError: if the budget ends before the first evaluation.
        """
        if budget >= self.tokens[-1]:
            return self
        kept = self.tokens < budget
        if not kept.any():
            raise ValueError(
                f"budget must be above {self.tokens[0]:g} tokens, got {budget:g}: no policy was "
                "measured within it"
            )
        arrays = {"updates": self.updates, "kl": self.kl, **self.values}
        cut = {
            name: np.append(row[kept], np.interp(budget, self.tokens, row))
            for name, row in arrays.items()
        }
        return RunPath(
            updates=cut["updates"],
            tokens=np.append(self.tokens[kept], budget),
            kl=cut["kl"],
            values={name: cut[name] for name in self.values},
        )

    def at_kl(self, kl: float, measure: str) -> "Measured | None":
        """Return what the run had where it was last at a KL, see `last_crossing`; None: unknown."""
        place = last_crossing(self.kl, kl)
        if np.isnan(place):
            return None
        rows = self.updates, self.values[measure]
        update, value = (float(np.interp(place, np.arange(len(row)), row)) for row in rows)
        return Measured(kl=kl, update=update, value=value)

    def at_end(self, measure: str) -> "Measured":
        """Return what the run had at its end, the mean of its last tenth."""
        rows = self.kl, self.updates, self.values[measure]
        kl, update, value = (final_mean(row) for row in rows)
        return Measured(kl=kl, update=update, value=value)


class Measured(NamedTuple):
    """What a run had at a KL."""

    kl: float
    """Nats per response."""
    update: float
    """Update after which it was there."""
    value: float
    """The measurement there."""


Arm: TypeAlias = Mapping[Any, Mapping[int, RunPath]]
"""Tuned cell (rate, lambda, price) -> seed -> run. An arm of one cell has one entry."""


def leaps(updates: ArrayLike, kl: ArrayLike) -> NDArray[np.bool_]:
    """Return which stretches between two evaluations hold an update that crosses over a nat.

    leap_i = |kl_{i+1} - kl_i| > LEAP * (updates_{i+1} - updates_i)

    Where several updates are made between two evaluations, some one of them must have crossed more
    than `LEAP`; a leap that slower updates hide is not found. Measure after every update.

    Args:
        updates: (time,), in order.
        kl: (time,), nats.

    Returns:
        (time - 1,).

    Example:
        >>> leaps([0, 1, 2, 5], [0.0, 0.5, 4.0, 6.0]).tolist()
        [False, True, False]
    """
    at, nats = _checked(updates, kl)
    return np.abs(np.diff(nats)) > LEAP * np.diff(at)


def nats_per_update(updates: ArrayLike, kl: ArrayLike) -> Array:
    """Return the KL that an update crossed, a mean over those between two evaluations.

    (kl_{i+1} - kl_i) / (updates_{i+1} - updates_i)

    Args:
        updates: (time,), strictly increasing.
        kl: (time,), nats.

    Returns:
        (time - 1,) nats.

    Example:
        >>> nats_per_update([0, 1, 5], [0.0, 0.5, 4.5]).tolist()
        [0.5, 1.0]
    """
    at, nats = _checked(updates, kl)
    return np.diff(nats) / np.diff(at)


def last_crossing(kl: ArrayLike, k: float) -> float:
    """Return where a run was last at a KL, as a place among its measurements.

    i = last i with k between kl_{i-1} and kl_i, and |kl_i - kl_{i-1}| <= LEAP
    i - 1 + (k - kl_{i-1}) / (kl_i - kl_{i-1})          NaN if there is no such i

    ``np.interp(place, range(time), values)`` is what the run has there: the value of a policy that
    is at k, and not of one that merely stayed below it. The stretch is chosen by KL and time and
    never by the value. Of a run that never was at k, or only in a leap over it, nothing is known.

    The policy may be one from the middle of a training, whose learning rate had not fallen yet, so
    the update at which each run was there belongs beside the values.

    Args:
        kl: (time,) nats per response, in the order of training.
        k: Nats.

    Example:
        >>> last_crossing([0.0, 0.9, 1.7, 1.2, 1.5], 1.4), last_crossing([0.0, 5.0], 2.0)
        (3.6666666666666665, nan)
    """
    nats = finite("kl", kl)
    if nats.ndim != 1:
        raise ValueError(f"kl must be (time,), got {nats.shape}")
    before, after = nats[:-1], nats[1:]
    near = np.abs(after - before) <= LEAP
    crossed = np.flatnonzero(
        near & (np.minimum(before, after) <= k) & (k <= np.maximum(before, after))
    )
    if len(crossed) == 0:
        return np.nan
    i = int(crossed[-1])
    step = after[i] - before[i]
    return i + (float((k - before[i]) / step) if step else 1.0)


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
    x: Mapping[int, RunPath],
    y: Mapping[int, RunPath],
    kl: float | None = None,
    *,
    measure: str = "score",
    level: float = 0.95,
) -> EqualKL | None:
    """Return what two arms have at one KL, paired by seed; None if too few pairs were there.

    The level is that of the question. By default it is where the baseline ends: each pair is
    compared at the KL that the run of y has in the mean of its last tenth, where y has its end and
    x is read at its `last_crossing`. At a KL that is given both are. No level depends on which
    other arms there are.

    A pair without a value on either side is left out, and `FEWEST_PAIRS` are needed.

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
    rows = []
    for seed in seeds:
        base = y[seed].at_end(measure) if kl is None else y[seed].at_kl(kl, measure)
        one = x[seed].at_kl(base.kl, measure) if base is not None else None
        if base is not None and one is not None:
            rows.append((base.kl, one.update, base.update, one.value, base.value))
    if len(rows) < FEWEST_PAIRS:
        return None
    table = np.array(rows)
    means = table.mean(axis=0)
    return EqualKL(
        kl=float(means[0]),
        update=float(means[1]),
        baseline_update=float(means[2]),
        value=float(means[3]),
        baseline_value=float(means[4]),
        difference=paired_difference(table[:, 3], table[:, 4], level),
        of=len(seeds),
    )


def _checked(*series: ArrayLike) -> tuple[Array, ...]:
    """Return updates and what was measured after them as arrays of one length."""
    arrays = tuple(finite("updates, kl and values", row) for row in series)
    if any(row.ndim != 1 or row.shape != arrays[0].shape for row in arrays):
        raise ValueError(
            f"updates, kl and values must be (time,) alike, got {[row.shape for row in arrays]}"
        )
    if (np.diff(arrays[0]) < 0.0).any():
        raise ValueError(f"updates must not fall, got {arrays[0]}; sort the evaluations")
    return arrays
