"""The benchmark's number with its tests, and ranks with their intervals."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tokengym import __version__
from tokengym.evaluation.runs import versions
from tokengym.evaluation.statistics import area_under_curve, holm, student_interval
from tokengym.lab.benchmark.definition import BASELINE, CONTROLS, Definition, Version
from tokengym.lab.benchmark.runs import Bench
from tokengym.lab.cards.parts import bare
from tokengym.lab.protocol import PRICE, Row, equivalence, net
from tokengym.lab.study import Cell
from tokengym.lab.tables import mean

FORMAT = 1
DRAWS, DRAW_SEED = 10_000, 0
"""Draws of the seeds behind the interval of a rank."""
SHAPE: Mapping[str, type] = {
    **dict.fromkeys(("definition", "definition_hash", "track", "subject", "hash"), str),
    **{"settings": dict, "seeds": list, "versions": dict, "hidden": bool},
}
"""Entries that every row has, and their types."""
BY_SEED = ("areas", "baseline_areas", "gold_lead")
"""Figures of a setting that every seed has."""


def area_within(points: Sequence[Row], tokens: float, price: float = PRICE) -> float:
    """Return the mean of score - c KL over the first tokens of a run.

    A shorter run stays where it ended, so that rules are compared at equal tokens.

    Args:
        points: Measurements of the run, in order.
        tokens: Response tokens of the run that it is compared with.
        price: Score that a nat costs.

    Example:
        >>> points = [{"tokens": t, "score": s, "kl": 0.0} for t, s in ((0, 0.0), (10, 1.0))]
        >>> area_within(points, 10), area_within(points, 20), area_within(points, 5)
        (0.5, 0.75, 0.25)
    """
    at = np.array([row["tokens"] for row in points], dtype=np.float64)
    nets = np.array([net(row, price) for row in points])
    grid = np.append(at[at < tokens], tokens)
    return float(area_under_curve(grid, np.interp(grid, at, nets), normalize=True))


def at_tokens(points: Sequence[Row], tokens: float, measure: str) -> float:
    """Return a measurement of a run after so many tokens, or at its end if it has fewer.

    Args:
        points: Measurements of the run, in order.
        tokens: Response tokens of the run that it is compared with.
        measure: Name of the measurement.

    Example:
        >>> points = [{"tokens": 0, "kl": 0.0}, {"tokens": 10, "kl": 1.0}]
        >>> at_tokens(points, 10, "kl"), at_tokens(points, 20, "kl"), at_tokens(points, 5, "kl")
        (1.0, 1.0, 0.5)
    """
    at, values = ([float(row[name]) for row in points] for name in ("tokens", measure))
    return float(np.interp(tokens, at, values))


def shares_of(row: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return a row's lead in each task by seed, as a share of the way to the best of 16.

    Settings of one task enter as their mean.

    Args:
        row: A row of the leaderboard.
    """
    by_task: dict[str, list[np.ndarray]] = {}
    for figures in row["settings"].values():
        start, goal = figures["way"]
        leads = np.subtract(figures["areas"], figures["baseline_areas"]) / (goal - start)
        by_task.setdefault(figures["task"], []).append(leads)
    return {task: np.mean(leads, axis=0).tolist() for task, leads in by_task.items()}


def numbers_of(row: Mapping[str, Any]) -> list[float]:
    """Return a row's figure by seed: the mean of its leads over the tasks.

    Args:
        row: A row of the leaderboard.
    """
    return [float(value) for value in np.mean([*shares_of(row).values()], axis=0)]


