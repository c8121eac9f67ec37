"""The runs of a comparison in processes of this machine, and the display that they report to.

The display is a live board on a terminal, and lines elsewhere.
"""

import gc
import logging
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
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
from tokengym.evaluation.runs.record import describe, record_failure
from tokengym.evaluation.runs.spec import RunSpec
from tokengym.rewards.errors import ScorerError

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
    """What the processes of a comparison log; this one logs each text once."""

    said: set[str] = field(default_factory=set)
    """The texts so far."""

    def take(self, message: Any) -> bool:
        """Log a message of a process, if it is a record of its log; return whether it is one."""
        if not isinstance(message, logging.LogRecord):
            return False
        text, logger = message.getMessage(), logging.getLogger(message.name)
        if text not in self.said and logger.isEnabledFor(message.levelno):
            self.said.add(text)
            logger.handle(message)
        return True


class _Speech(QueueHandler):
    """Sends the log of a process, and what else it says, to its parent, from any thread."""

    def __init__(self, connection: Connection) -> None:
        queue: Any = connection
        super().__init__(queue)
        self.connection = connection

    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(BrokenPipeError):  # nobody is left who would read it
            self.send(record)

    def send(self, message: Any) -> None:
        """Send a message.

        Raises:
            BrokenPipeError: if the parent was stopped.
        """
        self.acquire()  # two messages at once would be neither
        try:
            self.connection.send(message)
        finally:
            self.release()


@contextmanager
def _speaking(connection: Connection) -> Iterator[_Speech]:
    """Send tokengym's log through a connection, in place of this process's stderr."""
    speech, logger = _Speech(connection), logging.getLogger("tokengym")
    logger.addHandler(speech)
    try:
        yield speech
    finally:
        logger.removeHandler(speech)


@dataclass
class _Worker:
    """A process at work on one run."""

    plan: RunSpec
    process: Any
    connection: Connection
    error: str | None = None
    """What it ended with, in one line."""
    scorer_error: str | None = None
    """The same of a scorer that failed before the run's first measurement."""
    measured: bool = False
    open: bool = True


def launch(
    plans: Sequence[RunSpec],
    board: "ProgressDisplay",
    jobs: int | None,
    *,
    checkpoint_every: int,
    track: str | None,
    notices: Notices | None = None,
) -> None:
    """Do runs, each in a process of its own; on Ctrl-C stop them and raise.

    Args:
        plans: The runs that are missing.
        board: Shows them.
        jobs: Runs at a time; None takes one per core, fewer where each has several threads.
        checkpoint_every: See `tokengym.evaluation.runs.compare.compare`, as for the next.
        track: Name of a tracker.
        notices: What was logged before; None for nothing.

    Raises:
        ScorerError: if the scorer fails on the reference samples.
    """
    context, notices = processes(), notices or Notices()
    waiting, working = deque(plans), list[_Worker]()
    ended: list[_Worker] = []  # where the scorer failed, until it has scored the reference samples
    jobs = jobs or max(1, (os.cpu_count() or 1) // plans[0].training.threads)
    try:
        while waiting or working:
            while waiting and len(working) < jobs:
                plan = waiting.popleft()
                title = f"{plan.name} seed {plan.seed}"
                # Pickled here: multiprocessing would read it before the process has this path,
                # and the user's code would not be found.
                work = pickle.dumps(plan), checkpoint_every, track
                begun = _begin(context, _work, work, title)
                working.append(_Worker(plan, *begun))
                board.start(plan.key)
            # A process that is killed sends nothing: its sentinel wakes this one too.
            wait([w.connection for w in working if w.open] + [w.process.sentinel for w in working])
            for worker in working:
                _listen(worker, board, notices)
            for worker in [w for w in working if not w.process.is_alive()]:
                _listen(worker, board, notices)  # what it sent between the look above and its end
                working.remove(worker)
                ended.append(worker)
            _refuse_scorer(ended, working, board, notices)
            is_open = any(w.plan.is_reference and not w.measured for w in working)
            for worker in [w for w in ended if not (is_open and w.scorer_error)]:
                ended.remove(worker)
                board.finish(worker.plan.key, _ended(worker))
    finally:
        _stop([worker.process for worker in working])


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
    notices = notices or Notices()
    process, connection = _begin(processes(), _answer, (function, pickle.dumps(config)), "apart")
    try:
        while notices.take(message := connection.recv()):
            pass
        answer, fault, error = message
        process.join(SECONDS_TO_STOP)  # the answer was its last act; stopped, it leaves semaphores
    except EOFError:
        process.join()
        raise ChildProcessError(
            f"the process that makes the environments ended with code {process.exitcode}; if it "
            "was killed for want of memory, take a smaller model"
        ) from None
    finally:
        connection.close()
        _stop([process])
    if fault is None:
        result: T = answer
        return result
    try:
        raised = pickle.loads(error)
    except Exception:
        raise RuntimeError(fault) from None
    raise raised


def _answer(
    function: Callable[[ComparisonConfig], Any],
    pickled: bytes,
    connection: Connection,
    *here: Any,
) -> None:
    """Send what a function returns, or what it raises, in words and with its traceback."""
    answer = fault = error = None
    with _settled(*here), _speaking(connection) as speech:
        try:
            answer = function(pickle.loads(pickled))
        except BaseException as raised:
            if not is_fault(raised):
                raise
            fault = describe(raised)
            with suppress(Exception):  # it may hold what cannot be sent
                error = pickle.dumps(ExceptionWithTraceback(raised, raised.__traceback__))
        with suppress(BrokenPipeError):  # the parent was stopped
            speech.send((answer, fault, error))


def _begin(
    context: Any, function: Callable[..., None], work: tuple[Any, ...], name: str
) -> tuple[Any, Connection]:
    """Start a process on a function; it also has a connection here, and what `_settled` takes."""
    receiver, sender = context.Pipe(duplex=False)
    here = sys.path[:], dict(os.environ), auto_device()
    process = context.Process(target=function, args=(*work, sender, *here), name=name, daemon=True)
    with _starting():
        process.start()
    sender.close()  # or reading would never meet the end of the process, which has the other copy
    return process, receiver


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
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)  # or semaphores of libraries would be left behind
    sys.path[:] = path
    for name in SAFE_PATH.keys() - environment.keys():
        os.environ.pop(name, None)  # what the run starts is its own affair
    os.environ.update({**environment, **QUIET})  # a server's is that of its own start
    with preferred_device(device):
        yield


