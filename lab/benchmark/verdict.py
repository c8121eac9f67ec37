"""The board's verdict: a rule's lead on a task that was not among those of the board.

The estimand is the mean lead in score - c KL over the run, over tasks of the kind of which the
board's are a sample. So the tasks are the sample that is tested, and not the seeds: on a few fixed
tasks any rule that is not equal to the baseline is clearly ahead or behind, if it has enough seeds.
What holds on these tasks alone is said in those words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from tokengym.evaluation.report import number
from tokengym.evaluation.statistics import (
    DEFAULT_LEVEL,
    Curve,
    holm,
    student_interval,
)
from tokengym.lab.protocol import PRICE, chosen_on_others
from tokengym.lab.tables import CLEAR

POWER = 0.8
"""Chance with which a lead is seen that `detectable_lead` returns."""
MORE_TASKS = 16
"""Tasks of the board that is named as more informative."""
Arm: TypeAlias = Mapping[Any, Mapping[int, Curve]]
"""Tuned cell (rate, lambda, price) -> seed -> run. An arm of one cell has one entry."""


@dataclass(frozen=True, kw_only=True)
class Leads:
    """An arm's leads on the baseline in one setting, shares of the way to best of 16."""

    net: tuple[float, ...]
    """By seed: score - c KL over the run, up to the tokens that both runs have."""
    score: tuple[float, ...]
    """By seed: the part of it that is score; what is left is KL that was not paid."""


@dataclass(frozen=True, kw_only=True)
class Calls:
    """What a board's tests say of its rows; arrays are (..., rows)."""

    mean: NDArray[np.float64]
    """Mean lead over the tasks that are known."""
    low: NDArray[np.float64]
    """Lower end of its t interval over tasks, uncorrected."""
    high: NDArray[np.float64]
    """Upper end."""
    p_value: NDArray[np.float64]
    """p-value after Holm's correction over all rows."""
    ahead: NDArray[np.bool_]
    """Whether the lead is above 0 after the correction."""
    behind: NDArray[np.bool_]
    """Whether it is below."""


def call(leads: ArrayLike, level: float = DEFAULT_LEVEL) -> Calls:
    """Test rows over tasks: Student's t of each row's leads, corrected over the rows by Holm.

    t = mean over known tasks / (deviation over them / sqrt(their number))

    A task that is not known is NaN and left out of its row; a row with fewer than two tasks counts
    as a test without a finding.

    Args:
        leads: (..., rows, tasks), of each task the mean over its seeds and settings.
        level: Confidence level, in (0, 1).

    Example:
        >>> call([[4.0, 5.0, 6.0, np.nan], [4.0, -5.0, 1.0, 0.0]]).ahead.tolist()
        [True, False]
    """
    table, alpha = np.asarray(leads, dtype=np.float64), 1.0 - level
    known = np.isfinite(table)
    figures = np.full((4, *table.shape[:-1]), np.nan)  # mean, low, high, p-value
    figures[3] = 1.0
    for count in np.unique(known.sum(axis=-1)):
        if count > 1:
            rows = known.sum(axis=-1) == count
            values = table[rows][known[rows]].reshape(-1, count)
            figures[:, rows] = student_interval(values, level)
    mean, low, high, p_value = figures
    adjusted = holm(p_value)
    return Calls(
        mean=mean,
        low=low,
        high=high,
        p_value=adjusted,
        ahead=np.asarray((adjusted < alpha) & (mean > 0)),
        behind=np.asarray((adjusted < alpha) & (mean < 0)),
    )


def detectable_lead(
    spread: float, tasks: int, rows: int, *, power: float = POWER, level: float = DEFAULT_LEVEL
) -> float:
    """Return the mean lead that `call` finds with a given chance, if no other row has one.

    power = P(T > t_{tasks - 1, 1 - (1 - level) / (2 rows)}),  T noncentral t with tasks - 1
        degrees of freedom and noncentrality lead * sqrt(tasks) / spread

    Args:
        spread: Deviation of a row's leads over tasks, noise of the seeds included.
        tasks: Tasks of the board.
        rows: Rows that are corrected together; Holm's first step asks for 1 / rows of the level.
        power: The chance, in (0, 1).
        level: Confidence level, in (0, 1).

    Example:
        >>> round(detectable_lead(1.0, tasks=8, rows=1), 2)
        1.16
    """
    freedom = tasks - 1
    critical = stats.t.ppf(1.0 - (1.0 - level) / (2.0 * rows), freedom)
    shift = optimize.brentq(
        lambda shift: stats.nct.sf(critical, freedom, shift) - power, 0.0, 4.0 * critical + 10.0
    )
    return float(shift * spread / np.sqrt(tasks))


def spread_of(leads: Mapping[str, ArrayLike]) -> tuple[float, float]:
    """Return the deviation of a row's leads over tasks, and what any number of seeds would leave.

    spread^2 = variance over tasks of the mean over seeds
    left^2 = max(spread^2 - mean over tasks of (variance over seeds / seeds), 0)

    Args:
        leads: Task -> (seeds,) leads, of two tasks and two seeds at least.

    Example:
        >>> spread_of({"a": [1.0, 3.0], "b": [0.0, 0.0]})  # variances 2 and (1 + 0) / 2
        (1.4142135623730951, 1.224744871391589)
    """
    seeds = [np.asarray(each, dtype=np.float64) for each in leads.values()]
    variance = float(np.var([each.mean() for each in seeds], ddof=1))
    noise = float(np.mean([each.var(ddof=1) / len(each) for each in seeds]))
    return float(np.sqrt(variance)), float(np.sqrt(max(variance - noise, 0.0)))


