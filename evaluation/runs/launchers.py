"""The runs of a comparison in processes of this machine, and the display that they report to.

The display is a live board on a terminal, and lines elsewhere.
"""

import gc
import logging
import math
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from logging.handlers import QueueHandler
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from types import TracebackType
from typing import Any, TypeVar

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from tokengym.base.device import auto_device, preferred_device
from tokengym.base.errors import Stopped, is_fault
from tokengym.base.text import fixed
from tokengym.evaluation.report.learning import SHOWN
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.executors import Ended, Executor, Fault, RunFunction
from tokengym.evaluation.runs.record import describe, read_progress
from tokengym.evaluation.runs.spec import RunSpec

SECONDS_TO_STOP = 5.0
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
"""Environment in which transformers is imported: the board is the only display."""
SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""Environment in which Python looks for no module in the current folder; read since Python 3.11."""
LIBRARIES = (
    *("torch", "scipy.stats", "gymnasium", "datasets", "peft", "stable_baselines3"),
    *("transformers.models.auto.modeling_auto", "transformers.models.gpt2.modeling_gpt2"),
)
"""Modules that take seconds to import, and that a run needs."""
T = TypeVar("T")


@dataclass
class Notices:
    """What the processes of a comparison log; this one logs each text once.

    An alarm of an update is one text whatever its numbers: run after run comes to it.
    """

    said: set[str] = field(default_factory=set)
    """The texts so far."""

    def take(self, message: Any) -> bool:
        """Log a message of a process, if it is a record of its log; return whether it is one."""
        if not isinstance(message, logging.LogRecord):
            return False
        text, logger = message.getMessage(), logging.getLogger(message.name)
        if re.match(r"update \d", text):
            text = re.sub(r"-?\d[\d.]*", "N", text)
        if text not in self.said and logger.isEnabledFor(message.levelno):
            self.said.add(text)
            logger.handle(message)
        return True


class _Speech(QueueHandler):
    """Sends the log of a process through a connection to its parent, from any thread."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self.connection: Connection = connection

    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(BrokenPipeError):  # nobody is left who would read it
            self.connection.send(record)


@contextmanager
def _speaking(connection: Any) -> Iterator[None]:
    """Send tokengym's log through a connection, in place of this process's stderr."""
    speech, logger = _Speech(connection), logging.getLogger("tokengym")
    logger.addHandler(speech)
    try:
        yield
    finally:
        logger.removeHandler(speech)


@dataclass
class _Child:
    """A process that does one function, and what it has said of it."""

    process: Any
    connection: Connection
    notices: Notices
    answer: tuple[Any, str | None, bytes | None] | None = None
    """What the function returned, or the error that it raised, in words and pickled."""
    is_open: bool = True

    def listen(self) -> None:
        """Take in what the process has sent."""
        try:
            while self.is_open and self.connection.poll():
                message = self.connection.recv()
                if not self.notices.take(message):
                    self.answer = message
        except EOFError:
            self.is_open = False