def _work(
    pickled: bytes,
    checkpoint_every: int,
    track: str | None,
    connection: Connection,
    *here: Any,
) -> None:
    """Do one run, in a process of its own: its plan is read where the user's code is found."""

    def tell(step: int, point: Mapping[str, Any]) -> None:
        try:
            speech.send((step, point))
        except BrokenPipeError:
            os._exit(1)  # the parent was killed: the run ends unwritten, as after Ctrl-C

    try:
        with _settled(*here), _speaking(connection) as speech:
            from tokengym.evaluation.runs.run import do_plan, draw_plan

            plan: RunSpec = pickle.loads(pickled)
            if plan.is_reference:
                draw_plan(plan, report=tell)
            else:
                do_plan(plan, report=tell, checkpoint_every=checkpoint_every, track=track)
    except BaseException as error:
        if not is_fault(error):
            raise
        with suppress(BrokenPipeError):  # the parent was stopped
            of_scorer = error.for_terminal() if isinstance(error, ScorerError) else None
            connection.send((describe(error), of_scorer))
    finally:
        connection.close()


def _leave(number: int, frame: object) -> None:
    """End a process that is stopped as one ends that has finished."""
    del number, frame
    raise Stopped(128 + signal.SIGTERM)


def _listen(worker: _Worker, board: "ProgressDisplay", notices: Notices) -> None:
    """Take in what a process has sent."""
    try:
        while worker.open and worker.connection.poll():
            message = worker.connection.recv()
            if notices.take(message):
                continue
            if isinstance(message[0], str):
                worker.error, of_scorer = message
                worker.scorer_error = None if worker.measured else of_scorer
            else:
                worker.measured = True
                board.update(worker.plan.key, *message)
    except EOFError:
        worker.open = False


def _refuse_scorer(
    ended: Sequence[_Worker],
    working: Sequence[_Worker],
    board: "ProgressDisplay",
    notices: Notices,
) -> None:
    """End all runs in one line if the scorer failed on the reference samples.

    Runs that failed for the same reason leave no result: the same command does them again.

    Raises:
        ScorerError: if it did.
    """
    faults = [worker.scorer_error for worker in ended if worker.plan.is_reference]
    if not any(faults):
        return
    _stop([worker.process for worker in working])
    for worker in working:
        _listen(worker, board, notices)
    for worker in (*ended, *working):
        if worker.scorer_error:
            assert worker.plan.folder is not None
            (worker.plan.folder / "run.json").unlink(missing_ok=True)
        elif worker in ended:
            board.finish(worker.plan.key, _ended(worker))
    raise ScorerError(f"no run can be measured: {faults[0]}")


def _ended(worker: _Worker) -> str | None:
    """Return the error a run ended with; one that left no result is recorded as failed."""
    worker.connection.close()
    if worker.plan.is_done:
        return worker.error
    code = worker.process.exitcode
    error = worker.error or (
        f"its process ended with code {code} and no result"
        + ("; it was killed, perhaps for want of memory: try fewer jobs" if code == -9 else "")
    )
    record_failure(worker.plan, error)
    return error


# --- the display ----------------------------------------------------------------------------------

Run = tuple[str, int]
EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class ProgressDisplay:
    """Shows the runs of a comparison.

    Args:
        console: The console it is shown on.
        total: Runs of the whole comparison.
        done: Runs that were finished before.
        steps: Updates per run.
        clock: Returns the time, seconds.
    """

    def __init__(
        self,
        console: Console,
        *,
        total: int,
        done: int,
        steps: int,
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
        self._ended = threading.Event()
        self._lines = threading.Thread(target=self._say_often, daemon=True)
        self._live = Live(
            Group(self._runs, self._overall), console=console, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> "ProgressDisplay":
        if self.console.is_terminal:
            self._live.start()
        else:
            self._lines.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
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

    def _say_often(self) -> None:
        while not self._ended.wait(EVERY):
            self.console.print(self.line(), highlight=False, markup=False)
            self.console.file.flush()

    def finish(self, run: Run, error: str | None) -> None:
        """A run has ended, well or with an error."""
        self._runs.remove_task(self._tasks.pop(run))
        self._updates.pop(run, None)
        self.done += 1
        self._finished += 1
        self._overall.update(self._all, completed=self.done)
        line = Text(f"[{self.done}/{self.total}] {run[0]}, seed {run[1]}: ")
        line.append(f"failed: {error}" if error else "finished", style="red" if error else "green")
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
    shown = [f"score {fixed(point['score'], 3)}"]
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
