"""The learning curve of one run: its measurements by steps, and the figures that are read off it.

The report, the laboratory and the studies all ask `Curve` for what they compare: means over a run,
ends, and pairs of runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import numpy as np

from tokengym.evaluation.statistics.scores import Array
from tokengym.evaluation.statistics.series import (
    area_under_curve,
    error_of_mean,
    figure_weights,
    final_mean,
    final_points,
)

NET = "net_score"
"""Measurement score - c KL, see `Curve.priced`."""
ROUND_KL = "round_kl"
"""Measurement of the KL by the round that a policy sampled after its evaluation."""
SPARSER = 1.5
"""Times as many evaluations as another run has, from which a run is read at the other's steps."""
NUMBERS = (Real, type(None))
"""Types of a measurement, None where it was not taken."""
GroupKey = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One run: its measurements at each evaluation.

    Raises:
        ValueError: if the arrays differ in length, or steps fall.
    """

    steps: Array
    """(time,) updates, rising; of a curve over tokens those, with the updates as ``step``."""
    values: Mapping[str, Array]
    """Per measurement (time,); NaN where it was not taken. ``score`` is always present."""
    credit: str = ""
    """The reward it trained with."""
    seed: int = 0
    """Its seed; runs of different rewards with one seed are pairs."""
    group: GroupKey = ()
    """Settings that set it apart, as (column, value) pairs; () where there is one setting."""
    responses: Mapping[str, Array] = field(default_factory=dict)
    """Per measurement of single responses (time, prompts), NaN where there is none; {} where they
    were not kept. Runs of one seed have the same prompts."""
    is_weighed: bool = True
    """Whether its end is held against the best of a few untrained responses: that of best-of-n is
    not, nor one whose scorer cannot read the responses."""
    cut: tuple[int, int] = (0, 0)
    """Points at its start and at its end that were interpolated, where `between` cut it: no policy
    was measured there."""

    def __post_init__(self) -> None:
        shapes = [np.shape(row) for row in (self.steps, *self.values.values())]
        if len(shapes[0]) != 1 or len({*shapes}) > 1:
            raise ValueError(f"steps and values must be (time,) alike, got {shapes}")
        if (np.diff(self.steps) < 0.0).any():
            raise ValueError(f"steps must not fall, got {self.steps}; sort the evaluations")

    @classmethod
    def of(
        cls,
        rows: Sequence[Mapping[str, Any]],
        measures: Iterable[str] | None = None,
        *,
        credit: str = "",
        seed: int = 0,
        group: GroupKey = (),
    ) -> "Curve":
        """Return the curve of rows, one for each evaluation, in order.

        Args:
            rows: Each with ``step``, and None where something was not measured.
            measures: Columns to take; None takes all that hold numbers.
            credit: The reward the run trained with.
            seed: Its seed.
            group: Settings that set it apart.
        """
        if measures is None:
            # Asked once a type: of each value, `Real`, an abstract class, takes most of the time.
            kinds = {name: {type(row[name]) for row in rows} for name in rows[0]}
            measures = [n for n, of in kinds.items() if all(issubclass(k, NUMBERS) for k in of)]
        columns = {  # None becomes NaN
            name: np.array([row[name] for row in rows], dtype=np.float64)
            for name in ("step", *measures)
        }
        steps = columns.pop("step")
        return cls(steps=steps, values=columns, credit=credit, seed=seed, group=group)

    def __getitem__(self, name: str) -> Array:
        """Return a measurement, (time,)."""
        return self.values[name]

    # --- what it has ------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Return whether a measurement was taken at every step."""
        return self.nan_step(name) is None

    def nan_step(self, name: str) -> float | None:
        """Return the first step at which a measurement was not taken, or None."""
        values = self.values.get(name, np.full(len(self.steps), np.nan))
        missing = self.steps[~np.isfinite(values)]
        return float(missing[0]) if len(missing) else None

    @property
    def updates(self) -> Array:
        """(time,) updates at which it was measured, also of a curve over tokens."""
        return self.values.get("step", self.steps)

    @property
    def unscored(self) -> Array:
        """Updates at which the score was not measured."""
        return self.updates[np.isnan(self.values["score"])]

    def invalid(self) -> str | None:
        """Return why the run cannot enter statistics, or None.

        A score that is missing inside the run is none: its step is left out, see `without`. One
        that is missing at the start or among the last tenth is, as another would take its place.
        """
        scores = self.values["score"]
        ends = np.zeros(len(scores), dtype=bool)
        ends[:1] = ends[-final_points(len(scores)) :] = True
        for step, score, is_end in zip(self.steps, scores, ends, strict=True):
            if np.isinf(score):
                return f"score is {score} at step {step:.10g}"
            if np.isnan(score) and is_end:
                where = "its first" if step == self.steps[0] else "at its end"
                return f"score is missing at step {step:.10g}, {where}"
        return None

    # --- other curves of the run ------------------------------------------------------------------

    def over_tokens(self) -> "Curve":
        """Return the curve over response tokens, as learners are compared; ``step`` is kept.

        Raises:
            ValueError: if the tokens are not known at every step, or fall.
        """
        if not self.has("tokens") or not (np.diff(self.values["tokens"]) >= 0.0).all():
            named = f" of {self.credit}, seed {self.seed}," if self.credit else ""
            raise ValueError(
                f"the tokens{named} are not known at every step, or fall, so that runs cannot be "
                "compared at equal tokens; take axis step"
            )
        return replace(
            self, steps=self.values["tokens"], values={**self.values, "step": self.steps}
        )

    def without(self, updates: Iterable[float]) -> "Curve":
        """Return the curve without its measurements at some updates.

        Its first and those of its end, the last tenth, stay.

        Example:
            >>> rows = [{"step": s, "score": y} for s, y in ((0, 0.0), (1, None), (3, 3.0))]
            >>> Curve.of(rows).without([1, 3]).area()
            1.5
        """
        keep = ~np.isin(self.updates, list(updates))
        keep[:1] = keep[-final_points(len(keep)) :] = True
        if keep.all():
            return self
        values, responses = (
            {name: rows[keep] for name, rows in table.items()}
            for table in (self.values, self.responses)
        )
        return replace(self, steps=self.steps[keep], values=values, responses=responses)

    def priced(self, price: float) -> "Curve":
        """Return the curve with ``net_score`` = score - price * KL, where the KL is known.

        It is the objective of a PPO with that coefficient, and what the protocol compares.

        Example:
            >>> rows = [{"step": 0, "score": 0.0, "kl": 0.0}, {"step": 10, "score": 1.0, "kl": 2.0}]
            >>> Curve.of(rows).priced(0.1).area("net_score")
            0.4
        """
        if "kl" not in self.values:
            return self
        values, responses = (
            {**table, NET: table["score"] - price * table["kl"]} if "kl" in table else table
            for table in (self.values, self.responses)
        )
        return replace(self, values=values, responses=responses)

    def between(self, first: float, last: float) -> "Curve":
        """Return the part between two steps; its ends are interpolated linearly in steps.

        Ends that were interpolated are for means over equal steps. A run that covers less stays as
        it is.

        Raises:
            ValueError: if no policy was measured between them.
        """
        if first <= self.steps[0] and last >= self.steps[-1]:
            return self
        first, last = max(first, self.steps[0]), min(last, self.steps[-1])
        if not first < last:
            raise ValueError(
                f"the end must be above {first:.10g} steps, got {last:.10g}: no policy was "
                "measured within it"
            )
        inside = self.steps[(self.steps > first) & (self.steps < last)]
        at = np.concatenate([[first], inside, [last]])
        values = {name: np.interp(at, self.steps, row) for name, row in self.values.items()}
        cut = int(first not in self.steps), int(last not in self.steps)
        return replace(self, steps=at, values=values, responses={}, cut=cut)

    def at(self, steps: Array) -> "Curve":
        """Return the curve at these steps within its own, between which it is interpolated."""
        if np.array_equal(steps, self.steps):
            return self
        keep = np.isin(self.steps, steps)
        if np.array_equal(self.steps[keep], steps):
            values, responses = (
                {name: rows[keep] for name, rows in table.items()}
                for table in (self.values, self.responses)
            )
            return replace(self, steps=steps, values=values, responses=responses)
        values = {name: np.interp(steps, self.steps, row) for name, row in self.values.items()}
        return replace(self, steps=steps, values=values, responses={})

    def carried(self, last: float) -> "Curve":
        """Return the curve with its last values carried forward to a step, if it ends before.

        Example:
            >>> rows = [{"step": 0, "score": 0.0}, {"step": 10, "score": 1.0}]
            >>> Curve.of(rows).carried(30).area()  # .5 for 10 steps, then 1 for 20
            0.8333333333333334
        """
        if last <= self.steps[-1]:
            return self
        values = {name: np.append(row, row[-1]) for name, row in self.values.items()}
        return replace(self, steps=np.append(self.steps, last), values=values, responses={})

    # --- figures ----------------------------------------------------------------------------------

    def area(self, measure: str = "score") -> float:
        """Return a measurement's mean over the steps of the run, by the trapezoid rule."""
        at = np.unique(self.steps)  # several evaluations may have seen as many tokens
        return area_under_curve(at, np.interp(at, self.steps, self[measure]), normalize=True)

    def end(self, measure: str = "score") -> float:
        """Return a measurement at the end of the run, the mean of its last tenth."""
        return final_mean(self[measure][self.cut[0] :])

    def figure(self, measure: str, kind: str) -> float:
        """Return a number of the run.

        ``start`` its first measurement, ``auc`` its mean over the run, ``gain`` this less its
        start, ``final`` the mean at its end.
        """
        if kind == "final":
            return self.end(measure)
        start = float(self[measure][0])
        if kind == "start":
            return start
        return self.area(measure) - start * (kind == "gain")

    def of_prompts(self, measure: str, kind: str) -> Array | None:
        """Return a number of the run for each prompt, (prompts,); None where it was not kept.

        A mean over the run and one at its end are linear in the responses, so that the error of
        either is that of one number for each prompt. A response without a value is left out of its
        prompt's number.
        """
        if (table := self.responses.get(measure)) is None:
            return None
        weights = figure_weights(self.steps, kind)[:, None] * np.isfinite(table)
        with np.errstate(invalid="ignore"):
            means: Array = (weights * np.nan_to_num(table)).sum(axis=0) / weights.sum(axis=0)
        return means

    def error(self, measure: str, kind: str) -> float | None:
        """Return the standard error of measuring of a number of the run, over its prompts."""
        of_prompts = self.of_prompts(measure, kind)
        return None if of_prompts is None else error_of_mean(of_prompts)


