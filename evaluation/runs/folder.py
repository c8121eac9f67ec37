"""The folder of a comparison, which is its state: what it holds, and which runs are missing in it.

It has a folder for each run, with the run's spec from its beginning and its result from its end; a
run that is recorded there is never repeated. A folder is read by its specs, running no code.
"""

import shutil
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from tokengym.base.files import is_leftover
from tokengym.base.folders import LOCK, locked
from tokengym.base.objects import short, words_in
from tokengym.base.saved_code import (
    CODE,
    changed_files,
)
from tokengym.base.text import listed
from tokengym.evaluation.runs.comparison import (
    Comparison,
    check_together,
    differences,
    largest,
)
from tokengym.evaluation.runs.run import Run
from tokengym.evaluation.runs.spec import (
    REFERENCE,
    SPEC_FILE,
    UNFINISHED,
    RunSpec,
    slug,
    titles_of,
)


def missing_runs(
    comparison: Comparison, out: Path, retry_failed: bool
) -> tuple[list[RunSpec], int]:
    """Return the runs that have no result yet, and how many there are with those that have.

    The results of runs that failed are removed where ``retry_failed`` says so.
    """
    specs, missing = comparison.specs(out), []
    total, wanted = len(specs), comparison.reference.evaluation.reference_samples
    if wanted:
        specs.insert(0, comparison.reference_spec(out))
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


def check_folder(comparison: Comparison, out: Path) -> bool:
    """Refuse a folder that holds another comparison; return whether `clear_failed` would clear it.

    Every run that is there must be one of this comparison, with the settings that it has here: runs
    may have been added, and a file of code corrected that no finished or stopped run used. Where
    all runs failed, other settings may take its place.
    """
    files = _spec_files(out)
    if not files:
        _check_empty(out)
        return False
    stored = [RunSpec.read(file.parent) for file in files]
    differ = _conflicts(comparison, out, stored)
    if differ and _holds_work(out):
        kept = f" (trust_code=True runs the code that {out / CODE} has)"
        raise ValueError(
            f"{out} holds runs of other settings: {'; '.join(differ)}. Name another folder, or "
            f"repeat those settings{kept if (out / CODE).is_dir() else ''}"
            f"{_changed_objects(comparison, out, stored)}"
        )
    return bool(differ)


def _changed_objects(comparison: Comparison, out: Path, stored: Iterable[RunSpec]) -> str:
    """Return a sentence on objects that are there and here with another digest; "" if none is."""
    there = words_in(repr([spec.as_dict() for spec in stored]))
    here = words_in(repr([spec.as_dict() for spec in comparison.specs(out)]))
    changed = sorted({*map(short, there - here)} & {*map(short, here - there)})
    if not changed:
        return ""
    return (
        f". {', '.join(changed)} changed since; of an object that a run itself changes (a cache, a "
        f"count) say from the first call on what it is: tokengym.named({changed[0]}, 'a name')"
    )


