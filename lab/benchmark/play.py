"""A rule through the board: what it will cost, its runs, its row."""

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tokengym.base import auto_device, preferred_device, read_json, write_json, write_text
from tokengym.evaluation.runs import processes
from tokengym.lab.benchmark.board import (
    card_of,
    draw_tasks,
    families,
    read_rows_of,
    row_of,
    sees,
    verdicts,
)
from tokengym.lab.benchmark.definition import BASELINE, Definition
from tokengym.lab.benchmark.runs import Bench, Work

if TYPE_CHECKING:
    from rich.console import Console

VERSION_FILE = "definition.json"
SAFE_PATH = "PYTHONSAFEPATH"
"""Variable that keeps the current folder out of a new process's path; read since Python 3.11."""


def play(
    bench: Bench,
    console: "Console | None" = None,
    *,
    jobs: int = 1,
    published: Path | None = None,
) -> tuple[dict[str, Any], Path]:
    """Do the runs that are missing; write row, card, picture and runs of each part.

    After every setting the row holds what is done and names what is open, so that it can be
    published in parts. Stopped at any time, it resumes.

    Args:
        bench: The runs.
        console: Where progress is shown; None shows nothing.
        jobs: Runs at a time, each of one thread.
        published: Folder of runs that were published, which are not done again, and where those
            of this row are written; None is the folder of the runs.

    Returns:
        The row, and its file.
    """
    folder = take_published(bench, published, console)
    total = cost(bench, console, jobs=jobs)
    done = bench.done
    row, file = _publish(bench, folder)
    for _ in _told(bench, console, jobs, total):
        if bench.done != done:
            done = bench.done
            row, file = _publish(bench, folder)
            _say(console, f"{file}: {len(done)} of {len(bench.asked)} settings")
    board = [row, *_others(bench, folder, row)]
    _say(console, f"{row['subject']}: {verdicts(board)[row['subject'], row['track']]}")
    for members in families(board):
        if row in members:
            _say(console, f"among {len(members)} rows, {sees(members, row)}")
    return row, file


def take_published(
    bench: Bench, published: Path | None = None, console: "Console | None" = None
) -> Path:
    """Write published runs to the folder of the runs, so that they are not done again.

    Args:
        bench: The runs.
        published: Folder of runs that were published; None is the folder of the runs.
        console: Where their number is shown.

    Returns:
        The folder of what is published.
    """
    settle(bench)
    folder = bench.out if published is None else published
    _check_kept(bench, _file_of(bench, folder))
    if restored := bench.restore(folder):
        _say(console, f"{restored} published runs of {folder} are not done again")
    return folder


def _publish(bench: Bench, folder: Path) -> tuple[dict[str, Any], Path]:
    """Write what is done: the row, the author's card, the picture and the runs."""
    row, file = row_of(bench), _file_of(bench, folder)
    write_json(file, row)
    write_text(file.with_suffix(".md"), card_of(row, _others(bench, folder, row)))
    if row["settings"]:
        draw_tasks(file.with_suffix(".png"), [row])
    bench.publish(folder)
    return row, file