def scored_alike(curves: Iterable[Curve]) -> list[Curve]:
    """Return the curves that are valid, each where all runs of its seed and group were scored.

    A score that one arm lacks is left out of the others' too, so that pairs have the same steps. An
    arm whose first or last measurements are there keeps them.
    """
    sound = [curve for curve in curves if not curve.invalid()]
    unscored: dict[tuple[GroupKey, int], set[float]] = {}
    for curve in sound:
        unscored.setdefault((curve.group, curve.seed), set()).update(curve.unscored.tolist())
    return [curve.without(unscored[curve.group, curve.seed]) for curve in sound]


def pairs(x: Mapping[int, Curve], y: Mapping[int, Curve]) -> list[tuple[Curve, Curve]]:
    """Return the runs of the seeds that both arms have, each pair over the steps that both reached.

    Runs may differ in length: a pair loses only what one of its two lacks, whatever others have.

    Args:
        x: Runs by seed.
        y: Those of the other arm.

    Raises:
        ValueError: if two runs share no steps.
    """
    both = []
    for seed in sorted(x.keys() & y.keys()):
        one, other = x[seed], y[seed]
        first = max(one.steps[0], other.steps[0])
        last = min(one.steps[-1], other.steps[-1])
        if not first < last:
            raise ValueError(
                f"the runs of {one.credit} and {other.credit}, seed {seed}, share no two "
                f"steps (from {first:.10g} to {last:.10g}); a pair needs a budget that both have "
                "reached"
            )
        both.append((one.between(first, last), other.between(first, last)))
    return both