def ranks(figures: Mapping[str, ArrayLike]) -> dict[str, tuple[int, int, int]]:
    """Return ranks by the mean, each with its 95 % interval over draws of the seeds.

    The same seeds are drawn for all, with replacement. Rank 1 is the largest; equal means have
    the better rank.

    Args:
        figures: Name -> (seeds,) figures, paired by seed.

    Example:
        >>> ranks({"one": [1.0, 2.0], "two": [0.0, 1.0], "three": [0.5, 0.4]})["one"]
        (1, 1, 1)
    """
    if not figures:
        return {}
    values = np.array([np.asarray(each, dtype=np.float64) for each in figures.values()])
    count = values.shape[1]
    drawn = np.random.default_rng(DRAW_SEED).integers(count, size=(DRAWS, count))
    means = np.vstack([values.mean(axis=1), values[:, drawn].mean(axis=2).T])
    placed = 1 + (means[:, None, :] > means[:, :, None]).sum(axis=2)
    low, high = np.quantile(placed[1:], (0.025, 0.975), axis=0, method="inverted_cdf")
    ends = zip(figures, placed[0], low, high, strict=True)
    return {name: (int(at), int(best), int(worst)) for name, at, best, worst in ends}


def family(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, float]]:
    """Return the tests of a track: each number against 0, and against each control's.

    Args:
        rows: All rows of the track on the same seeds.

    Returns:
        (subject, what it is compared with) -> difference, low, high, p after Holm's correction
        over all of them.
    """
    numbers = {row["subject"]: np.array(numbers_of(row)) for row in rows}
    tested = {(subject, BASELINE): each for subject, each in numbers.items()}
    tested |= {
        (subject, control): each - numbers[control]
        for subject, each in numbers.items()
        if subject not in CONTROLS
        for control in CONTROLS
        if control in numbers
    }
    if not tested:
        return {}
    middle, low, high, p_values = student_interval([*tested.values()])
    names = ("difference", "low", "high", "p")
    ends = zip(tested, middle, low, high, holm(p_values), strict=True)
    return {pair: dict(zip(names, map(float, each), strict=True)) for pair, *each in ends}


def is_level(row: Mapping[str, Any], margin: float) -> bool:
    """Return whether a row is level with the baseline, by two one-sided tests.

    Args:
        row: A row of the leaderboard.
        margin: Share of the way.
    """
    numbers = numbers_of(row)
    return bool(equivalence(numbers, [0.0] * len(numbers), margin).equivalent)


def row_of(bench: Bench) -> dict[str, Any]:
    """Return the row of a rule whose runs are done, as the leaderboard takes it.

    Args:
        bench: The runs.

    Raises:
        ValueError: if a run is missing.
    """
    about = bench.definition
    settings: dict[str, Any] = {}
    for setting in about.settings:
        found: dict[str, Cell] = {}
        for rule in bench.subjects:
            _, chosen = bench.tuning(setting, rule)
            if chosen is None or any(
                not bench.file(chosen.but(seed=seed)).exists() for seed in bench.seeds
            ):
                raise ValueError(f"{rule} has runs to do in {setting.name}; run the command again")
            found[rule] = chosen
        mine, base = (
            [bench.read(found[rule].but(seed=seed)) for seed in bench.seeds]
            for rule in bench.subjects
        )
        tokens = [float(points[-1]["tokens"]) for points in base]
        seconds = [mean([float(points[-1]["cpu_s"]) for points in runs]) for runs in (mine, base)]
        settings[setting.name] = {
            "task": setting.task,
            "chosen": _chosen(found[bench.rule]),
            "baseline_chosen": _chosen(found[BASELINE]),
            "way": [round(end, 4) for end in bench.way(setting)],
            "areas": _within(mine, tokens, about),
            "baseline_areas": _within(base, tokens, about),
            **{
                f"{name}_at_end": round(mean(_ends(mine, tokens, name)), 4)
                for name in ("score", "gold_score", "kl")
            },
            "gold_lead": [
                round(one - other, 4)
                for one, other in zip(
                    *(_ends(runs, tokens, "gold_score") for runs in (mine, base)), strict=True
                )
            ],
            "cpu_s": round(seconds[0], 1),
            "times_baseline": round(seconds[0] / max(seconds[1], 1e-9), 2),
        }
    row = {
        "format": FORMAT,
        "definition": about.name,
        "definition_hash": about.hash,
        "track": bench.track,
        "subject": bare(bench.rule),
        "code": bench.code,
        "hidden": bench.secret is not None,
        "seeds": [*bench.seeds],
        "tokengym": __version__,
        "versions": versions(),
        "settings": settings,
    }
    return {**row, "hash": row_hash(row)}


