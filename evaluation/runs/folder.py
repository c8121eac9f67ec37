"""Folders of a comparison and of its runs: what they hold, and what is missing in them.

The folder is the state. It has a folder for each run, with the run's spec from its beginning and
its result from its end; a run that is recorded is never repeated.
"""

import csv
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from numbers import Real
from pathlib import Path
from typing import Any

from tokengym.base.files import (
    content_hash,
    is_leftover,
    read_hashed,
    read_json,
    write_hashed,
    write_json,
)
from tokengym.base.folders import LOCK, locked
from tokengym.base.objects import short
from tokengym.base.saved_code import CODE, changed_files, changed_paths
from tokengym.envs.prompts.rows import ENCODED
from tokengym.evaluation.measure.references import SAMPLES
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.spec import (
    NO_NUMBERS,
    REFERENCE,
    SPEC_FILE,
    RunSpec,
    comparison_of,
    flat,
    slug,
)

UNFINISHED = "unfinished"
"""Folder of an unfinished run's checkpoint, in the run's."""
PROGRESS = "progress.json"
"""File of how far a run is, in its folder while it is at work."""


# --- a comparison's ---------------------------------------------------------------------------


def missing_runs(
    config: ComparisonConfig, out: Path, retry_failed: bool
) -> tuple[list[RunSpec], int]:
    """Return the runs that have no result yet, and how many there are with those that have.

    The results of runs that failed are removed where ``retry_failed`` says so.
    """
    plans, missing = config.plans(out), []
    total, wanted = len(plans), config.evaluation.reference_samples
    if wanted:
        plans.insert(0, config.reference_plan(out))
    for plan in plans:
        folder = plan.folder
        assert folder is not None
        clear_finished(folder)
        result = result_of(plan)
        if retry_failed and result and result["status"] != "finished":
            # A checkpoint, samples or iterations were paid for: only the verdict on them goes.
            if _holds_paid_work(folder):
                (folder / "run.json").unlink()  # it resumes from there
            else:
                shutil.rmtree(folder)
            result = {}
        is_done = bool(result)
        if plan.is_reference and result and result["status"] == "finished":
            is_done = result.get("samples", 0) >= wanted  # of more, the others are drawn
        if not is_done:
            missing.append(plan)
            total += plan.is_reference
            if folder.is_dir():
                with locked(folder):  # an orphan of a killed comparison may still be writing it
                    (folder / PROGRESS).unlink(missing_ok=True)
    return missing, total


def check_folder(config: ComparisonConfig, out: Path) -> None:
    """Refuse a folder that holds another comparison.

    Rewards and seeds may have been added, and a file of code corrected that no finished or stopped
    run used. Where all runs failed, other settings may take its place, see `take_over`.
    """
    stored = stored_comparison(out)
    if stored is None:
        _check_empty(out)
    elif (differ := _conflicts(config, out, stored[1])) and _holds_work(out):
        kept = f" ({out / CODE} has the files as they were)" if stored[1].get("code") else ""
        raise ValueError(
            f"{out} holds runs of other settings: {'; '.join(differ)}. Name another folder, or "
            f"repeat those settings{kept}"
        )


def _check_empty(out: Path) -> None:
    """Refuse a path with something that no comparison has left there."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the results")
    files = out.iterdir() if out.is_dir() else ()
    if any(path.name not in (LOCK, ENCODED) and not is_leftover(path) for path in files):
        raise ValueError(
            f"{out} holds other files, no {SPEC_FILE} of a run to resume; name a new folder"
        )


def take_over(config: ComparisonConfig, out: Path) -> None:
    """Delete what runs of other settings left in a folder, in which none finished.

    The caller has locked the folder, and `check_folder` let it pass.
    """
    stored = stored_comparison(out)
    if stored is not None and _conflicts(config, out, stored[1]):
        for folder in (*_run_folders(out), out / slug(REFERENCE), out / CODE):
            if folder.is_dir():
                with locked(folder):
                    shutil.rmtree(folder)


def _run_folders(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("*/seed-*") if path.is_dir())


def _holds_work(out: Path) -> bool:
    """Return whether a run has finished or can be resumed, or samples were drawn for runs to come.

    Where all runs failed, the samples drawn for them are of no use either.
    """
    folders = _run_folders(out)
    if any(_holds_paid_work(folder) or _has_finished(folder) for folder in folders):
        return True
    all_failed = bool(folders) and all((folder / "run.json").exists() for folder in folders)
    return not all_failed and _holds_paid_work(out / slug(REFERENCE))


def _has_finished(folder: Path) -> bool:
    ended = folder / "run.json"
    return ended.exists() and read_hashed(ended).get("status") == "finished"


def _holds_paid_work(folder: Path) -> bool:
    """Return whether a run's folder has a checkpoint, samples or iterations to resume from."""
    return any((folder / name).exists() for name in (UNFINISHED, SAMPLES, "iterations"))