def processes_here(jobs: int | None = None, notices: Notices | None = None) -> Executor:
    """Return the executor that does each run in a process of its own, on this machine.

    Args:
        jobs: Runs at a time; None takes one per core, fewer where each has several threads.
        notices: What was logged before; None for nothing.
    """

    def execute(function: RunFunction, specs: Sequence[RunSpec]) -> Ended:
        context, said, waiting = processes(), notices or Notices(), deque(specs)
        most = jobs or max(1, (os.cpu_count() or 1) // (specs[0].training.threads if specs else 1))
        working: list[tuple[RunSpec, _Child]] = []
        try:
            while waiting or working:
                while waiting and len(working) < most:
                    spec = waiting.popleft()
                    name = f"{spec.name} seed {spec.seed}"
                    working.append((spec, _begin(context, function, spec, name, said)))
                # A process that is killed sends nothing: its sentinel wakes this one too.
                children = [child for _, child in working]
                speaking = [child.connection for child in children if child.is_open]
                wait(speaking + [child.process.sentinel for child in children])
                for spec, child in working[:]:
                    has_ended = not child.process.is_alive()
                    child.listen()
                    if has_ended:
                        working.remove((spec, child))
                        child.connection.close()
                        yield spec, _fault_of(child)
        finally:
            _stop([child.process for _, child in working])

    return execute


def _fault_of(child: _Child) -> Fault | None:
    """Return why a run that its process did has not finished."""
    if child.answer is None:
        code = child.process.exitcode
        killed = "; it was killed, perhaps for want of memory: try fewer jobs" if code == -9 else ""
        return Fault(f"its process ended with code {code} and no result{killed}")
    fault, raised, _ = child.answer
    return fault if raised is None else Fault(raised)


def processes() -> Any:
    """Return the multiprocessing context in which runs start.

    Neither torch's threads nor CUDA survive a fork of this process. Without a GPU, Linux forks each
    run from a server that has imported the libraries and used none of them: that saves seconds.
    """
    if torch.cuda.is_available() or sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))
    with _starting({**SAFE_PATH, **QUIET}):
        multiprocessing.forkserver.ensure_running()
    return context


def run_in_subprocess(
    function: Callable[[ComparisonConfig], T],
    config: ComparisonConfig,
    notices: Notices | None = None,
) -> T:
    """Return what a function says of a comparison, asked in a process that ends with the answer.

    The models that it loads stay out of this process, which has no use for them.

    Args:
        function: One of a module's; what it returns can be pickled.
        config: The comparison.
        notices: Logs what the process does; None for ones of its own.

    Raises:
        Exception: whatever the function raises; of a class that this process cannot read, as a
            RuntimeError that names it.
        ChildProcessError: if the process was killed.
    """
    child = _begin(processes(), function, config, "apart", notices or Notices())
    try:
        while child.is_open and child.answer is None:
            wait([child.connection])
            child.listen()
        # The answer was its last act; stopped, it leaves semaphores.
        child.process.join(None if child.answer is None else SECONDS_TO_STOP)
    finally:
        child.connection.close()
        _stop([child.process])
    if child.answer is None:
        raise ChildProcessError(
            f"the process that makes the environments ended with code {child.process.exitcode}; if "
            "it was killed for want of memory, take a smaller model"
        )
    answer, fault, error = child.answer
    if fault is None:
        result: T = answer
        return result
    try:
        raised = pickle.loads(error or b"")
    except Exception:
        raise RuntimeError(fault) from None
    raise raised


def _begin(
    context: Any, function: Callable[[Any], Any], argument: Any, name: str, notices: Notices
) -> _Child:
    """Start a process on a function of one argument."""
    receiver, sender = context.Pipe(duplex=False)
    here = sys.path[:], dict(os.environ), auto_device()
    # Pickled here: multiprocessing would read it before the process has this path, and the user's
    # code would not be found.
    work = function, pickle.dumps(argument), sender, *here
    process = context.Process(target=_work, args=work, name=name, daemon=True)
    with _starting():
        process.start()
    sender.close()  # or reading would never meet the end of the process, which has the other copy
    return _Child(process, receiver, notices)


def _work(
    function: Callable[[Any], Any], pickled: bytes, connection: Connection, *here: Any
) -> None:
    """Send what a function returns, or what it raises, in words and with its traceback."""
    answer = fault = error = None
    try:
        with _settled(*here), _speaking(connection):
            answer = function(pickle.loads(pickled))
    except BaseException as raised:
        if not is_fault(raised):
            raise
        fault = describe(raised)
        with suppress(Exception):  # it may hold what cannot be sent
            error = pickle.dumps(ExceptionWithTraceback(raised, raised.__traceback__))
    with suppress(BrokenPipeError), connection:  # the parent was stopped
        connection.send((answer, fault, error))


