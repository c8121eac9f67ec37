"""Learning curves of runs: read from and written to CSV, and put on common steps.

A CSV has the columns credit, seed, step, score; those that `measurements` names are further
measurements, and any other column groups, so that runs of different settings stay apart. What other
tools log is read by `reading`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokengym.base.files import write_csv
from tokengym.envs import printable
from tokengym.evaluation.measure.measures import AXES, UNSCORED, Axis, measures_of
from tokengym.evaluation.report.reading import NEEDED, PARTS, Source, Table, read_table
from tokengym.evaluation.statistics import Array, Curve, leaps
from tokengym.evaluation.statistics.curve import ROUND_KL, GroupKey, scored_alike
from tokengym.evaluation.statistics.series import final_points

SPENT = tuple(name for name in AXES if name != "step")
"""Columns of what a run has spent besides updates: response tokens, scorer calls, seconds."""
OF_TRAINING = ("train_score", "train_kl", ROUND_KL)
"""Measurements by the batches of training, which the first or the last policy has not."""
LARGEST = 3.4e38
"""Largest number of a cell, that of float32, which scores are."""
SETTING = "setting "
"""Beginning of the column of a setting that has the name of a measurement or of a part of an arm,
or one like an error."""
ERROR = "_se"
"""End of the names of standard errors, such as ``score_se``; no setting has one."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def measurements() -> tuple[str, ...]:
    """Return the measurements that are columns of curves.csv, in order.

    They are asked for when a table is read or written: a package or a caller may have registered
    one since this module was imported.
    """
    return tuple(name for name, measure in measures_of(False).items() if measure.recorded)


def curve_columns() -> tuple[str, ...]:
    """Return the columns of a curves.csv that a comparison writes, in order."""
    return ("credit", "seed", "step", "tokens", "episodes", *measurements(), "wall_s")


@dataclass(frozen=True, kw_only=True)
class Runs:
    """All runs of one reward, whole and on common steps."""

    curves: tuple[Curve, ...]
    """The runs, by rising seed, each as long as it is."""
    steps: Array
    """(time,): every step at which a run of the panel was evaluated, within what all of these runs
    cover."""
    values: Mapping[str, Array]
    """Per measurement that every run of the reward has: (runs, time), interpolated linearly between
    a run's own evaluations."""

    @classmethod
    def of(cls, curves: Sequence[Curve], grid: Array) -> "Runs":
        """Return runs on the steps of a grid that all of them cover."""
        first = max(curve.steps[0] for curve in curves)
        last = min(curve.steps[-1] for curve in curves)
        steps = grid[(grid >= first) & (grid <= last)]
        names = [n for n in curves[0].values if all(curve.has(n) for curve in curves)]
        values = {
            name: np.stack([np.interp(steps, curve.steps, curve.values[name]) for curve in curves])
            for name in names
        }
        return cls(curves=tuple(curves), steps=steps, values=values)

    @property
    def by_seed(self) -> dict[int, Curve]:
        """The runs by their seeds."""
        return {curve.seed: curve for curve in self.curves}

    @property
    def own_steps(self) -> NDArray[np.bool_]:
        """Which of the steps the first run was evaluated at itself, (time,)."""
        return np.isin(self.steps, self.curves[0].steps)

    @property
    def at_end(self) -> NDArray[np.bool_]:
        """Steps that are a final evaluation of a run, (time,): of its last tenth."""
        end = np.zeros(len(self.steps), dtype=bool)
        for curve in self.curves:
            steps = curve.between(self.steps[0], self.steps[-1]).steps
            end |= np.isin(self.steps, steps[-final_points(len(steps)) :])
        return end

    @property
    def gaps(self) -> NDArray[np.bool_]:
        """Where the drawn path over the KL leaps in one update, (time - 1,); see `leaps`."""
        made = self.values.get("step")  # of curves over tokens
        updates = self.steps if made is None else made.mean(axis=0)
        return leaps(updates, self.values["kl"].mean(axis=0))

    def figures(self, measure: str, kind: str) -> Array:
        """Return a number of each run, (runs,), in the measurement's unit; see `Curve.figure`."""
        return np.array([curve.figure(measure, kind) for curve in self.curves])