def _chosen(cell: Cell) -> dict[str, Any]:
    """Return what the tuning chose."""
    return {"start": cell.start, "gae_lambda": cell.gae_lambda, "rate": cell.rate}


def _within(
    runs: Sequence[Sequence[Row]], tokens: Sequence[float], about: Definition
) -> list[float]:
    """Return the runs' areas within the tokens of the runs that they are compared with."""
    pairs = zip(runs, tokens, strict=True)
    return [round(area_within(points, upto, about.price), 5) for points, upto in pairs]


def _ends(runs: Sequence[Sequence[Row]], tokens: Sequence[float], measure: str) -> list[float]:
    """Return a measurement at the runs' ends, within the tokens that they are compared at."""
    return [at_tokens(run, upto, measure) for run, upto in zip(runs, tokens, strict=True)]


def row_hash(row: Mapping[str, Any]) -> str:
    """Return one hash of what a row says."""
    said = {name: value for name, value in row.items() if name != "hash"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def check_unchanged(row: Mapping[str, Any], name: str, definition: Version) -> None:
    """Refuse a row of another version, or one that was changed since it was made.

    Args:
        row: A row of any version.
        name: Where, for the message.
        definition: The version.

    Raises:
        ValueError: naming what does not fit.
    """
    said = row.get("definition"), row.get("definition_hash")
    if said != (definition.name, definition.hash):
        raise ValueError(
            f"{name} is of {said[0]} ({said[1]}), not of {definition.name} ({definition.hash}); "
            "rows of two versions stand on no board together: run it again with this one"
        )
    if row.get("hash") != row_hash(row):
        raise ValueError(
            f"{name} was changed after it was made: its hash is not that of its figures; take the "
            "file that tokengym bench wrote"
        )


def check_row(row: object, name: str, definition: Definition) -> None:
    """Refuse what was read from a file unless it is a whole row of this version, unchanged.

    Args:
        row: What was read.
        name: Where, for the message.
        definition: The version.

    Raises:
        ValueError: naming what does not fit.
    """
    if not isinstance(row, dict) or row.get("format") != FORMAT:
        raise ValueError(f"{name} is no row of format {FORMAT}; make one with tokengym bench --v1")
    for entry, kind in SHAPE.items():
        if not isinstance(row.get(entry), kind):
            raise ValueError(
                f"{entry} of {name} must be {kind.__name__}, got {row.get(entry)!r}; take the "
                "file that tokengym bench --v1 wrote"
            )
    check_unchanged(row, name, definition)
    _check_whole(row, name, definition)


def _check_whole(row: Mapping[str, Any], name: str, definition: Definition) -> None:
    """Refuse a row that lacks settings or seeds, or has others: its number would be another one.

    Raises:
        ValueError: naming what does not fit.
    """
    remedy = "submit what bench wrote"
    wanted = {setting.name: setting.task for setting in definition.settings}
    if {at: figures.get("task") for at, figures in row["settings"].items()} != wanted:
        raise ValueError(
            f"{name} has the settings {', '.join(row['settings'])}, and {definition.name} has "
            f"{', '.join(wanted)}; {remedy}"
        )
    count = len(definition.seeds)
    if len(row["seeds"]) != count or (not row["hidden"] and row["seeds"] != [*definition.seeds]):
        raise ValueError(
            f"{name} has the seeds {row['seeds']}, and {definition.name} has "
            f"{[*definition.seeds]}; {remedy}"
        )
    for at, figures in row["settings"].items():
        values = {entry: figures.get(entry) for entry in BY_SEED}
        values["way"] = figures.get("way")
        for entry, numbers in values.items():
            length = 2 if entry == "way" else count
            if not _are_numbers(numbers, length):
                raise ValueError(
                    f"{entry} of {at} in {name} must be {length} numbers, got {numbers!r}; {remedy}"
                )
        start, goal = figures["way"]
        if not goal > start:
            raise ValueError(
                f"way of {at} in {name} must rise, got {start} to {goal}, of which nothing is a "
                f"share; {remedy}"
            )


def _are_numbers(values: object, count: int) -> bool:
    """Return whether something is a list of so many finite numbers."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    )
