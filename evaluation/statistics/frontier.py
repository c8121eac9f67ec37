"""Scores at equal KL: what a run, or an arm of several tuned cells, has within k nats.

A lead in score minus the KL penalty is a lead in score or in KL that was not paid. Setting two arms
side by side at the same KL and the same tokens tells the two apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.evaluation.statistics.scores import (
    DEFAULT_RESAMPLES,
    Array,
    PairedDifference,
    Random,
    finite,
    interval,
    iqm,
    paired_difference,
)

KL_LEVELS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""KL to the reference, nats per response, at which arms are compared."""
LEAP = 1.0
"""Nats that one update may cross: along a longer one nothing is known of the policies between."""
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

    def within(self, budget: float, *, across_leaps: bool = False) -> "RunPath":
        """Return the path up to a budget of tokens; its end is interpolated linearly in tokens.

        A run that has fewer tokens stays as it is.

        Args:
            budget: Response tokens.
            across_leaps: Whether the end is also interpolated within a leap (see `leaps`), as the
                mean over a run needs it: all runs then have equal tokens. Otherwise the path ends
                before the leap, as values at a KL need it: no policy within it is known.

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
        last = int(np.flatnonzero(kept)[-1])
        if not across_leaps and leaps(self.updates, self.kl)[last]:
            return self._until(last)
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

    def _until(self, last: int) -> "RunPath":
        """Return the path up to an evaluation."""
        return RunPath(
            updates=self.updates[: last + 1],
            tokens=self.tokens[: last + 1],
            kl=self.kl[: last + 1],
            values={name: row[: last + 1] for name, row in self.values.items()},
        )


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


def value_within_kl(
    levels: ArrayLike, updates: ArrayLike, kl: ArrayLike, values: ArrayLike
) -> Array:
    """Return a run's value at each KL: that of its latest policy which is at most so far away.

    i = last evaluation with kl_i <= k
    i is the end of the run:  values_i  if the run has been at k or beyond (max kl >= k), else NaN
    otherwise the path leaves k upwards between i and i + 1, for good:
        w = (sqrt(k) - sqrt(kl_i)) / (sqrt(kl_{i+1}) - sqrt(kl_i))
        (1 - w) * values_i + w * values_{i+1},  or NaN if that stretch is a leap (see `leaps`)

    This is the policy of a training that is stopped by a limit on the KL. It is chosen by KL and
    time and never by its value: the best of many noisy evaluations would be too high, and the more
    so the more evaluations or cells an arm has. A run that was beyond k and came back is given its
    end, which has less KL than k and more training. A run that never came to k has no value there:
    what it would have had at more KL is not known.

    A run that passes k on its way to more has spent fewer tokens there than one that ends at k, and
    where the learning rate falls over a run it has not fallen yet, which costs KL. That is what a
    limit on the KL gives at these settings; whether an arm could do better at k is answered by its
    cells at other prices and rates, see `compare_at_kl`. Interpolation is in the square root of the
    KL, in which scores rise about linearly (Gao et al. 2023).

    Args:
        levels: (levels,) KL k, nats, above 0.
        updates: (time,), in order.
        kl: (time,), nats per response; a sampled estimate below 0 counts as 0.
        values: (time,) such as the score.

    Returns:
        (levels,), NaN where the run has no value.

    Raises:
        ValueError: if the shapes differ, updates fall, or a level is not above 0.

    Source:
        Gao et al. 2023, "Scaling Laws for Reward Model Overoptimization", arXiv:2210.10760:
        policies are compared at equal KL, by functions of its square root.

    Example:
        >>> value_within_kl([1, 4, 9], [0, 1, 2, 3], [0.0, 1.0, 1.8, 2.6], [0.0, 1.0, 2.0, 3.0])
        array([ 1., nan, nan])
    """
    at, nats, height = _checked(updates, kl, values)
    wanted = finite("levels", levels)
    if (wanted <= 0.0).any():
        raise ValueError(f"a level of KL must be above 0 nats, got {wanted.min():g}")
    nats = np.maximum(nats, 0.0)
    is_leap = leaps(at, nats)
    return np.array([_within(float(k), nats, height, is_leap) for k in wanted])


def _within(k: float, nats: Array, height: Array, is_leap: NDArray[np.bool_]) -> float:
    below = np.flatnonzero(nats <= k)
    if len(below) == 0:
        return np.nan
    last = int(below[-1])
    if last == len(nats) - 1:
        return float(height[last]) if nats.max() >= k else np.nan
    if nats[last] == k:
        return float(height[last])
    if is_leap[last]:
        return np.nan
    low, high = np.sqrt(nats[last]), np.sqrt(nats[last + 1])  # low < sqrt(k) < high
    share = (np.sqrt(k) - low) / (high - low)
    return float((1.0 - share) * height[last] + share * height[last + 1])


def largest_shared_kl(paths: Sequence[tuple[ArrayLike, ArrayLike]]) -> float | None:
    """Return the largest KL, at least `MIN_KL`, at which every run has a value.

    The values are those of `value_within_kl`.

    Args:
        paths: Updates (time,) and KL (time,) of each run.

    Returns:
        Nats; None if there is none.

    Example:
        >>> largest_shared_kl([([0, 1, 2], [0.0, 1.0, 2.0]), ([0, 1, 2], [0.0, 0.9, 1.5])])
        1.5
    """
    runs = [(at, np.maximum(nats, 0.0)) for at, nats in (_checked(*path) for path in paths)]
    # Where runs have values, they have them up to and at one of the evaluations.
    reached = min((float(nats.max()) for _, nats in runs), default=0.0)
    every = np.unique(np.concatenate([nats for _, nats in runs])) if runs else np.empty(0)
    for k in sorted(every[(every >= MIN_KL) & (every <= reached)], reverse=True):
        if all(np.isfinite(value_within_kl([k], at, nats, nats))[0] for at, nats in runs):
            return float(k)
    return None


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
    """Two arms at one KL."""

    kl: float
    """Nats per response."""
    value: float
    """Interquartile mean of x over the seeds that both arms have."""
    low: float
    """Lower end of its interval, see `interval`."""
    high: float
    """Upper end of its interval."""
    baseline_value: float
    """Interquartile mean of y."""
    baseline_low: float
    """Lower end of its interval."""
    baseline_high: float
    """Upper end of its interval."""
    difference: PairedDifference
    """x - y, paired by seed."""


def compare_at_kl(
    x: Arm,
    y: Arm,
    levels: Sequence[float] = KL_LEVELS,
    *,
    measure: str = "score",
    tune_by: str = "score",
    budget: float | None = None,
    level: float = 0.95,
    rng: Random = 0,
    resamples: int = DEFAULT_RESAMPLES,
) -> list[EqualKL]:
    """Return what two arms have at equal KL and equal tokens, paired by seed.

    Each run has a value at k by `value_within_kl`, within the tokens that all runs have or the
    budget; each seed's cell is chosen on the other seeds by `tuned_on_others`, anew at each k. A
    level that a run of either arm lacks is left out, not averaged over the seeds that have it.

    Args:
        x: Runs by cell and seed.
        y: Those of the baseline. Only the seeds of every cell of both arms count.
        levels: KL, nats.
        measure: Measurement that is compared, such as ``gold_score``.
        tune_by: Measurement by which an arm's cell is chosen; gold is not known when one tunes.
        budget: Response tokens of a run; None takes those of the shortest one.
        level: Confidence level of the intervals: bootstrap over seeds for an arm's value, Student's
            t for the difference, as everywhere.
        rng: Generator, or a seed for one.
        resamples: Number of bootstrap draws.

    Raises:
        ValueError: if an arm has no cell, or the arms share no seed.
    """
    if not x or not y:
        raise ValueError("each arm needs at least one cell with runs, got an empty one")
    runs = [*x.values(), *y.values()]
    seeds = sorted(set(runs[0]).intersection(*runs[1:]))
    if not seeds:
        raise ValueError(f"the cells share no seed, got {[sorted(cell) for cell in runs]}")
    shortest = min(float(cell[seed].tokens[-1]) for cell in runs for seed in seeds)
    tokens = shortest if budget is None else min(budget, shortest)
    shown = []
    by_arm = [
        [_tables(arm, seeds, levels, name, tokens) for name in (measure, tune_by)] for arm in (x, y)
    ]
    for number, kl in enumerate(levels):
        one, other = (tuned_on_others(of[:, :, number], by[:, :, number]) for of, by in by_arm)
        if not (np.isfinite(one).all() and np.isfinite(other).all()):
            continue
        ends = [interval(row, level=level, rng=rng, resamples=resamples) for row in (one, other)]
        shown.append(
            EqualKL(
                kl=float(kl),
                value=float(iqm(one)),
                low=ends[0][0],
                high=ends[0][1],
                baseline_value=float(iqm(other)),
                baseline_low=ends[1][0],
                baseline_high=ends[1][1],
                difference=paired_difference(one, other, level),
            )
        )
    return shown


def _tables(
    arm: Arm, seeds: Sequence[int], levels: Sequence[float], measure: str, tokens: float
) -> Array:
    """Return an arm's values, (cells, seeds, levels)."""

    def values(run: RunPath) -> Array:
        path = run.within(tokens)
        return value_within_kl(levels, path.updates, path.kl, path.values[measure])

    return np.array([[values(cell[seed]) for seed in seeds] for cell in arm.values()])


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
