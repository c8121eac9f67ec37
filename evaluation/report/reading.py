"""Tables of learning curves: our own, and those that other tools log, by their own column names.

Whatever the source, the table that is returned has our columns (credit, seed, step, score and the
measurements that are known). Known by themselves are:

- a CSV or frame with the columns credit, seed, step, score, such as our curves.csv;
- the ``log_history`` of transformers and TRL: a list, or a trainer_state.json;
- Stable-Baselines3's progress.csv, its monitor.csv, and the evaluations.npz of its EvalCallback,
  the last two as rl-zoo3 lays them out, too;
- Weights & Biases: the CSV that a chart is exported to, and the frame of a run's ``history()``.
"""

import csv
import json
import math
import os
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from numpy.typing import NDArray

from tokengym.base.errors import DatasetError
from tokengym.base.files import check_regular, read_json
from tokengym.envs.prompts.datasets import max_unpacked, too_large
from tokengym.evaluation.report.charts import thinned

if TYPE_CHECKING:
    import pandas as pd

Rows = Sequence[Mapping[str, Any]]
Source = Union[str, Path, "pd.DataFrame", Rows]
"""A file, a run's folder, a frame, or rows as a trainer keeps them."""
NEEDED = ("credit", "seed", "step", "score")
PARTS = ("credit", "reward", "agent")
"""Columns of `Result.curves` that name an arm: its title in the report, and the words of the reward
and the learner that it was made of."""
OLDER = {"arm": "credit", "seconds": "wall_s"}
"""Columns of frames that were saved before they had the names of our files."""
WINDOW = 100
"""Episodes whose mean is the score at each of a monitor's points, as of Stable-Baselines3's
``ep_rew_mean``."""
MOST_POINTS = 200
"""Points that a curve of single episodes is thinned to."""
OF_SB3 = EVALUATED, PLAYED = "eval/mean_reward", "rollout/ep_rew_mean"
"""Scores of Stable-Baselines3, whose steps are those of the environment: tokens. The first is that
of evaluations.npz too, the second that of monitors."""
TIMESTEPS = ("time/total_timesteps", "timesteps")
KNOWN = {
    "score": (
        *("score", "eval/score", EVALUATED, "rollout/score", PLAYED),
        *("reward", "train/reward", "objective/scores", "objective/rlhf_reward"),
    ),
    "gold_score": ("gold_score", "eval/gold_score"),
    "kl": ("kl", "eval/kl", "train/kl", "objective/kl"),
    "entropy": ("entropy", "eval/entropy", "train/entropy", "objective/entropy"),
    "length": (
        *("length", "eval/length", "eval/mean_ep_length", "rollout/ep_len_mean"),
        *("completions/mean_length", "train/completions/mean_length"),
    ),
    "tokens": ("tokens", *TIMESTEPS),
    "wall_s": ("wall_s", "seconds", "time/time_elapsed", "_runtime"),
    "step": ("step", "train/global_step", "global_step", "_step", *TIMESTEPS),
}
"""Names that other tools have for ours; of several that a table has, the first counts."""
TRACKED = {"eval/score": "score", "train/reward": "reward"}
"""Names that a tracker has for scores, with those of the run's own log."""
OWN_SCORES = ("score", "eval/score")
"""Names that runs of ours give a score."""
TRL_KL = ("kl", "train/kl")
"""Names of TRL's KL, a mean over the tokens of the training batches."""
STEPS = ("step", "steps", "global_step", "_step")
"""Names, behind the last slash, of an exported chart's axis that counts steps."""
RUN = ("credit", "arm", "run", "run_name", "Name", "name")
"""Columns that tell the runs of one table apart."""
DAMAGES = (OSError, KeyError, ValueError, MemoryError, zipfile.BadZipFile)
"""What a NumPy archive that is none raises."""
FILES = ("curves.csv", "evaluations.npz", "progress.csv", "trainer_state.json")
"""Files of a run's folder, the first of which is read; without one it is its monitors."""


@dataclass(frozen=True)
class Table:
    """Rows of learning curves in our columns."""

    label: Path | str
    """Where they were read, for messages."""
    header: list[str]
    """Names of the columns."""
    rows: list[tuple[int, dict[str, str]]]
    """Number of each row, for messages, and its cells."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Another tool's names of the columns, for messages; empty for a table like ours."""
    scores: Sequence[tuple[str, Sequence[str]]] = ()
    """Of each run of another tool its name and its columns that are a score, the first of which is
    taken; () for a table like ours, which has one."""

    @property
    def of_tools(self) -> bool:
        """Whether another tool measured it, and not a run of ours that a tracker kept."""
        return self.names.get("score", OWN_SCORES[0]) not in OWN_SCORES