@dataclass(frozen=True)
class Late:
    """Runs of a reward that were first evaluated after others had been."""

    credit: str
    step: float
    """Where they begin."""
    seeds: Sequence[int] | None
    """Their seeds; None where the reward has no others."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Every reward's runs in one setting."""

    group: GroupKey
    """Values that set this setting apart; () where there is one."""
    steps: Array
    """(time,): every step at which a run was evaluated, within what all runs cover."""
    rewards: Mapping[str, Runs]
    """In the order of the comparison."""
    measures: tuple[str, ...]
    """Measurements that a reward has, ``score`` first; another may lack some of them."""
    lost: Mapping[str, tuple[str, ...]]
    """Rewards without each measurement that some run has, in words: by name, with the first run and
    step that lack it where others have it."""
    cut_at: float | None
    """The last step of the shortest run, where others are longer; None where all are alike."""
    longest: float
    """The last step of the longest run."""
    shortest: str
    """The reward of the shortest."""
    late: tuple["Late", ...]
    """Runs that were first evaluated after others had been."""
    start: float
    """Mean score at the first evaluation, of the runs that begin earliest."""
    ended_early: Mapping[str, tuple[int, ...]]
    """Per reward whose runs end apart the seeds of those that end before its longest."""

    def measured(self, *rewards: Runs) -> list[str]:
        """Return the measurements that all of these rewards have."""
        return [m for m in self.measures if all(m in runs.values for runs in rewards)]


def read_curves(
    source: Source,
    *,
    group_by: Sequence[str] | None = None,
    score: str | None = None,
    name: str | None = None,
    seed: int | None = None,
) -> list[Curve]:
    """Read learning curves that were made here or by another tool, see `reading`.

    Args:
        source: A file, a run's folder, a frame, or a list of rows. A CSV of ours has a header, see
            the module's docstring for its columns.
        group_by: Columns to group by; None takes all that are no known measurement.
        score: Column with the score; None takes score, or the one that is known of other tools.
        name: Name of the runs of another tool, with or without a seed at its end, in place of that
            of their folder.
        seed: Their seed, likewise.

    Returns:
        One curve per group, credit and seed, in the order of their first row.

    Raises:
        ValueError: if the file is missing, lacks a column or has it twice, holds text in place of
            a number, a step below 0 or no name of a credit, has two rows for one step of a run, or
            would be grouped by a column that changes in the course of a run.
    """
    return curves_of(read_table(source, score=score, name=name, seed=seed), group_by=group_by)


