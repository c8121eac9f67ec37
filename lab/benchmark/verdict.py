"""The verdict of version 2: a rule's lead on a task that was not among those of the benchmark.

The estimand is the mean lead over tasks of the kind of which the benchmark's are a sample. So the
tasks are the sample that is tested, and not the seeds: on a few fixed tasks any rule that is not
equal to the baseline is clearly ahead or behind, if it has enough seeds. What holds on these tasks
alone is said in those words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.evaluation.statistics import (
    Arm,
    RunPath,
    holm,
    largest_shared_kl,
    mean_net_score,
    student_interval,
    tuned_on_others,
    value_within_kl,
)
from tokengym.lab.protocol import PRICE, Row
from tokengym.lab.tables import CLEAR

FIGURES = ("net", "at_kl")
"""The two primary figures of a task: score - c KL over the run, and the score at equal KL."""


@dataclass(frozen=True, kw_only=True)
class Leads:
    """An arm's leads on the baseline in one setting, shares of the way to best of 16."""

    net: tuple[float, ...]
    """By seed: score - c KL over the run, up to the tokens that both runs have."""
    score: tuple[float, ...]
    """By seed: the part of it that is score; what is left is KL that was not paid."""
    at_kl: tuple[float, ...] | None
    """By seed: score at `kl`; None where no KL was reached by every run without a leap."""
    kl: float | None
    """Largest KL that all runs of both arms have reached, nats."""


@dataclass(frozen=True, kw_only=True)
class Calls:
    """What a board's tests say of its rows; arrays are (..., rows, figures) or (..., rows)."""

    mean: NDArray[np.float64]
    """Mean lead over the tasks."""
    low: NDArray[np.float64]
    """Lower end of its 95 % t interval over tasks, uncorrected."""
    high: NDArray[np.float64]
    """Upper end."""
    p_value: NDArray[np.float64]
    """p-value after Holm's correction over all rows and both figures."""
    ahead: NDArray[np.bool_]
    """(..., rows): one figure is ahead after the correction, and neither is behind without it."""
    behind: NDArray[np.bool_]
    """(..., rows): likewise."""


def call(leads: ArrayLike, level: float = 1.0 - CLEAR) -> Calls:
    """Test rows over tasks: Student's t of both figures, corrected over the family.

    t = mean over tasks / (deviation over tasks / sqrt(tasks));  Holm over rows x figures
    ahead = a figure with corrected p < 1 - level and mean > 0, and none with p < 1 - level and
        mean < 0

    A figure that is not known for every task is NaN: it counts as a test without a finding, and its
    row is neither ahead nor behind.

    Args:
        leads: (..., rows, figures, tasks), of each task the mean over its seeds and settings.
        level: Confidence level, in (0, 1).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> call([[rng.normal(5.0, 1.0, 8), rng.normal(5.0, 1.0, 8)]]).ahead.tolist()
        [True]
    """
    table, alpha = np.asarray(leads, dtype=np.float64), 1.0 - level
    known: NDArray[np.bool_] = np.asarray(np.isfinite(table).all(axis=-1))
    mean, low, high, p_value = student_interval(np.where(known[..., None], table, 0.0), level)
    p_value = np.where(known, p_value, 1.0)
    adjusted = holm(p_value.reshape(*p_value.shape[:-2], -1)).reshape(p_value.shape)
    found, alone = adjusted < alpha, p_value < alpha
    whole = known.all(axis=-1)
    rises, falls = mean > 0, mean < 0
    nan = np.where(known, 0.0, np.nan)
    return Calls(
        mean=mean + nan,
        low=low + nan,
        high=high + nan,
        p_value=adjusted,
        ahead=np.asarray((found & rises).any(-1) & ~(alone & falls).any(-1) & whole),
        behind=np.asarray((found & falls).any(-1) & ~(alone & rises).any(-1) & whole),
    )


def path_of(points: Sequence[Row]) -> RunPath:
    """Return a run's measurements as a path.

    Args:
        points: Measurements of the run, in order.
    """
    columns = {
        name: np.array([row[name] for row in points], dtype=np.float64)
        for name in ("step", "tokens", "kl", "score", "gold_score")
    }
    return RunPath(
        updates=columns["step"],
        tokens=columns["tokens"],
        kl=columns["kl"],
        values={name: columns[name] for name in ("score", "gold_score")},
    )


def net_of(path: RunPath, price: float = PRICE) -> float:
    """Return the mean of score - c KL over the tokens of a path.

    Args:
        path: The run.
        price: Score that a nat costs.
    """
    return mean_net_score(path.tokens, path.values["score"], path.kl, price)


