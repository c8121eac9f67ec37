"""One rule through a version of the benchmark: what it will cost, its runs, its row."""

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tokengym.base import auto_device, preferred_device, read_json, write_json
from tokengym.lab.benchmark.definition import Definition
from tokengym.lab.benchmark.figures import numbers_of, row_of
from tokengym.lab.benchmark.runs import Bench, Work
from tokengym.lab.tables import student_mean

if TYPE_CHECKING:
    from rich.console import Console

VERSION_FILE = "definition.json"
SAFE_PATH = "PYTHONSAFEPATH"
"""Variable that keeps the current folder out of a new process's path; read since Python 3.11."""


def play(
    bench: Bench, console: "Console | None" = None, *, jobs: int = 1
) -> tuple[dict[str, Any], Path]:
    """Do the runs that are missing and write the row; stopped at any time, it resumes.

    Says first how long it takes, by short runs of the rule and of the baseline in every setting;
    a rule that cannot be used in one is refused there.

    Args:
        bench: The runs.
        console: Where progress is shown; None shows nothing.
        jobs: Runs at a time, each of one thread. They end with the same numbers, whatever it is.

    Returns:
        The row, and its file.

    Raises:
        ValueError: if the folder is of another version, or the bundled models are not those that
            the version is defined on.
    """

    def say(text: str) -> None:
        if console is not None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    bench.definition.check_models()
    _settle(bench.out, bench.definition)
    total, seconds = 0, 0.0
    say(f"{bench.rule} in {bench.definition.name}, track {bench.track}")
    for setting in bench.definition.settings:
        for rule in bench.subjects:
            if not (runs := bench.left(setting, rule)):
                continue
            each = bench.pace(setting, rule)
            total, seconds = total + runs, seconds + runs * each
            say(f"  {setting.name} {rule}: about {runs} runs of {each:.0f} CPU seconds")
    if total:
        say(
            f"about {total} runs, {seconds / 3600:.1f} CPU hours, {jobs} at a time; Ctrl-C stops, "
            "and the same command resumes"
        )
    for done, (setting, rule, run) in enumerate(_measured(bench, jobs), start=1):
        about = f"{run.start} lambda {run.gae_lambda} rate {run.rate:g} seed {run.seed}"
        say(
            f"{done} of about {max(total, done)}: {setting.name} {rule} {about}: "
            f"{bench.reached(run):.3f}"
        )
    row = row_of(bench)
    file = bench.out / f"{bench.key(bench.rule)}-{bench.track}{'-hidden' * row['hidden']}.json"
    write_json(file, row)
    number = student_mean([100 * value for value in numbers_of(row)])
    say(f"{bench.rule} minus the baseline, % of the way to best of 16: {number}")
    return row, file


def _measured(bench: Bench, jobs: int) -> Iterator[Work]:
    """Do the runs that are missing, some at a time, and yield each when its file is written."""
    if jobs == 1:
        while (work := next(bench.ready(), None)) is not None:
            bench.measure(*work)
            yield work
        return
    # Neither torch's threads nor CUDA survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_begin_process)
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


def _begin_process() -> None:
    """Leave Ctrl-C to the process that waits for this one, which stops it by SIGTERM."""
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
    """Write which version a folder is of, or refuse it.

    Raises:
        ValueError: if it is another one.
    """
    file = out / VERSION_FILE
    about = {"name": definition.name, "hash": definition.hash}
    if file.exists() and (stored := read_json(file)) != about:
        raise ValueError(
            f"{out} holds runs of {stored.get('name')} ({stored.get('hash')}), not of "
            f"{definition.name} ({definition.hash}); name another folder"
        )
    write_json(file, about)