def curves_of(table: Table, *, group_by: Sequence[str] | None = None) -> list[Curve]:
    """Return the curves of a table; see `read_curves`."""
    path, header, rows = table.label, table.header, table.rows
    if table.names and group_by:
        raise ValueError(f"{path} has no columns to group by {', '.join(group_by)}; leave it out")
    known = {*SPENT, *measurements()}
    taken = {*NEEDED, *known}
    # What is no measurement is a setting: runs of different ones must not be averaged.
    groups = [name for name in header if not (name in taken or name.endswith(ERROR))]
    groups = groups if group_by is None else list(group_by)
    if reserved := [name for name in groups if name.endswith(ERROR)]:
        raise ValueError(
            f"{path}: {', '.join(reserved)} cannot group, as names that end in {ERROR} are "
            "those of standard errors; rename it"
        )
    for name in (*NEEDED, *groups):
        if name not in header:
            raise ValueError(
                f"{path} has no column {name!r}, only {', '.join(header)}; rename one "
                "(needed: credit, seed, step, score)"
            )
    measured = [name for name in header if name.removesuffix(ERROR) in known]
    shown = {printable(name): name for name in groups}
    if len(shown) < len(groups):
        raise ValueError(f"{path} has two columns whose names print alike: {', '.join(shown)}")
    runs: dict[tuple[GroupKey, str, int], dict[float, dict[str, float]]] = {}
    for number, row in rows:
        # Where it is empty the run has no such setting, as those of other learners.
        group = tuple((name, printable(row[raw])) for name, raw in shown.items() if row[raw])
        credit = printable(from_cell(row["credit"]))
        run_seed = int(_number(table, number, row, "seed"))
        points = runs.setdefault((group, credit, run_seed), {})
        step = _number(table, number, row, "step")
        if step in points:
            raise ValueError(
                f"{path} line {number} is a second row for step {step:.10g} of credit "
                f"{credit!r}, seed {run_seed}; a column that sets them apart groups them"
            )
        values = {name: _number(table, number, row, name, empty=True) for name in measured}
        points[step] = {"step": step, **values}
    progress = [name for name in shown if _is_progress(name, runs)] if group_by is None else []
    if progress:
        raise ValueError(
            f"{path}: {', '.join(progress)} changes in the course of a run, and grouped by it runs "
            "fall apart; name the columns that group with --group-by, the others are then left "
            "aside"
        )
    return [
        Curve.of(
            [points[step] for step in sorted(points)],
            measured,
            credit=credit,
            seed=run_seed,
            group=tuple((name.removeprefix(SETTING), value) for name, value in group),
        )
        for (group, credit, run_seed), points in runs.items()
    ]


def _is_progress(
    column: str, runs: Mapping[tuple[GroupKey, str, int], Mapping[float, object]]
) -> bool:
    """Return whether a column tells where a run is, as an epoch does, and sets no runs apart.

    Runs of two settings have steps in common, the first at least; parts of one run have none. Runs
    with all other columns alike tell, or all runs, as several columns may change together.
    """
    for keep_others in (True, False):
        runs_parts: dict[tuple[object, ...], dict[str, set[float]]] = {}
        for (group, credit, seed), points in runs.items():
            others = tuple(pair for pair in group if keep_others and pair[0] != column)
            parts = runs_parts.setdefault((others, credit, seed), {})
            parts.setdefault(dict(group).get(column, ""), set()).update(points)
        parted = [list(parts.values()) for parts in runs_parts.values() if len(parts) > 1]
        if parted and all(a.isdisjoint(b) for parts in parted for a, b in combinations(parts, 2)):
            return True
    return False


def curve_of(
    points: Sequence[Mapping[str, Any]], *, credit: str, seed: int, group: GroupKey = ()
) -> Curve:
    """Return the curve of one run from its measurements."""
    known = {*SPENT, *measurements()}
    measured = [name for name in points[0] if name in known]
    return Curve.of(points, measured, credit=credit, seed=seed, group=group)


