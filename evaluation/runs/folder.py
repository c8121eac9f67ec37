"""The folder of a comparison, which is its state: what it holds, and which runs are missing in it.

It has a folder for each run, with the run's spec from its beginning and its result from its end; a
run that is recorded is never repeated.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from tokengym.base.files import is_leftover, read_hashed
from tokengym.base.folders import LOCK, locked
from tokengym.base.saved_code import CODE, changed_paths
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.run import Run
from tokengym.evaluation.runs.spec import (
    REFERENCE,
    SPEC_FILE,
    UNFINISHED,
    RunSpec,
    comparison_of,
    differences,
    slug,
)


def missing_runs(
    config: ComparisonConfig, out: Path, retry_failed: bool
) -> tuple[list[RunSpec], int]:
    """Return the runs that have no result yet, and how many there are with those that have.

    The results of runs that failed are removed where ``retry_failed`` says so.
    """
    specs, missing = config.specs(out), []
    total, wanted = len(specs), config.evaluation.reference_samples
    if wanted:
        specs.insert(0, config.reference_spec(out))
    for spec in specs:
        run = Run(spec)
        run.clear()
        result = run.result
        if retry_failed and result and result["status"] != "finished":
            run.retry()
            result = {}
        is_done = bool(result)
        if spec.is_reference and result and result["status"] == "finished":
            is_done = result.get("samples", 0) >= wanted  # of more, the others are drawn
        if not is_done:
            missing.append(spec)
            total += spec.is_reference
            if run.folder.is_dir():
                with locked(run.folder):  # an orphan of a killed comparison may be writing it
                    run.remove_progress()
    return missing, total


def check_folder(config: ComparisonConfig, out: Path) -> bool:
    """Refuse a folder that holds another comparison; return whether `take_over` would clear it.

    Rewards and seeds may have been added, and a file of code corrected that no finished or stopped
    run used. Where all runs failed, other settings may take its place.
    """
    stored = stored_comparison(out)
    if stored is None:
        _check_empty(out)
        return False
    differ = _conflicts(config, out, stored[1])
    if differ and _holds_work(out):
        kept = f" ({out / CODE} has the files as they were)" if stored[1].get("code") else ""
        raise ValueError(
            f"{out} holds runs of other settings: {'; '.join(differ)}. Name another folder, or "
            f"repeat those settings{kept}"
        )
    return bool(differ)


def _check_empty(out: Path) -> None:
    """Refuse a path with something that no comparison has left there."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the results")
    files = out.iterdir() if out.is_dir() else ()
    if any(path.name != LOCK and not is_leftover(path) for path in files):
        raise ValueError(
            f"{out} holds other files, no {SPEC_FILE} of a run to resume; name a new folder"
        )


def take_over(config: ComparisonConfig, out: Path) -> None:
    """Delete what runs of other settings left in a folder, if none of them finished.

    The caller has locked the folder, which is checked as by `check_folder`.
    """
    if check_folder(config, out):
        for folder in (*_run_folders(out), out / slug(REFERENCE), out / CODE):
            if folder.is_dir():
                with locked(folder):
                    shutil.rmtree(folder)


def _run_folders(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("*/seed-*") if path.is_dir())


def _holds_work(out: Path) -> bool:
    """Return whether a run has finished or can resume, or samples were drawn for runs to come."""
    runs = list(map(Run, _run_folders(out)))
    if any(run.can_resume or run.status == "finished" for run in runs):
        return True
    # Where all runs failed, the samples drawn for them are of no use either.
    all_failed = bool(runs) and all(run.has_ended for run in runs)
    return not all_failed and Run(out / slug(REFERENCE)).can_resume


def _conflicts(config: ComparisonConfig, out: Path, there: Mapping[str, Any]) -> list[str]:
    """Return in words the settings that make a folder's runs those of another comparison."""
    here, names = config.as_dict(), ("rewards", "agents")
    grows = (
        all({*there[key]} <= {*here[key]} for key in names)
        and all(there[key][:1] == here[key][:1] for key in names)
        and there["first_seed"] == config.first_seed
        and there["seeds"] <= config.seeds
    )
    if grows and config.agents:  # with a second reward the runs have other names
        before = replace(config, rewards=tuple(there["rewards"]), agents=tuple(there["agents"]))
        grows = set(before.names) <= set(config.names)
    differ = []
    if grows:
        before = replace(config, rewards=tuple(there["rewards"]), agents=tuple(there["agents"]))
        judges = ["the gold score" if one.by_gold else one.rewards[0] for one in (before, config)]
        if judges[0] != judges[1]:  # such as where r3 is added, which has a scorer of its own
            differ = [f"the score is that of {judges[0]} there, of {judges[1]} here"]
        here |= {key: there[key] for key in (*names, "seeds")}
    if not (differ := [*differ, *differences(there, here)]):
        return []
    changed = changed_paths(there.get("code", {}), config.code)
    return differ if len(differ) > len(changed) or _used(config, out, changed) else []


def _used(config: ComparisonConfig, out: Path, paths: Sequence[str]) -> bool:
    """Return whether a finished run, or a stopped one that resumes, used one of these files."""
    return any(
        not set(paths).isdisjoint(spec.used_code)
        and (Run(spec).is_finished or (Run(spec).folder / UNFINISHED).exists())
        for spec in (config.reference_spec(out), *config.specs(out))
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
        return len(settings["rewards"]) + len(settings["agents"]) + settings["seeds"]

    largest = max(stored, key=size)
    # A file of code may have been corrected since the runs failed that used it.
    by_end = sorted(stored, key=lambda file: Run(file.parent).status != "failed")
    parts = [stored[file] for file in by_end]
    hashes = {
        key: dict(chain(*(part.get(key, {}).items() for part in parts))) for key in ("code", "data")
    }
    return largest, stored[largest] | {key: known for key, known in hashes.items() if known}


def settings_in(file: Path) -> dict[str, Any]:
    """Return the settings of a comparison (`ComparisonConfig.as_dict`) that a run's spec has."""
    stored = read_hashed(file)
    try:
        return comparison_of(stored)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(f"{file} is damaged or of another version; name another folder") from None


def stored_runs(folder: Path) -> list[Run]:
    """Return the runs that a comparison has begun in its folder, in its order."""
    runs = [Run(file.parent) for file in sorted(folder.glob(f"*/seed-*/{SPEC_FILE}"))]
    titles = [title for _, title in {(run.stored["name"], run.stored["title"]) for run in runs}]
    for run in runs:
        if titles.count(run.arm) > 1:  # of two arms with one title both keep their names
            run.arm = run.stored["name"]
    return sorted(runs, key=_order)


def _order(run: Run) -> tuple[int, int, int]:
    """Return a run's place: by learners, by rewards as they are compared, by seeds."""
    spec = run.stored
    rewards = [word["text"] for word in spec["rewards"]]
    agents = list(spec["compared"]["agents"]) or [spec["agent"]["text"]]
    words = (agents, spec["agent"]["text"]), (rewards, spec["reward"]["text"])
    agent, reward = (known.index(one) if one in known else len(known) for known, one in words)
    return agent, reward, run.seed