@contextmanager
def _starting(environment: Mapping[str, str] = SAFE_PATH) -> Iterator[None]:
    """Start processes with these variables that neither Ctrl-C nor a file of this folder reaches.

    multiprocessing starts Python with ``-c``, which looks for modules in the current folder first:
    a pickle.py beside somebody's results would run. The path that this process has is set later.
    """
    before, unmasked = dict(os.environ), None
    os.environ.update(environment)
    try:
        if hasattr(signal, "pthread_sigmask"):  # not on Windows
            # The terminal sends Ctrl-C to every process of the command. A new one inherits the
            # signals that are blocked here, even while it imports; this one gets its own later.
            resource_tracker.ensure_running()  # which would unblock it if the start started it
            unmasked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        if unmasked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, unmasked)
        os.environ.clear()
        os.environ.update(before)


def _stop(running: Sequence[Any]) -> None:
    """End processes; those that do not end by themselves are killed."""
    for process in running:  # first all, then wait: they end at the same time
        process.terminate()
    for process in running:
        process.join(SECONDS_TO_STOP)
        if process.is_alive():
            process.kill()
            process.join()


@contextmanager
def _settled(path: list[str], environment: Mapping[str, str], device: str) -> Iterator[None]:
    """Settle a new process as its parent is, which Ctrl-C is left to."""
    gc.freeze()  # a collection would copy the server's objects, which are shared until written to
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)  # or semaphores of libraries would be left behind
    sys.path[:] = path
    for name in SAFE_PATH.keys() - environment.keys():
        os.environ.pop(name, None)  # what the run starts is its own affair
    os.environ.update({**environment, **QUIET})  # a server's is that of its own start
    with preferred_device(device):
        yield


def _leave(number: int, frame: object) -> None:
    """End a process that is stopped as one ends that has finished."""
    del number, frame
    raise Stopped(128 + signal.SIGTERM)


def _end_after(parent: Any) -> None:
    """End this process as soon as its parent was killed; its run resumes as after Ctrl-C."""
    parent.join()
    os._exit(1)


# --- the display ----------------------------------------------------------------------------------

Run = tuple[str, int]
EVERY = 30.0
"""Seconds between two lines where there is no terminal."""
GLANCE = 0.5
"""Seconds between two looks at the folders of runs where there is one."""