def leads_of(
    arm: Arm, baseline: Arm, way: float, *, price: float = PRICE, measure: str = "score"
) -> Leads:
    """Return an arm's leads in one setting, tuning included.

    Every run is cut to the tokens that both arms' runs of its seed have in all cells, so that none
    stays where it ended. Each seed's cell is chosen by score - c KL over the run on the other seeds
    (`tuned_on_others`), for both arms, and both figures are of the cells so chosen.

    Args:
        arm: Runs by cell and seed.
        baseline: Those of the baseline; the seeds of all cells of both count.
        way: From the untrained policy to its best of 16, score - c KL.
        price: Score that a nat costs.
        measure: Measurement at equal KL, such as ``gold_score``.

    Raises:
        ValueError: if the arms share no seed, or several cells have one seed.
    """
    cells = [*arm.values(), *baseline.values()]
    seeds = sorted(set(cells[0]).intersection(*cells[1:]))
    if not seeds:
        raise ValueError("the cells of the two arms share no seed; run them on the same seeds")
    budgets = {seed: min(float(cell[seed].tokens[-1]) for cell in cells) for seed in seeds}
    chosen = [_chosen(each, budgets, price) for each in (arm, baseline)]
    # Means are over equal tokens, whatever lies there; at a KL only measured policies count.
    whole, known = (
        [
            [run.within(budgets[seed], across_leaps=is_mean) for seed, run in runs.items()]
            for runs in chosen
        ]
        for is_mean in (True, False)
    )
    nets = [np.array([net_of(run, price) for run in runs]) for runs in whole]
    kl = largest_shared_kl([(run.updates, run.kl) for runs in known for run in runs])
    at_kl = None
    if kl is not None:
        one, other = (
            np.array(
                [value_within_kl([kl], run.updates, run.kl, run.values[measure])[0] for run in runs]
            )
            for runs in known
        )
        at_kl = tuple(((one - other) / way).tolist())
    scores = [np.array([net_of(run, 0.0) for run in runs]) for runs in whole]
    return Leads(
        net=tuple(((nets[0] - nets[1]) / way).tolist()),
        score=tuple(((scores[0] - scores[1]) / way).tolist()),
        at_kl=at_kl,
        kl=kl,
    )


def _chosen(arm: Arm, budgets: Mapping[int, float], price: float) -> dict[int, RunPath]:
    """Return each seed's whole run, of the cell that does best on the other seeds."""
    cells = list(arm.values())
    areas = np.array(
        [
            [net_of(cell[seed].within(budgets[seed], across_leaps=True), price) for seed in budgets]
            for cell in cells
        ]
    )
    numbers = np.broadcast_to(np.arange(len(cells), dtype=np.float64)[:, None], areas.shape)
    picked = tuned_on_others(numbers, areas)
    if not np.isfinite(picked).all():
        raise ValueError(
            f"{len(cells)} cells have the seeds {[*budgets]}: a cell is chosen on the other seeds, "
            "so that two are needed"
        )
    return {seed: cells[int(number)][seed] for number, seed in zip(picked, budgets, strict=True)}


def by_task(leads: Mapping[str, Leads], tasks: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return a row's figures by task: the mean over seeds of the mean over the task's settings.

    Args:
        leads: Setting -> leads.
        tasks: Setting -> task.

    Returns:
        Task -> ``net``, its part ``score``, and ``at_kl`` -> (seeds,); ``at_kl`` is None where a
        setting of the task lacks it.
    """
    figures: dict[str, dict[str, Any]] = {}
    for task in dict.fromkeys(tasks[setting] for setting in leads):
        here = [each for setting, each in leads.items() if tasks[setting] == task]
        at_kl = [each.at_kl for each in here if each.at_kl is not None]
        figures[task] = {
            "net": np.mean([each.net for each in here], axis=0),
            "score": np.mean([each.score for each in here], axis=0),
            "at_kl": np.mean(at_kl, axis=0) if len(at_kl) == len(here) else None,
        }
    return figures


def table_of(rows: Sequence[Mapping[str, Mapping[str, Any]]]) -> NDArray[np.float64]:
    """Return rows of `by_task` as `call` takes them, (rows, figures, tasks)."""
    return np.array(
        [
            [
                [np.nan if task[name] is None else np.mean(task[name]) for task in row.values()]
                for name in FIGURES
            ]
            for row in rows
        ]
    )


def in_words(calls: Calls, row: int, net_by_task: Mapping[str, ArrayLike]) -> str:
    """Return the verdict on one row, and what holds on these tasks alone.

    Args:
        calls: From `call`, of one board.
        row: Its number.
        net_by_task: Task -> (seeds,) leads in score - c KL over the run.
    """
    if calls.ahead[row]:
        return "ahead"
    if calls.behind[row]:
        return "behind"
    over_seeds = np.mean([np.asarray(seeds) for seeds in net_by_task.values()], axis=0)
    mean, _, _, p_value = student_interval(over_seeds)
    text = "not shown beyond these tasks"
    if p_value < CLEAR:
        side = "ahead" if mean > 0 else "behind"
        text += f"; on these {len(net_by_task)} tasks alone {side} in score - c KL"
    if not np.isfinite(calls.mean[row]).all():
        text += "; scores at equal KL are not known on every task"
    return text
