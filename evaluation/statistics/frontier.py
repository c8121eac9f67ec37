"""Scores at equal KL: what runs have where they are at k nats, and two arms side by side there.

A run is read over a stretch of its policies, never at the crossing of a level between two of them:
a mean with its error needs no veto. A lead in score minus the KL penalty is one in score, or in KL
that was not paid; setting two arms side by side at the same KL tells the two apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokengym.evaluation.statistics.curve import ROUND_KL, Curve
from tokengym.evaluation.statistics.scores import (
    DEFAULT_LEVEL,
    Array,
    PairedDifference,
    paired_difference,
)
from tokengym.evaluation.statistics.series import pooled_kl

COUNT = 5
"""Policies in a row whose mean is read."""
NEAR = 0.4
"""Share of the level within which each of them is: beyond it the frontier is no straight line."""
AT = 0.05
"""Share of the level by which their mean may be beside it and they are still at it."""
BESIDE = 0.25
"""Share of the level over which a slope may move them; farther off nothing is known."""
TELLS = (0.5, 1.6)
"""Shares of the level between which policies tell the slope."""
FLOOR = 0.2
"""Least share of the variance of KL that is taken for movement, not error."""
FEWEST_PAIRS = 3
"""Fewest pairs of runs, both measured at a KL, that are compared there."""
MIN_KL = 0.1
"""Least KL, nats per response, at which runs are compared. Nearer to the reference a policy has
hardly moved: its score differs from the untrained one's by sampling noise, and so does its KL from
0, which is a mean over a few hundred sampled responses."""


# --- one run at a KL ------------------------------------------------------------------------------


class There(NamedTuple):
    """A run where it is at a KL: the means of a stretch of its policies, and what tells a slope."""

    kl: float
    """Nats per response."""
    step: float
    """Step of the curve, an update or tokens."""
    value: float
    """The measurement."""
    told: Array
    """Sums of x^2, of x y and of the squared errors of x, x the KL and y the measurement of the
    policies near the level, each less its mean over them."""


def stretch(kl: Array, errors: Array, level: float, count: int = COUNT) -> slice | None:
    """Return the last stretch of policies at a KL; None where the run was not there.

    near_i: |kl_i - level| <= NEAR * level + 2 errors_i
    stretch: ``count`` near ones in a row, or a whole shorter row of two at least
    at the level: |mean kl - level| <= AT * level + 2 errors of the mean

    Where none is at it, the one whose mean is nearest, within BESIDE * level + 2 errors. A stretch
    is chosen by KL and time, never by what was measured there.

    Args:
        kl: (time,) nats per response, in the order of training.
        errors: (time,) its standard errors, see `pooled_kl`.
        level: Nats.
        count: Policies in a row whose mean is read.

    Example:
        >>> stretch(np.array([0, 1.2, 1.9, 2.2, 2.1, 4.0]), np.zeros(6), 2.0, 3)
        slice(2, 5, None)
    """
    near = np.abs(kl - level) <= NEAR * level + 2.0 * errors
    edges = np.flatnonzero(np.diff(np.concatenate([[False], near, [False]]).astype(int)))
    nearest, found = np.inf, None
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        width = min(count, int(last - first))
        for start in range(first, last - width + 1) if width > 1 else ():
            part = slice(int(start), int(start) + width)
            gap = abs(float(kl[part].mean()) - level)
            slack = 2.0 * float(np.sqrt(errors[part] @ errors[part])) / width
            beyond = 0.0 if gap <= AT * level + slack else gap
            if gap <= BESIDE * level + slack and beyond <= nearest:
                nearest, found = beyond, part
    return found


def there(curve: Curve, level: float, measure: str = "score", count: int = COUNT) -> There | None:
    """Return a run where it is at a KL, see `stretch`; None where it was not there.

    An end that was interpolated is no policy, and tells nothing.
    """
    own = slice(curve.cut[0], len(curve.steps) - curve.cut[1])
    kl, errors = (row[own] for row in pooled_kl(curve["kl"], curve.values.get(ROUND_KL)))
    steps, values = curve.steps[own], curve[measure][own]
    if (part := stretch(kl, errors, level, count)) is None:
        return None
    tells = (kl > TELLS[0] * level) & (kl < TELLS[1] * level)
    told = np.zeros(3)
    if (known := int(tells.sum())) > 1:
        x, y = (row[tells] - row[tells].mean() for row in (kl, values))
        told = np.array([x @ x, x @ y, (errors[tells] ** 2).sum() * (1.0 - 1.0 / known)])
    mean_kl, step, value = (float(row[part].mean()) for row in (kl, steps, values))
    return There(mean_kl, step, value, told)


def at_level(runs: Sequence[There], level: float) -> Array:
    """Return what each of an arm's runs has at a KL, as jackknife pseudo-values, (runs,).

    m(runs) = mean value - b (mean kl - level);  b = sum of x y / (sum of x^2 - errors of x^2)
    p_s = n m(all) - (n - 1) m(all but s)

    The slope b is that of the arm, each run about its own mean. The errors of KL, which would make
    it too flat, are taken off its divisor, of which `FLOOR` stays. Student's interval of the
    pseudo-values holds the error of the slope too, as each is estimated without a run.
    """
    kl, values = np.array([run.kl for run in runs]), np.array([run.value for run in runs])
    told = np.array([run.told for run in runs])

    def mean(keep: NDArray[np.bool_]) -> float:
        square, product, error = told[keep].sum(axis=0)
        slope = product / max(square - error, FLOOR * square) if square > 0.0 else 0.0
        return float(values[keep].mean() - slope * (kl[keep].mean() - level))

    count, every = len(runs), np.arange(len(runs))
    if count == 1:
        return np.array([mean(every >= 0)])
    without = np.array([mean(every != i) for i in every])
    return count * mean(every >= 0) - (count - 1) * without


# --- two arms at a KL -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EqualKL:
    """Two arms at one KL, over the pairs of runs that were both there."""

    kl: float
    """The level, nats per response."""
    own_kl: float
    """Mean KL of the policies of x that were read."""
    baseline_kl: float
    """Mean KL of those of y."""
    update: float
    """Mean update of the policies of x."""
    baseline_update: float
    """Mean update of those of y."""
    earlier: int
    """1 if x was there clearly earlier than y, -1 if later, 0 if neither is shown. Where it is not
    0 a lead may be one of training: a frontier may improve with it."""
    value: float
    """Mean of x, moved to the level."""
    baseline_value: float
    """Mean of y, moved to the level."""
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
    count: int = COUNT,
) -> EqualKL | None:
    """Return what two arms have at one KL, paired by seed; None below `FEWEST_PAIRS`.

    A run is read at the mean of a `stretch` of policies, which its arm's slope moves to the level,
    see `at_level`. A pair of which one was not there is left out.

    On runs of one frontier, hovering beside a level, rising through it or coming back to it, the
    95 % interval covers 0 in 92 to 97 of 100 comparisons of five pairs. Where the arms are held at
    1.7 and 2.3 and read at 2 it does in 91.

    Args:
        x: Runs by seed.
        y: Those of the baseline.
        kl: Nats; None takes the mean over the runs of y of their KL at the end.
        measure: Measurement that is compared, such as ``gold_score``.
        level: Confidence level of the interval, Student's t over pairs.
        count: Policies in a row whose mean is read.

    Raises:
        ValueError: if the arms share no seed, or the KL is not above 0.
    """
    if kl is not None and not kl > 0.0:
        raise ValueError(f"kl must be above 0 nats, got {kl:g}")
    seeds = sorted(x.keys() & y.keys())
    if not seeds:
        raise ValueError(f"the arms share no seed, got {sorted(x)} and {sorted(y)}")
    nats = float(np.mean([y[seed].end("kl") for seed in seeds])) if kl is None else kl
    both = both_there([(x[seed], y[seed]) for seed in seeds], nats, measure, count)
    if len(both) < FEWEST_PAIRS:
        return None
    own, base = zip(*both, strict=True)
    values, baseline_values = at_level(own, nats), at_level(base, nats)
    return EqualKL(
        kl=nats,
        own_kl=float(np.mean([run.kl for run in own])),
        baseline_kl=float(np.mean([run.kl for run in base])),
        update=float(np.mean([run.step for run in own])),
        baseline_update=float(np.mean([run.step for run in base])),
        earlier=earlier(both),
        value=float(values.mean()),
        baseline_value=float(baseline_values.mean()),
        difference=paired_difference(values, baseline_values, level),
        of=len(seeds),
    )


def both_there(
    pairs: Sequence[tuple[Curve, Curve]], level: float, measure: str = "score", count: int = COUNT
) -> list[tuple[There, There]]:
    """Return the pairs of runs that were both at a KL."""
    found = ([there(curve, level, measure, count) for curve in pair] for pair in pairs)
    return [(one, other) for one, other in found if one is not None and other is not None]


def earlier(both: Sequence[tuple[There, There]]) -> int:
    """Return 1 if x was at a KL at clearly earlier steps than y, -1 if at later ones, else 0."""
    ahead = paired_difference(*np.array([[run.step for run in pair[::-1]] for pair in both]).T)
    return int(np.sign(ahead.difference)) if ahead.p_value < 1.0 - DEFAULT_LEVEL else 0