def write_curves(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write a comparison's rows atomically: `curve_columns`, then the columns of their groups."""
    named = [{**row, "credit": to_cell(str(row["credit"]))} for row in rows]
    ours = curve_columns()
    others = dict.fromkeys(name for row in named for name in row if name not in ours)
    write_csv(path, named, [*filled(ours, named), *others])


def filled(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the columns of a table, `UNSCORED` only where responses have no score."""
    has_missing = any(row.get(UNSCORED) for row in rows)
    return [column for column in columns if column != UNSCORED or has_missing]


def to_cell(text: str) -> str:
    """Return a text as a CSV cell that no spreadsheet takes for a formula.

    Example:
        >>> to_cell("=1+1"), to_cell("abc")
        ("'=1+1", 'abc')
    """
    # Quotes in front count too, or the cell of a text that begins with one could not be read again.
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text


def from_cell(text: str) -> str:
    """Return the text of a cell that `to_cell` wrote."""
    quoted = text.startswith("'") and text.lstrip("'").startswith(_FORMULA)
    return text[1:] if quoted else text


TASK = "task"
"""Name of the setting that sets groups of different tasks apart."""


def group_label(group: GroupKey) -> str:
    """Return a group in words, such as ``Detox, max_new_tokens 15``; a task is its own title."""
    return ", ".join(value if name == TASK else f"{name} {value}" for name, value in group)


def columns_of(group: GroupKey) -> dict[str, str]:
    """Return the columns of curves.csv by which a group is read again.

    Example:
        >>> columns_of((("kl_coef", "0.1"), ("tokens", "9000")))  # tokens are a measurement
        {'kl_coef': '0.1', 'setting tokens': '9000'}
    """
    taken = {*curve_columns(), *PARTS}
    return {
        f"{SETTING}{name}" if name in taken or name.endswith(ERROR) else name: value
        for name, value in group
    }


NEAR_END = 0.05
"""Share of the longest run by which a budget in tokens may be shorter: learners end an update
apart."""


def make_panels(
    curves: Sequence[Curve], *, kl_coef: float | None = None, axis: Axis = "step"
) -> list[Panel]:
    """Group curves by setting, and put each reward's on common steps to draw them.

    Between its own evaluations a run is interpolated linearly. Where the KL was measured and
    ``kl_coef`` is given, ``net_score`` = score - kl_coef * kl is added: the objective of a PPO with
    that coefficient.

    Args:
        curves: Runs; those with a fault (`Curve.invalid`) are left out, and steps without a score
            as in `scored_alike`.
        kl_coef: The KL coefficient the runs trained with.
        axis: Unit of their steps.

    Raises:
        ValueError: if a run appears twice, or the runs of a group share fewer than two steps.
    """
    groups: dict[GroupKey, list[Curve]] = {}
    for curve in scored_alike(curves):
        groups.setdefault(curve.group, []).append(curve)
    return [_panel(group, members, kl_coef, axis) for group, members in groups.items()]


def on_axis(curves: Sequence[Curve], axis: Axis) -> list[Curve]:
    """Return the curves, in steps, by what they are compared at equal amounts of."""
    return [curve.over_tokens() if axis == "tokens" else curve for curve in curves]


def counts_tokens(curve: Curve) -> bool:
    """Return whether a run's steps are its tokens, as those of Stable-Baselines3's logs are."""
    return len(curve.steps) > 1 and np.array_equal(curve.steps, curve.values.get("tokens", ()))


def _panel(group: GroupKey, curves: Sequence[Curve], kl_coef: float | None, axis: Axis) -> Panel:
    grid = np.unique(np.concatenate([curve.steps for curve in curves]))
    rewards: dict[str, Runs] = {}
    for credit in dict.fromkeys(curve.credit for curve in curves):
        runs = sorted((c for c in curves if c.credit == credit), key=lambda c: c.seed)
        seeds = [curve.seed for curve in runs]
        if len(set(seeds)) < len(seeds):
            twice = next(seed for seed in seeds if seeds.count(seed) > 1)
            raise ValueError(
                f"credit {credit!r} has two runs with seed {twice}; merge only runs of different "
                "rewards or seeds"
            )
        if kl_coef is not None and all(run.has("kl") for run in runs):
            runs = [run.priced(kl_coef) for run in runs]
        rewards[credit] = Runs.of(runs, grid)
    shortest = min(curves, key=lambda curve: curve.steps[-1])
    first, last = max(float(curve.steps[0]) for curve in curves), float(shortest.steps[-1])
    shared = grid[(grid >= first) & (grid <= last)]
    if len(shared) < 2:
        raise ValueError(
            f"the runs share {len(shared)} steps (from {first:.10g} to {last:.10g}); a curve "
            "needs at least two evaluations within the budget of the shortest run"
        )
    longest = max(float(curve.steps[-1]) for curve in curves)
    earliest = min(float(curve.steps[0]) for curve in curves)
    known = dict.fromkeys(name for runs in rewards.values() for name in runs.values)
    measured = [name for name in known if name not in AXES and not name.endswith(ERROR)]
    measured.sort(key=lambda name: name != "score")
    return Panel(
        group=group,
        steps=shared,
        rewards=rewards,
        measures=tuple(measured),
        lost=_lost(curves, rewards),
        cut_at=last if longest > last else None,
        longest=longest,
        shortest=shortest.credit,
        late=tuple(one for runs in rewards.values() for one in _late(runs.curves, earliest)),
        start=float(np.mean([c.values["score"][0] for c in curves if c.steps[0] == earliest])),
        ended_early={
            name: early
            for name, runs in rewards.items()
            if (early := _ended_early(runs.curves, axis))
        },
    )


def _late(curves: Sequence[Curve], earliest: float) -> list[Late]:
    """Return which of a reward's runs begin after the earliest of all, by where they begin."""
    seeds: dict[float, list[int]] = {}
    for curve in curves:
        seeds.setdefault(float(curve.steps[0]), []).append(curve.seed)
    return [
        Late(curves[0].credit, step, None if len(seeds) == 1 else of)
        for step, of in sorted(seeds.items())
        if step > earliest
    ]


def _ended_early(curves: Sequence[Curve], axis: str) -> tuple[int, ...]:
    """Return the seeds of the runs that end before the longest of one reward.

    They had its budget, and may have ended because of what they did: as they collapsed. Whole
    updates use up a budget in tokens, so that its runs end as far apart as an update is dear.
    """
    longest = max(curve.steps[-1] for curve in curves)
    near = 0.0
    if axis == "tokens":
        near = max(NEAR_END * longest, *(_tokens_of_update(curve) for curve in curves))
    return tuple(curve.seed for curve in curves if longest - curve.steps[-1] > near)


def _tokens_of_update(curve: Curve) -> float:
    """Return the tokens of the dearest update of a curve over tokens; 0 where none is known."""
    if "step" not in curve.values or len(curve.steps) < 2:
        return 0.0
    updates = np.diff(curve.values["step"])
    return float((np.diff(curve.steps)[updates > 0] / updates[updates > 0]).max(initial=0.0))


def _lost(curves: Sequence[Curve], rewards: Mapping[str, Runs]) -> dict[str, tuple[str, ...]]:
    """Return which rewards lack each measurement that some run has; see `Panel.lost`."""
    lost: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(name for curve in curves for name in curve.values):
        # The figures of training's batches are no measurement of the first or the last policy.
        is_expected = not (name in OF_TRAINING or name in AXES or name.endswith(ERROR))
        is_known = any(np.isfinite(c.values[name]).any() for c in curves if name in c.values)
        lacking = {of: runs.curves for of, runs in rewards.items() if name not in runs.values}
        if lacking and is_expected and is_known:
            lost[name] = tuple(_hole(name, of, runs) for of, runs in lacking.items())
    return lost


def _hole(name: str, credit: str, runs: Sequence[Curve]) -> str:
    """Return a reward, with the first of its runs, and its step, that lack a measurement.

    Of one that was never measured there is no such step.
    """
    if not any(np.isfinite(run.values[name]).any() for run in runs if name in run.values):
        return credit
    run, step = next((run, run.nan_step(name)) for run in runs if not run.has(name))
    return f"{credit} (seed {run.seed}, step {step:.10g})"


def _number(
    table: Table, line: int, row: Mapping[str, str], column: str, *, empty: bool = False
) -> float:
    """Return a cell as a number; with ``empty`` a missing or non-finite one is let through."""
    text, said = row[column], f"{table.label} line {line}: {table.names.get(column, column)}"
    if empty and text.strip().lower() in ("", "na", "none", "null"):
        return math.nan
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{said} must be a number, got {text!r}") from None
    if not empty and not math.isfinite(value):
        raise ValueError(f"{said} must be finite, got {text!r}")
    if column == "seed" and value != int(value):
        raise ValueError(f"{said} must be a whole number, got {text!r}")
    if column == "step" and value < 0:
        raise ValueError(f"{said} must be at least 0, got {text!r}")
    if math.isfinite(value) and abs(value) > LARGEST:
        raise ValueError(f"{said} must be within {LARGEST:.2g} of 0, got {text!r}")
    return value