class ProgressDisplay:
    """Shows the runs of a comparison, which may be at work on any machine.

    Args:
        console: The console it is shown on.
        total: Runs of the whole comparison.
        done: Runs that were finished before.
        steps: Updates per run.
        specs: Runs whose folders are looked at, for whether they have begun and how far they are;
            others are told of by `start` and `update`.
        clock: Returns the time, seconds.
    """

    def __init__(
        self,
        console: Console,
        *,
        total: int,
        done: int,
        steps: int,
        specs: Sequence[RunSpec] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console
        self.steps = steps
        self.done = done
        self.total = total
        self._overall = Progress(
            TextColumn("[bold]runs"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._all = self._overall.add_task("", total=total, completed=done, left="")
        self._runs = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
        )
        self._tasks: dict[Run, Any] = {}
        self._first: dict[Run, tuple[int, float]] = {}  # step and time of the first measurement
        self._clock = clock
        self._began: float | None = None
        self._finished = 0
        self._updates: dict[Run, int] = {}  # made here by the runs that are not finished
        self._watched = {spec.key: spec.folder for spec in specs if spec.folder}
        self._seen: dict[Run, Any] = {}  # what each wrote last of how far it is
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_often, daemon=True)
        self._live = Live(
            Group(self._runs, self._overall), console=console, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> "ProgressDisplay":
        if self.console.is_terminal:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._live.stop()

    def start(self, run: Run) -> None:
        """A run has begun."""
        name = f"{run[0]}, seed {run[1]}"
        self._began = self._clock() if self._began is None else self._began
        self._tasks[run] = self._runs.add_task("", total=self.steps, name=name, figures="")

    def update(self, run: Run, step: int, point: Mapping[str, Any]) -> None:
        """A run was measured: ``point`` is the last of its curve."""
        shown = figures(point)
        now = self._clock()
        began, start = self._first.setdefault(run, (step, now))
        if began < step < self.steps:
            left = (now - start) / (step - began) * (self.steps - step)
            shown += f", {clock_time(left)} left"
        self._updates[run] = step - began
        self._runs.update(self._tasks[run], completed=step, figures=shown)
        self._overall.update(self._all, left=self._left(now))

    def line(self) -> str:
        """Return how far the work is, such as "3 of 15 runs done, about 4 minutes left"."""
        left = self._left(self._clock())
        return f"{self.done} of {self.total} runs done{', ' if left else ''}{left}"

    def _left(self, now: float) -> str:
        """Return the time that the rest takes at the pace so far, in words; "" before one is known.

        A run without updates, of reference samples, is counted as if it were like the others.
        """
        made = self._finished * self.steps + sum(self._updates.values())
        if self._began is None or not made:
            return ""
        whole = (self.total - self.done + self._finished) * self.steps
        return f"about {duration((now - self._began) / made * (whole - made))} left"

    def _look_often(self) -> None:
        while not self._ended.wait(GLANCE if self.console.is_terminal else EVERY):
            self.look()
            if not self.console.is_terminal:
                self.console.print(self.line(), highlight=False, markup=False)
                self.console.file.flush()

    def look(self) -> None:
        """See in the runs' folders which have begun, and how far they are."""
        with self._lock:
            for run, folder in self._watched.items():
                is_at_work, progress = read_progress(folder)
                if is_at_work and run not in self._tasks:
                    self.start(run)
                if progress is not None and progress != self._seen.get(run):
                    self._seen[run] = progress
                    self.update(run, *progress)

    def finish(self, run: Run, error: str | None, *, resumes: bool = False) -> None:
        """A run has ended, well or with an error; or was stopped, and resumes another time."""
        with self._lock:
            self._watched.pop(run, None)
            if run in self._tasks:
                self._runs.remove_task(self._tasks.pop(run))
            self._updates.pop(run, None)
            self.done += 1
            self._finished += 1
            self._overall.update(self._all, completed=self.done)
        line = Text(f"[{self.done}/{self.total}] {run[0]}, seed {run[1]}: ")
        ended = f"failed: {error}" if error else "finished"
        ended = f"stopped: {error}; the same command resumes it" if resumes else ended
        line.append(ended, style="red" if error else "green")
        self.console.print(line, soft_wrap=True)
        self.console.file.flush()  # or a log file shows nothing until the end


def figures(point: Mapping[str, Any]) -> str:
    """Return score, KL, what a learner from given data logs, and speed of a point in words.

    Example:
        >>> figures({"score": 1.5, "kl": 2.25, "tokens": 9600, "wall_s": 8.0})
        'score 1.500, KL 2.25 nats, 1200 tokens/s'
    >>> figures({"score": 0.5, "kl": -0.001, "tokens": 0})
    'score 0.500, KL 0.00 nats'
    """
    shown = [f"score {fixed(point.get('score', math.nan), 3)}"]
    if point.get("kl") is not None:
        shown.append(f"KL {fixed(point['kl'], 2)} nats")
    shown += [f"{name} {fixed(point[name], 3)}" for name in SHOWN if point.get(name) is not None]
    if point["tokens"] and point["wall_s"] > 0:
        shown.append(f"{point['tokens'] / point['wall_s']:.0f} tokens/s")
    return ", ".join(shown)


def duration(seconds: float) -> str:
    """Return a duration in words, to about a tenth.

    Example:
        >>> duration(41), duration(340), duration(9000)
        ('40 seconds', '6 minutes', '2.5 hours')
    """
    if seconds < 55:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    minutes = max(1, round(seconds / 60))
    if minutes < 90:
        return f"{minutes} minute{'s' if minutes > 1 else ''}"
    return f"{seconds / 3600:.1f} hours"


def clock_time(seconds: float) -> str:
    """Return a duration as a clock shows it.

    Example:
        >>> clock_time(75), clock_time(3725)
        ('1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