def resolution(rows: Sequence[Mapping[str, ArrayLike]], family: int) -> str:
    """Return in words which lead a board sees in these rows, and what would let it see less.

    Args:
        rows: Task -> (seeds,) leads as shares of the way, of each row that is asked about.
        family: Rows that are tested together, these among them.
    """
    whole = [row for row in rows if len(row) > 1]
    if not whole:
        return "a verdict takes two tasks"
    found = [(*spread_of(row), len(row)) for row in whole]

    def lead(deviation: float, tasks: int) -> float:
        return 100 * detectable_lead(deviation, tasks, family)

    seen = sorted(lead(spread, tasks) for spread, _, tasks in found)
    ends = dict.fromkeys(number(end) for end in (seen[0], seen[-1]))
    spread, seeded, tasks = max(found)
    return (
        f"a lead of {' to '.join(ends)} % of the way is seen in "
        f"{100 * POWER:.0f} of 100 boards with {family} row{'s' * (family > 1)} and {tasks} tasks; "
        f"{MORE_TASKS} tasks would see {number(lead(spread, MORE_TASKS))} %, more seeds on these "
        f"{tasks} no less than {number(lead(seeded, tasks))} %"
    )


def leads_of(arm: Arm, baseline: Arm, way: float, *, price: float = PRICE) -> Leads:
    """Return an arm's leads in one setting, tuning included.

    Every run is cut to the tokens that both arms' runs of its seed have in all cells, so that none
    stays where it ended. Each seed's cell is chosen by score - c KL over the run on the other seeds
    (`chosen_on_others`), for both arms, and the figures are of the cells so chosen.

    Args:
        arm: Runs over tokens, by cell and seed.
        baseline: Those of the baseline; the seeds of all cells of both count.
        way: From the untrained policy to its best of 16, score - c KL.
        price: Score that a nat costs.
    """
    cells = [*arm.values(), *baseline.values()]
    seeds = sorted(set(cells[0]).intersection(*cells[1:]))
    if not seeds:
        raise ValueError("the cells of the two arms share no seed; run them on the same seeds")
    budgets = {seed: min(float(cell[seed].steps[-1]) for cell in cells) for seed in seeds}
    mine, theirs = (_chosen(each, budgets, price) for each in (arm, baseline))

    def shares(price: float) -> tuple[float, ...]:
        nets = [_nets(runs, price) for runs in (mine, theirs)]
        return tuple(((nets[0] - nets[1]) / way).tolist())

    return Leads(net=shares(price), score=shares(0.0))


def _chosen(arm: Arm, budgets: Mapping[int, float], price: float) -> list[Curve]:
    """Return each seed's run within its budget, of the cell that does best on the other seeds."""
    cells = [
        {seed: cell[seed].between(0.0, tokens) for seed, tokens in budgets.items()}
        for cell in arm.values()
    ]
    areas = np.array([_nets(list(cell.values()), price) for cell in cells])
    return [cell[seed] for seed, cell in chosen_on_others(cells, [*budgets], areas).items()]


def _nets(runs: Sequence[Curve], price: float) -> NDArray[np.float64]:
    """Return the mean of score - c KL over each run, (runs,)."""
    return np.array([run.priced(price).area("net_score") for run in runs])


def by_task(
    leads: Mapping[str, Leads], tasks: Mapping[str, str]
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return a row's figures by task: the mean over the task's settings that are known.

    Args:
        leads: Setting -> leads.
        tasks: Setting -> task.

    Returns:
        Task -> ``net`` and its part ``score`` -> (seeds,).
    """
    return {
        task: {
            name: np.mean([getattr(leads[at], name) for at in leads if tasks[at] == task], axis=0)
            for name in ("net", "score")
        }
        for task in dict.fromkeys(tasks[setting] for setting in leads)
    }


def table_of(
    rows: Sequence[Mapping[str, Mapping[str, ArrayLike]]], tasks: Sequence[str]
) -> NDArray[np.float64]:
    """Return the net leads of rows of `by_task` as `call` takes them, (rows, tasks)."""
    return np.array(
        [
            [np.asarray(row[task]["net"]).mean() if task in row else np.nan for task in tasks]
            for row in rows
        ]
    )


def in_words(
    calls: Calls, row: int, net_by_task: Mapping[str, ArrayLike], unknown: Sequence[str] = ()
) -> str:
    """Return the verdict on one row, what holds on these tasks alone, and what is not known.

    Args:
        calls: From `call`, of one board.
        row: Its number.
        net_by_task: Task -> (seeds,) leads in score - c KL over the run.
        unknown: Settings that were not run.
    """
    missing = f"; of {len(net_by_task)} tasks, not known: {', '.join(unknown)}" if unknown else ""
    if calls.ahead[row] or calls.behind[row]:
        return f"{'ahead' if calls.ahead[row] else 'behind'}{missing}"
    over_seeds = np.mean([np.asarray(seeds) for seeds in net_by_task.values()], axis=0)
    mean, _, _, p_value = student_interval(over_seeds)
    text = "not shown beyond these tasks"
    if p_value < CLEAR:
        side = "ahead" if mean > 0 else "behind"
        text += f"; on these {len(net_by_task)} tasks alone {side} in score - c KL, uncorrected"
    return f"{text}{missing}"