def _others(bench: Bench, folder: Path, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows beside one that were published in the folder."""
    return [
        other
        for other in read_rows_of(folder, bench.definition)
        if (other["subject"], other["track"]) != (row["subject"], row["track"])
    ]


def _file_of(bench: Bench, folder: Path) -> Path:
    """Return the file of a row."""
    return folder / f"{bench.key(bench.subject)}-{bench.track}.json"


def _check_kept(bench: Bench, file: Path) -> None:
    """Refuse to write a row without settings that the published one has."""
    if not file.exists():
        return
    here = {setting.name for setting in bench.settings}
    corpora = {at.name: at.corpus for at in bench.asked}
    if lost := [name for name in read_json(file)["settings"] if name not in here]:
        bundles = ", ".join(sorted({corpora[name] for name in lost if name in corpora}))
        raise ValueError(
            f"{file} has the settings {', '.join(lost)}, whose texts are not here; pass --corpora "
            f"with {bundles}, or another folder as --published"
        )


def cost(bench: Bench, console: "Console | None" = None, *, jobs: int = 1) -> int:
    """Say what the runs that are missing will cost on this machine, and return their number.

    Args:
        bench: The runs.
        console: Where it is shown; None shows nothing.
        jobs: Runs at a time.
    """
    settle(bench)
    total, seconds = 0, 0.0
    about = bench.definition
    _say(
        console,
        f"{about.name}: {bench.subject} against {BASELINE}, score - c KL over the run in "
        f"{len(bench.asked)} settings of {len({at.label for at in bench.asked})} tasks, "
        f"{len(about.seeds)} seeds, track {bench.track}",
    )
    for setting in bench.settings:
        for rule in bench.subjects:
            if not (runs := bench.left(setting, rule)):
                continue
            each = bench.pace(setting, rule)
            total, seconds = total + runs, seconds + runs * each
            _say(console, f"  {setting.name} {rule}: about {runs} runs of {each:.0f} CPU seconds")
    if total:
        _say(
            console,
            f"about {total} runs, {seconds / 3600:.1f} CPU hours, {jobs} at a time; Ctrl-C stops, "
            "and the same command resumes",
        )
    return total


def settle(bench: Bench) -> None:
    """Refuse models or a folder of another version, and write which one the folder is of.

    Args:
        bench: The runs.
    """
    bench.definition.check_models()
    _settle(bench.out, bench.definition)


def _told(bench: Bench, console: "Console | None", jobs: int, total: int) -> Iterator[Work]:
    """Do the runs that are missing, say what each has reached, and yield it."""
    for done, (setting, rule, run) in enumerate(_measured(bench, jobs), start=1):
        about = f"{run.start} lambda {run.gae_lambda} rate {run.rate:g} seed {run.seed}"
        _say(
            console,
            f"{done} of about {max(total, done)}: {setting.name} {rule} {about}: "
            f"{bench.reached(run):.3f}",
        )
        yield setting, rule, run


def _say(console: "Console | None", text: str) -> None:
    """Show a line as it is."""
    if console is not None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _measured(bench: Bench, jobs: int) -> Iterator[Work]:
    """Do the runs that are missing, some at a time, and yield each when its file is written."""
    if jobs == 1:
        while (work := next(bench.ready(), None)) is not None:
            bench.measure(*work)
            yield work
        return
    here = sys.path[:], dict(os.environ)
    pool = ProcessPoolExecutor(jobs, processes(), initializer=_begin_process, initargs=here)
    with _safe_path(), pool:
        working: dict[Future[None], Work] = {}
        try:
            while True:
                begun = {*working.values()}
                free = (work for work in bench.ready() if work not in begun)
                for work in islice(free, jobs - len(working)):
                    working[pool.submit(_measure, bench, work, auto_device())] = work
                if not working:
                    return
                for done in wait(working, return_when=FIRST_COMPLETED).done:
                    work = working.pop(done)
                    done.result()  # or raises what the run has raised
                    yield work
        finally:  # a run is short, and what has no file is done again
            for process in multiprocessing.active_children():
                process.terminate()


@contextmanager
def _safe_path() -> Iterator[None]:
    """Start processes that look for no module in the current folder, which may be another's."""
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        del os.environ[SAFE_PATH]
        if before is not None:
            os.environ[SAFE_PATH] = before


def _begin_process(path: list[str], environment: Mapping[str, str]) -> None:
    """Settle as the process that waits for this one, which Ctrl-C is left to, and stops by SIGTERM.

    A server that forks processes has the path and the variables of its own start.
    """
    sys.path[:] = path
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    torch.set_num_threads(1)


def _leave(number: int, frame: object) -> None:
    """End as a process that has finished: semaphores of libraries would be left behind."""
    del frame
    # The pool would take a SystemExit for the run's result, and wait for the next run.
    atexit._run_exitfuncs()
    os._exit(128 + number)


def _measure(bench: Bench, work: Work, device: str) -> None:
    """Do one run in a process of its own."""
    with preferred_device(device):
        bench.measure(*work)


def _settle(out: Path, definition: Definition) -> None:
    """Write which version a folder is of, or refuse it."""
    file = out / VERSION_FILE
    about = {"name": definition.name, "hash": definition.hash}
    if file.exists() and (stored := read_json(file)) != about:
        raise ValueError(
            f"{out} holds runs of {stored.get('name')} ({stored.get('hash')}), not of "
            f"{definition.name} ({definition.hash}); name another folder"
        )
    write_json(file, about)