def _check_empty(out: Path) -> None:
    """Refuse a path with something that no comparison has left there."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the results")
    files = out.iterdir() if out.is_dir() else ()
    if any(path.name != LOCK and not is_leftover(path) for path in files):
        raise ValueError(
            f"{out} holds other files, no {SPEC_FILE} of a run to resume; name a new folder"
        )


def clear_failed(comparison: Comparison, out: Path) -> None:
    """Delete what runs of other settings left in a folder, if none of them finished.

    The caller has locked the folder, which is checked as by `check_folder`.
    """
    if check_folder(comparison, out):
        for folder in (*_run_folders(out), out / slug(REFERENCE), out / CODE):
            if folder.is_dir():
                with locked(folder):
                    shutil.rmtree(folder)


def _run_folders(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("*/seed-*") if path.is_dir())


def _spec_files(out: Path) -> list[Path]:
    """Return the specs of the runs that have begun, and of the reference samples."""
    reference = out / slug(REFERENCE) / SPEC_FILE
    return [
        *sorted(out.glob(f"*/seed-*/{SPEC_FILE}")),
        *([reference] if reference.exists() else ()),
    ]


def _holds_work(out: Path) -> bool:
    """Return whether a run has finished or can resume, or samples were drawn for runs to come."""
    runs = list(map(Run, _run_folders(out)))
    if any(run.can_resume or run.status == "finished" for run in runs):
        return True
    # Where all runs failed, the samples drawn for them are of no use either.
    all_failed = bool(runs) and all(run.has_ended for run in runs)
    return not all_failed and Run(out / slug(REFERENCE)).can_resume


def _conflicts(comparison: Comparison, out: Path, stored: Iterable[RunSpec]) -> list[str]:
    """Return in words why the runs of a folder are not those of a comparison."""
    wanted = {s.folder: s for s in (*comparison.specs(out), comparison.reference_spec(out))}
    differ: dict[str, None] = {}
    dropped: dict[str, list[str]] = {}
    for there in stored:
        if (spec := wanted.get(there.folder)) is None:
            dropped.setdefault(there.name, []).append(str(there.seed))
        elif spec.key != there.key:
            differ[f"{there.folder} has the run of {there.name}, seed {there.seed}"] = None
        else:
            lines = differences(there.numbers(), spec.numbers())
            differ |= dict.fromkeys([*_changed_files(there, spec), *lines])
    for name, seeds in dropped.items():
        word, verb = ("seed", "is") if len(seeds) == 1 else ("seeds", "are")
        differ[f"{name}, {word} {listed(seeds)}, {verb} there and not here"] = None
    return list(differ)


def _changed_files(there: RunSpec, spec: RunSpec) -> list[str]:
    """Return in words which files of a run are not as they were; of code, those that it used."""
    run = Run(there)
    is_kept = run.status == "finished" or (run.folder / UNFINISHED).exists()
    used = {path: there.code[path] for path in spec.used_code if path in there.code}
    return changed_files({**there.data, **(used if is_kept else {})}, {**spec.data, **spec.code})


# --- what is stored -------------------------------------------------------------------------------


def stored_comparison(out: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the file and the settings (`RunSpec.settings`) of the comparison in a folder.

    A run's spec has those of its comparison when the run began: the most rewards, learners and
    seeds count. None where no run has begun.

    Raises:
        ValueError: if a file is damaged, or was changed.
    """
    runs = [Run(file.parent) for file in _spec_files(out)]
    if not runs:
        return None
    whole = largest(run.spec for run in runs)
    # A file of code may have been corrected since the runs failed that used it.
    by_end = [run.spec for run in sorted(runs, key=lambda run: run.status != "failed")]
    hashes = {
        "code": dict(chain(*(spec.code.items() for spec in by_end))),
        "data": dict(chain(*(spec.data.items() for spec in by_end))),
    }
    assert whole.folder is not None
    file = whole.folder / SPEC_FILE
    return file, whole.settings() | {key: known for key, known in hashes.items() if known}


def stored_runs(folder: Path) -> list[Run]:
    """Return the runs that a comparison has begun in its folder, in its order.

    Raises:
        ValueError: if a spec is damaged, or runs cannot be those of one comparison.
    """
    runs = [Run(file.parent) for file in sorted(folder.glob(f"*/seed-*/{SPEC_FILE}"))]
    check_together((run.spec for run in runs), folder)
    return in_order(runs)


def no_runs(folder: Path) -> str:
    """Return that a folder holds no comparison, or is not there."""
    if not folder.exists():
        return f"there is no folder {folder}"
    return f"{folder} holds no comparison (no run there has a {SPEC_FILE})"


def in_order(runs: Sequence[Run]) -> list[Run]:
    """Return runs of one comparison by their arms, as they are compared, and by their seeds."""
    arms: dict[str, str] = {}
    for run in sorted(runs, key=lambda run: -len(run.spec.compared["arms"])):
        arms = {**run.spec.compared["arms"], **arms}
    titles, names = titles_of(arms.items()), [*arms]
    for run in runs:
        run.arm = titles[run.key[0]]
    return sorted(runs, key=lambda run: (names.index(run.key[0]), run.seed))