def _conflicts(config: ComparisonConfig, out: Path, stored: Mapping[str, Any]) -> list[str]:
    """Return in words the settings that make a folder's runs those of another comparison."""
    there = {"agents": [], **stored}
    here = config.as_dict()
    names = ("rewards", "agents")
    dropped = [name for key in names for name in there.get(key, []) if name not in here[key]]
    grows = (
        not dropped
        and all(there.get(key, [])[:1] == here[key][:1] for key in names)
        and there.get("first_seed") == config.first_seed
        and there.get("seeds", 0) <= config.seeds
    )
    if grows and config.agents:  # with a second reward the runs have other names
        before = replace(config, rewards=tuple(there["rewards"]), agents=tuple(there["agents"]))
        grows = set(before.names) <= set(config.names)
    if grows:
        here |= {key: there[key] for key in (*names, "seeds")}
    differ = differences(there, here)
    changed = changed_paths(there.get("code", {}), config.code)
    return differ if len(differ) > len(changed) or _used(config, out, changed) else []


def _used(config: ComparisonConfig, out: Path, paths: Sequence[str]) -> bool:
    """Return whether a finished run, or a stopped one that resumes, used one of these files."""
    return any(
        not set(paths).isdisjoint(plan.used_code)
        and (
            result_of(plan).get("status") == "finished"
            or (plan.folder is not None and (plan.folder / UNFINISHED).exists())
        )
        for plan in (config.reference_plan(out), *config.plans(out))
    )