def read_table(
    source: Source, *, score: str | None = None, name: str | None = None, seed: int | None = None
) -> Table:
    """Read learning curves; see the module's docstring for what is known.

    Args:
        source: A file, a run's folder, a frame, or a list of rows.
        score: Column with the score; None takes score, or the one that is known of other tools.
        name: Name of the runs of another tool, with or without a seed at its end, in place of that
            of the run's folder.
        seed: Their seed, likewise.

    Raises:
        ValueError: if nothing is there, or it is none of these.
    """
    if not isinstance(source, str | Path):
        label, rows = _frame_rows(source)
        if _is_ours(header := _header(rows), score):
            return _ours(label, header, list(enumerate(rows, 1)), score)
        return _of_tools(label, rows, score, _seed_of(name or "run"), seed)
    path, *others = files_of(Path(source))
    for file in (path, *others):
        check_regular(file)
    own_name, own_seed = run_name(path)
    is_monitor = path.name.endswith("monitor.csv") or _begins(path).startswith("#{")
    if is_monitor or path.suffix == ".npz":
        _check_score(path, score, PLAYED if is_monitor else EVALUATED)
    if path.suffix == ".json":
        rows = _trainer_rows(path)
    elif path.suffix == ".npz":
        rows = _evaluations(path)
    elif is_monitor:
        rows = _monitors([path, *others])
    else:
        header, numbered = _read_rows(path)
        if _is_ours(header, score):
            return _ours(path, header, numbered, score)
        if not (_exported(header) or score or {*header} & {*KNOWN["score"][1:]}):
            return Table(path, header, numbered)  # a table like ours, of which a column is missing
        rows = [row for _, row in numbered]
    own = _seed_of(name, own_seed) if name else (own_name, own_seed)
    return _of_tools(path, rows, score, own, seed)


def _check_score(path: Path, score: str | None, only: str) -> None:
    """Refuse another score than the one that a file has."""
    if score not in (None, only):
        raise ValueError(
            f"{path} has one score, so that score={score!r} has no effect; leave it out, or write "
            f"its name, {only}"
        )


def files_of(folder: Path) -> list[Path]:
    """Return the file of a run's folder that has its curve, or the monitors of its environments.

    What is no folder is read itself.
    """
    if not folder.is_dir():
        return [folder]
    for name in FILES:
        found = [folder / name, *sorted(folder.glob(f"checkpoint-*/{name}"), key=_checkpoint)[-1:]]
        for path in found:
            if path.is_file():
                return [path]
    if monitors := sorted(folder.glob("*monitor.csv")):
        return monitors
    raise ValueError(
        f"{folder} holds no learning curve that is known ({', '.join(FILES)}, monitor.csv); name "
        "the file"
    )


def _checkpoint(path: Path) -> int:
    number = path.parent.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def run_name(path: Path) -> tuple[str, int]:
    """Return name and seed of a run from the folder of its file.

    Example:
        >>> run_name(Path("runs/abc-seed-1/checkpoint-9/trainer_state.json"))
        ('abc', 1)
        >>> run_name(Path("logs/ppo/CartPole-v1_2/evaluations.npz"))  # as rl-zoo3 numbers runs
        ('ppo', 2)
        >>> run_name(Path("runs/abc-seed-1/notes/../trainer_state.json"))
        ('abc', 1)
    """
    whole = Path(os.path.abspath(path))  # without "..", which names nothing
    folders = [part for part in whole.parts[:-1] if not part.startswith("checkpoint-")]
    folder = folders[-1]
    if (named := _parted(folder)) is not None:
        return named[0] or folders[-2], named[1]
    if (match := re.fullmatch(r".+-v\d+_(\d+)", folder)) is not None and len(folders) > 1:
        return folders[-2], int(match[1])
    return folder, 0


def _seed_of(run: str, seed: int = 0) -> tuple[str, int]:
    """Return a run's name without the seed at its end, and that seed; ``seed`` if there is none."""
    named = _parted(run)
    return named if named and named[0] else (run, seed)


def _parted(run: str) -> tuple[str, int] | None:
    """Return the name before the seed at a run's end, "" without one, and it; None without a seed.

    Example:
        >>> _parted("abc-seed-1"), _parted("abc seed=1"), _parted("seed_1"), _parted("linseed2")
        (('abc', 1), ('abc', 1), ('', 1), None)
    """
    match = re.fullmatch(r"(?:(.*?)[-_ ,]+)?seed[-_ =]?(\d+)", run)
    return (match[1] or "", int(match[2])) if match else None