def on_one_grid(curves: Sequence[Curve]) -> list[Curve]:
    """Return runs that cover the same steps at steps that are alike, where theirs are unlike.

    On a rise that slows down the mean by trapezoids is too low, the more so the fewer the
    evaluations, and a tenth of few evaluations is a later end than a tenth of many. So runs that
    were evaluated at unlike steps would differ by that alone. They are taken at the steps that all
    of them have, if those are at least half of the fewest; else, where one has `SPARSER` times as
    many evaluations as another, at the steps of the one with the fewest, the others interpolated
    linearly; else, as of runs over tokens that are measured as often, each at its own. The first
    and the last step, which runs that cover the same have in common, do not count.

    Example:
        >>> often = Curve(steps=np.arange(5.0), values={"score": np.array([0.0, 3, 4, 4, 4])})
        >>> seldom = Curve(steps=np.array([0.0, 2, 4]), values={"score": np.array([0.0, 4, 4])})
        >>> [curve.area() for curve in (often, seldom, *on_one_grid([often, seldom]))]
        [3.25, 3.0, 3.0, 3.0]
    """
    fewest = min((curve.steps for curve in curves), key=len)
    if all(np.array_equal(curve.steps, fewest) for curve in curves):
        return list(curves)
    common = fewest[np.all([np.isin(fewest, curve.steps) for curve in curves], axis=0)]
    if 2 * (len(common) - 2) >= len(fewest) - 2:
        return [curve.at(common) for curve in curves]
    if max(len(curve.steps) for curve in curves) >= SPARSER * len(fewest):
        return [curve.at(fewest) for curve in curves]
    return list(curves)