def stored_comparison(out: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the file and the settings (`ComparisonConfig.as_dict`) of the comparison in a folder.

    A run's spec has those of its comparison when the run began: the most rewards, learners and
    seeds count. None where no run has begun.

    Raises:
        ValueError: if a file is damaged, or was changed.
    """
    specs = [*sorted(out.glob(f"*/seed-*/{SPEC_FILE}")), out / slug(REFERENCE) / SPEC_FILE]
    stored = {file: settings_in(file) for file in specs if file.exists()}
    if not stored:
        return None

    def size(file: Path) -> int:
        settings = stored[file]
        return len(settings["rewards"]) + len(settings.get("agents", ())) + settings["seeds"]

    def has_failed(file: Path) -> bool:
        ended = file.with_name("run.json")
        return ended.exists() and read_hashed(ended).get("status") == "failed"

    largest = max(stored, key=size)
    # A file of code may have been corrected since the runs failed that used it.
    parts = [stored[file] for file in sorted(stored, key=has_failed, reverse=True)]
    hashes = {key: dict(chain(*(part.get(key, {}).items() for part in parts))) for key in HASHES}
    return largest, stored[largest] | {key: known for key, known in hashes.items() if known}


def settings_in(file: Path) -> dict[str, Any]:
    """Return the settings of a comparison (`ComparisonConfig.as_dict`) that a run's spec has."""
    stored = read_hashed(file)
    try:
        settings = comparison_of(stored)
        has_needed = all(isinstance(settings[name], kind) for name, kind in KINDS.items())
        others = {name: settings[name] for name in OTHER_KINDS if name in settings}
        if has_needed and all(isinstance(others[name], OTHER_KINDS[name]) for name in others):
            return dict(settings)
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise ValueError(f"{file} is damaged or of another version; name another folder")


HASHES = ("code", "data")
KINDS = {"env": str, "rewards": list, "seeds": int, "training": dict, "task": dict}
"""Settings that any file of a comparison has, and their types."""
OTHER_KINDS = {"agents": list, "evaluation": dict, "code": dict, "data": dict}
"""Those that it may lack."""


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return which settings of two configurations (`ComparisonConfig.as_dict`) differ, in words."""
    left, right = (
        {**side.get("task", {}), **flat({**side, "task": {}, "code": {}, "data": {}})}
        for side in (old, new)
    )
    changed = (changed_files(old.get(key, {}), new.get(key, {})) for key in ("code", "data"))
    return [*chain(*changed)] + [
        f"{name} {left.get(name)!r} there, {right.get(name)!r} here"
        for name in [*left, *(name for name in right if name not in left)]
        if left.get(name) != right.get(name) and name not in NO_NUMBERS
    ]


# --- a run's ----------------------------------------------------------------------------------


def result_of(plan: RunSpec) -> dict[str, Any]:
    """Return what `read_result` does of a planned run, and nothing of one that has not ended."""
    return read_result(plan.folder) if plan.folder is not None and plan.is_done else {}


def read_result(folder: Path) -> dict[str, Any]:
    """Return what a run's run.json says, after a look at the files that it has hashes of.

    Args:
        folder: Folder of the run.

    Raises:
        ValueError: if run.json is damaged, or a file is missing or was changed since the run ended.
    """
    result = read_hashed(folder / "run.json")
    tables = [result.get(name) or {} for name in ("versions", "made", "files")]
    is_whole = isinstance(result.get("status"), str)
    if not is_whole or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"{folder / 'run.json'} is damaged; delete {folder} and run again")
    for name, expected in tables[-1].items():
        file = folder / name
        if not file.is_file() or content_hash(file) != expected:
            state = "was changed since its run ended" if file.exists() else "is missing"
            raise ValueError(f"{file} {state}; restore it, or delete {folder} and run again")
    return result


def read_points(folder: Path) -> list[dict[str, Any]]:
    """Return the measurements of a finished run; what was not measured is None."""
    file = folder / "curve.csv"
    rows = _read_numbers(file)
    if not rows:
        raise ValueError(f"{file} holds no rows; it needs a header and a row per step")
    return rows


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the log of a finished run, a row per step; what was not logged is None."""
    file = folder / "train.csv"
    return _read_numbers(file) if file.exists() else []


def _read_numbers(file: Path) -> list[dict[str, Any]]:
    """Return a table whose cells are numbers, but for the column credit."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows: list[dict[str, Any]] = list(csv.DictReader(lines))
    for row in rows:
        for name, cell in row.items():
            if name != "credit":
                kind = int if name in ("seed", "step", "tokens", "episodes") else float
                row[name] = kind(cell) if cell else None
    return rows


def record_failure(plan: RunSpec, error: str) -> None:
    """Record as failed a run that left no result of its own."""
    assert plan.folder is not None
    name, seed = plan.key
    record = {"credit": name, "seed": seed, "status": "failed", "error": error}
    with locked(plan.folder):
        if not plan.is_done:  # another process may have ended it since
            write_hashed(plan.folder / "run.json", record)


def clear_finished(folder: Path) -> None:
    """Delete what a process left in a run's folder that was killed when the run had finished."""
    left = [name for name in (UNFINISHED, LOCK) if (folder / name).exists()]
    ended = folder / "run.json"
    if left and ended.is_file() and read_hashed(ended).get("status") == "finished":
        with locked(folder):
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def write_progress(folder: Path, step: int, point: Mapping[str, Any]) -> None:
    """Keep how far a run is, for who looks on, here or on another machine."""
    shown = {k: float(v) for k, v in point.items() if isinstance(v, Real) and math.isfinite(v)}
    with suppress(OSError):  # a full disk is the affair of what the run has to keep
        write_json(folder / PROGRESS, [step, shown])


def read_progress(folder: Path) -> tuple[bool, list[Any] | None]:
    """Return whether a process is at work on a run, and the step and point that it wrote last."""
    try:
        progress = read_json(folder / PROGRESS)
    except (OSError, ValueError):
        progress = None
    return progress is not None or (folder / LOCK).exists(), progress


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run in a comparison's folder, by its files alone."""

    folder: Path
    arm: str
    """Name of its arm in the results."""
    spec: Mapping[str, Any]
    """Its spec.json, see `RunSpec.as_dict`."""

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.spec["seed"])

    @property
    def named(self) -> dict[str, str | None]:
        """Its arm, and the words of its reward and its learner."""
        reward, agent = (short(self.spec[name]["text"]) for name in ("reward", "agent"))
        return {"arm": self.arm, "reward": reward, "agent": agent}

    @cached_property
    def result(self) -> dict[str, Any]:
        """Its run.json, {} if it has not ended."""
        return read_result(self.folder) if (self.folder / "run.json").exists() else {}

    @property
    def is_finished(self) -> bool:
        """Whether it ended without a fault."""
        return self.result.get("status") == "finished"

    @property
    def order(self) -> tuple[int, int, int]:
        """Place among the runs: by rewards as they are compared, learners, seeds."""
        rewards = [word["text"] for word in self.spec["rewards"]]
        agents = list(self.spec["compared"]["agents"]) or [self.spec["agent"]["text"]]
        words = (rewards, self.spec["reward"]["text"]), (agents, self.spec["agent"]["text"])
        (reward, agent) = (known.index(one) if one in known else len(known) for known, one in words)
        return agent, reward, self.seed


def stored_runs(folder: Path) -> list[StoredRun]:
    """Return the runs that a comparison has begun in its folder, in its order.

    Raises:
        ValueError: if a file is damaged, or was changed.
    """
    specs = {file: read_hashed(file) for file in sorted(folder.glob(f"*/seed-*/{SPEC_FILE}"))}
    titles = {(spec["name"], spec["title"]) for spec in specs.values()}
    shown = [title for _, title in titles]
    runs = [
        # Of two arms with one title both keep their names.
        StoredRun(
            folder=file.parent,
            arm=spec["title"] if shown.count(spec["title"]) == 1 else spec["name"],
            spec=spec,
        )
        for file, spec in specs.items()
    ]
    return sorted(runs, key=lambda run: run.order)