# --- ours -----------------------------------------------------------------------------------------


def _is_ours(header: Iterable[str], score: str | None) -> bool:
    names = {OLDER.get(one, one) for one in header}
    return names.issuperset((*NEEDED[:-1], score or NEEDED[-1]))


def _ours(
    label: Path | str,
    header: Sequence[str],
    rows: Sequence[tuple[int, Mapping[str, Any]]],
    score: str | None,
) -> Table:
    """Return a table of ours with the column that is the score, and runs named by ``credit``."""
    names, others = {score or "score": "score"}, {"score"} - {score or "score"}
    if "credit" not in header:
        names |= OLDER
    if {*header}.issuperset(PARTS[1:]):  # both: parts of the arm, and no settings of a group
        others |= {*PARTS[1:]}
    columns = {names.get(one, one): one for one in header if one not in others}
    cells = [(n, {ours: _cell(row.get(c)) for ours, c in columns.items()}) for n, row in rows]
    return Table(label, [*columns], cells)


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return header and rows of a CSV."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or [])
            for name in header:
                if header.count(name) > 1:
                    raise ValueError(f"{path} has two columns {name!r}; rename or drop one")
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(
                        f"{path} line {reader.line_num} has not {len(header)} cells as the "
                        "header; fix the line"
                    )
                if not row.get("credit", "?").strip():
                    raise ValueError(f"{path} line {reader.line_num} names no credit; fill it in")
                rows.append((reader.line_num, row))
            if not rows:
                raise ValueError(f"{path} holds no rows; it needs a header and a row per step")
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(f"{path} is no file; pass a CSV of curves") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV in UTF-8 ({error})") from None
    return header, rows


def _begins(path: Path) -> str:
    """Return the first characters of a file, "" of one that cannot be read."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(2)
    except (OSError, UnicodeDecodeError):
        return ""


# --- other tools' ---------------------------------------------------------------------------------


def _frame_rows(source: Any) -> tuple[str, Rows]:
    """Return what a frame or a list of rows is called, and its rows."""
    rows: Rows
    if hasattr(source, "to_dict") and hasattr(source, "columns"):
        header, label = [str(one) for one in source.columns], "the frame"
        rows = [dict(zip(header, row, strict=True)) for row in source.itertuples(index=False)]
    elif isinstance(source, Sequence) and all(isinstance(row, Mapping) for row in source):
        rows, label = source, "the list"
    else:
        raise TypeError(
            "curves must be a file, a folder, a pandas DataFrame or a list of rows as a trainer's "
            f"log_history is, got {type(source).__name__}; runs of several seeds are a mapping, "
            "{'abc-seed-0': ..., 'abc-seed-1': ...}"
        )
    if not rows:
        raise ValueError(f"{label} holds no rows; it needs a row per step")
    return label, rows


def _header(rows: Rows) -> list[str]:
    """Return the names of all columns, in order."""
    return list(dict.fromkeys(key for row in rows for key in row))


def _cell(value: Any) -> str:
    """Return a value as a CSV has it; what is missing is empty."""
    text = str(value)
    is_missing = value is None or (isinstance(value, float) and np.isnan(value))
    return "" if is_missing or text == "<NA>" else text  # which is pandas' own of its newer types


def _of_tools(
    label: Path | str, rows: Rows, score: str | None, own: tuple[str, int], seed: int | None
) -> Table:
    """Return another tool's table, of one run or several.

    ``own`` are the name and the seed of a run that the table does not name, ``seed`` is the one
    that was asked for.
    """
    parts: list[tuple[Rows, Any, Any]] = []  # rows, run and seed
    if exported := _exported(header := _header(rows)):
        axis, runs = exported
        step = axis if axis in KNOWN["step"] else "_step"
        if step != axis and axis.rpartition("/")[2].lower() not in STEPS:
            raise ValueError(
                f"{label} is a chart over {axis!r}, which counts no steps: runs would be compared "
                "at equal amounts of it under the name of updates; export the chart over Step"
            )
        metrics = {metric for of_run in runs.values() for metric in of_run}
        if score is None and len(metrics) == 1:  # a chart of one measurement
            (score,) = metrics
        for run, of_run in runs.items():
            columns = {step: axis, **of_run}
            parts.append(([{k: row.get(c) for k, c in columns.items()} for row in rows], run, None))
    else:
        column = next((one for one in RUN if one in header), "")
        keys = [(row.get(column), row.get("seed")) for row in rows]
        for key in dict.fromkeys(keys or [(None, None)]):
            of_key = [row for row, of_row in zip(rows, keys, strict=True) if of_row == key]
            parts.append((of_key, *key))
    tables = []
    for part, run, stated in parts:
        credit, own_seed = own if run is None else _seed_of(str(run))
        run_seed = next(one for one in (stated, seed, own_seed) if one is not None)
        tables.append(_of_run(label, part, score, credit, run_seed))
    whole = list(dict.fromkeys(one for table in tables for one in table.header))
    theirs = {ours: other for table in tables for ours, other in table.names.items()}
    cells = [(n, {k: row.get(k, "") for k in whole}) for t in tables for n, row in t.rows]
    return Table(label, whole, cells, theirs, [one for table in tables for one in table.scores])


def _exported(header: Sequence[str]) -> tuple[str, dict[str, dict[str, str]]] | None:
    """Return the axis and the runs' columns of a chart that W&B exported; None of other tables.

    Its columns are the axis, and "RUN - METRIC" with "RUN - METRIC__MIN" and "__MAX".
    """
    if len(header) < 2 or not all(" - " in one for one in header[1:]):
        return None
    runs: dict[str, dict[str, str]] = {}
    for column in header[1:]:
        run, _, metric = column.rpartition(" - ")
        if not metric.endswith(("__MIN", "__MAX")) and metric != "_step":
            runs.setdefault(run, {})[metric] = column
    return header[0], runs


def _of_run(label: Path | str, rows: Rows, score: str | None, name: str, seed: Any) -> Table:
    """Return the rows of one run, which have a score, in our columns."""

    def has_values(column: str) -> bool:
        return any(_cell(row.get(column)) for row in rows)

    header = _header(rows)
    scores = [score] if score else [one for one in KNOWN["score"] if has_values(one)]
    if not scores:
        raise ValueError(
            f"{label} logs no reward, only {', '.join(sorted(header)) or 'nothing'}; pass a run "
            "that learned from rewards, a table with credit, seed, step, score, or the name of the "
            "column: read_curves(score=), --score"
        )
    column = scores[0]
    if not has_values(column):
        raise ValueError(
            f"{label} has no column {score!r} with numbers, only {', '.join(header)}; name the "
            "column of the score"
        )
    scored = [row for row in rows if _cell(row.get(column))]
    columns = {"score": column}
    for ours, theirs in KNOWN.items():
        # A step that some rows lack, as an evaluation between two rollouts does, is none.
        whole = (one for one in theirs if all(_cell(row.get(one)) for row in scored))
        if ours != "score" and (found := next(whole, None)) is not None:
            columns[ours] = found
    if column in OF_SB3 and "tokens" not in columns and columns.get("step") == "global_step":
        columns["tokens"] = "global_step"  # as TensorBoard's files give it to W&B
    if "step" not in columns:
        raise ValueError(
            f"{label} has no column of steps in every row with {column}, only {', '.join(header)}; "
            f"rename one to step (known: {', '.join(dict.fromkeys(KNOWN['step']))})"
        )
    points: dict[str, dict[str, str]] = {}  # of two rows of one step the later counts
    before, last = "", -math.inf
    for row in scored:
        cells = {ours: _cell(row.get(theirs)) for ours, theirs in columns.items()}
        at = _as_number(cells["step"])  # what is none is refused with its line, later
        if at < last:
            raise ValueError(
                f"{label}: the steps of {name} fall from {before} to {cells['step']}, so that "
                "several trainings, or a resumed one, are in one log; pass the rows of one, in "
                "order"
            )
        before, last = cells["step"], at
        points[cells["step"]] = {"credit": name, "seed": str(seed), **cells}
    numbered = list(enumerate(points.values(), 1))
    return Table(label, ["credit", "seed", *columns], numbered, columns, [(name, scores)])


def by_column(scores: Iterable[tuple[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Return the columns that the scores of runs were taken from, each with its arms.

    Args:
        scores: Of each run its arm and its columns that are a score, the first of which was taken.

    Raises:
        ValueError: if they are of different columns, and all runs have one in common.

    Example:
        >>> by_column([("abc", ["score"]), ("stock", ["rollout/ep_rew_mean"])])
        {'score': ['abc'], 'rollout/ep_rew_mean': ['stock']}
    """
    scores = list(scores)
    columns: dict[str, dict[str, None]] = {}
    for arm, known in scores:
        columns.setdefault(TRACKED.get(known[0], known[0]), {})[arm] = None
    common = [one for one in scores[0][1] if all(one in known for _, known in scores)]
    if len(columns) > 1 and common:
        taken = "; ".join(f"{column} of {', '.join(arms)}" for column, arms in columns.items())
        raise ValueError(
            f"the scores are of different columns ({taken}), which are different measurements; "
            f"name one that all have: --score {common[0]}, in Python score={common[0]!r}"
        )
    return {column: [*arms] for column, arms in columns.items()}


def _as_number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _trainer_rows(path: Path) -> Rows:
    """Return the log of a trainer_state.json."""
    try:
        state = read_json(path)
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(f"{path} is no file; pass a trainer_state.json") from None
    logged = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(logged, list) or not all(isinstance(row, dict) for row in logged):
        raise ValueError(f"{path} has no log_history; pass the trainer_state.json of a run")
    return logged


def read_arrays(
    path: Path, remedy: str, names: Iterable[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Return arrays of a NumPy archive by name; nothing in it is unpickled.

    Args:
        path: The archive.
        remedy: What to do where it unpacks to too much.
        names: Those that are wanted; None takes all.

    Raises:
        DatasetError: if they unpack to more than is read of a file of its size.
        OSError, KeyError, ValueError, MemoryError, BadZipFile: one of `DAMAGES`, if it is no
            archive with such arrays.
    """
    with zipfile.ZipFile(path) as archive:
        files = archive.namelist() if names is None else [f"{name}.npy" for name in names]
        size = sum(archive.getinfo(file).file_size for file in files)
    if size > (limit := max_unpacked(path)):
        raise too_large(path, limit, remedy)
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in (file.removesuffix(".npy") for file in files)}


def _evaluations(path: Path) -> Rows:
    """Return the evaluations that Stable-Baselines3's EvalCallback keeps, means over episodes."""
    try:
        names, remedy = ("timesteps", "results", "ep_lengths"), "pass the progress.csv of its run"
        timesteps, results, lengths = read_arrays(path, remedy, names).values()
        columns = list(zip(timesteps, results.mean(axis=-1), lengths.mean(axis=-1), strict=True))
    except DatasetError:
        raise
    except (*DAMAGES, TypeError) as error:
        raise ValueError(
            f"{path} is no evaluations.npz of Stable-Baselines3 ({error}); it has timesteps, "
            "results, ep_lengths"
        ) from None
    return [
        {"timesteps": int(at), EVALUATED: float(mean), "length": float(length)}
        for at, mean, length in columns
    ]


def _monitors(files: Sequence[Path]) -> Rows:
    """Return the episodes of Stable-Baselines3's monitors, one for each environment of a run.

    The score at each is the mean of the last `WINDOW` episodes; long curves are thinned.
    """
    began: list[float] = []
    episodes: list[tuple[float, float, float]] = []  # time of its end, return, length
    for file in files:
        try:
            first, *lines = file.read_text(encoding="utf-8").splitlines()
            began.append(float(json.loads(first.removeprefix("#"))["t_start"]))
            played = [
                (float(row["t"]), float(row["r"]), float(row["l"])) for row in csv.DictReader(lines)
            ]
        except FileNotFoundError:
            raise ValueError(f"{file} is no file; pass a monitor.csv") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file} is no monitor.csv of Stable-Baselines3 ({error!r}); its lines are "
                '#{"t_start": ...}, then r,l,t'
            ) from None
        for (before, *_), (now, *_) in pairwise(played):
            if now < before:
                raise ValueError(
                    f"{file}: the times t fall from {before:g} to {now:g}, so that several "
                    "trainings are in one log; pass the rows of one, below its first line"
                )
        episodes += [(began[-1] + end, reward, length) for end, reward, length in played]
    if len(episodes) < 2:
        raise ValueError(f"{files[0]} holds {len(episodes)} episodes; a curve needs at least two")
    ends, returns, lengths = np.array(sorted(episodes)).T
    rows = []
    for last in thinned(len(ends), MOST_POINTS):
        recent = slice(max(last + 1 - WINDOW, 0), last + 1)
        rows.append(
            {
                "timesteps": int(lengths[: last + 1].sum()),
                PLAYED: float(returns[recent].mean()),
                "length": float(lengths[recent].mean()),
                "wall_s": float(ends[last] - min(began)),
            }
        )
    return rows
