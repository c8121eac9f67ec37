"""Where runs are done, behind one interface.

An executor is a function of what does a run and of the runs. It yields each run as it ends, with
its fault if it did not finish. A run's folder, on a disk that all machines share, has its spec when
it begins and its result when it has ended, so that the same command resumes whatever was stopped.
"""

import gc
import logging
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import re
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from logging.handlers import QueueHandler
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tokengym.base.device import auto_device, preferred_device
from tokengym.base.errors import SettingsError, Stopped, is_fault
from tokengym.base.registry import Registry
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.evaluation.runs.defaults import bundle_settings
from tokengym.evaluation.runs.record import describe
from tokengym.evaluation.runs.spec import RunSpec


class Fault(NamedTuple):
    """The reason why a run did not finish."""

    text: str
    """The error, in one line."""
    resumes: bool = False
    """Whether something else ended the run, such as a time limit or a full disk: it has no result,
    and the same command resumes it."""
    of_scorer: str | None = None
    """The scorer's error, where it failed before the run's first measurement."""


RunFunction = Callable[[RunSpec], Fault | None]
"""Does a run and returns its fault; None where it finished."""
Ended = Generator[tuple[RunSpec, Fault | None], None, None]
"""Runs as they end, each with its fault; closed, it stops those that have not ended."""
Executor = Callable[[RunFunction, Sequence[RunSpec]], Ended]
EXECUTORS: Registry[Callable[..., Executor]] = Registry("executor")
"""Executors by the name that ``--executor`` takes; their options follow it."""


def here(function: RunFunction, specs: Sequence[RunSpec]) -> Ended:
    """Do one run after another, in this process."""
    for spec in specs:
        yield spec, function(spec)


class RemoteRun:
    """A run as another machine is given it.

    It is read and done in the folder of the command, which relative paths in it start from.
    """

    def __init__(self, function: RunFunction, spec: RunSpec) -> None:
        self.function, self.pickled, self.folder = function, pickle.dumps(spec), Path.cwd()

    def __call__(self) -> Fault | None:
        """Do it, and return its fault."""
        try:
            os.chdir(self.folder)
        except OSError as error:
            return Fault(
                f"{socket.gethostname()} cannot enter {self.folder} ({error.strerror}); give the "
                "command in a folder on a disk that all machines share",
                resumes=True,
            )
        try:
            spec: RunSpec = pickle.loads(self.pickled)
        except Exception as error:  # such as of a file of the user's own
            return Fault(describe(error))
        return self.function(spec)


def slurm(folder: str = "runs/slurm", **parameters: Any) -> Executor:
    """Return the executor that has Slurm do runs, as one array of jobs; it needs submitit.

    A job that reaches its time limit, or makes room for another, is queued again and resumes; after
    ``slurm_max_num_timeout`` time limits it is left to the next command.

    Args:
        folder: Folder of the jobs' scripts and logs, on a shared disk.
        parameters: Those of ``submitit.AutoExecutor.update_parameters``: ``slurm_partition``,
            ``timeout_min``, ``gpus_per_node``, ``slurm_array_parallelism``, ...

    Raises:
        SettingsError: if submitit is not installed.
    """
    submitit = _library("submitit", "slurm")

    def execute(function: RunFunction, specs: Sequence[RunSpec]) -> Ended:
        # Without a cluster submitit would start all of them here, at once.
        try:
            submitter = submitit.AutoExecutor(folder=folder, cluster="slurm")
        except RuntimeError as gone:  # it looks for srun
            raise SettingsError(
                f"Slurm does not answer here ({gone}); start the command on a node of the cluster "
                "that has srun, or leave --executor out to use this machine"
            ) from None
        submitter.update_parameters(**parameters)
        with submitter.batch():
            jobs = {submitter.submit(_SlurmRun(function, spec)): spec for spec in specs}
        failed = submitit.core.utils.FailedJobError
        try:
            for job in submitit.helpers.as_completed(list(jobs)):
                error = job.exception()
                if error is None:
                    yield jobs[job], job.result()
                else:  # a job that was killed leaves nothing that says why
                    yield jobs[job], Fault(describe(error), resumes=not isinstance(error, failed))
        finally:
            for job in jobs:
                if not job.done():
                    job.cancel()

    return execute


class _SlurmRun(RemoteRun):
    """A run in a job of submitit's, which is queued again where it was stopped."""

    def __call__(self) -> Fault | None:
        # A signal comes before a job's time limit. What submitit then raises, in the middle of the
        # run, is no fault of the run, which would otherwise record itself as failed.
        number = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
        handler: Any = signal.getsignal(number)

        def stop(*arguments: Any) -> None:
            try:
                handler(*arguments)
            except BaseException as stopped:
                raise Stopped(getattr(stopped, "code", str(stopped))) from stopped

        if callable(handler):
            signal.signal(number, stop)
        return super().__call__()

    def checkpoint(self) -> Any:
        """Return what the job does when it is queued again: the same, which resumes."""
        return import_module("submitit").helpers.DelayedSubmission(self)


def ray_cluster(**options: Any) -> Executor:
    """Return the executor that has a Ray cluster do runs, each in a fresh process; it needs Ray.

    Args:
        options: Those of ``ray.remote``: ``num_cpus``, ``num_gpus``, ``max_retries``, ...

    Raises:
        SettingsError: if Ray is not installed.
    """
    ray = _library("ray", "ray")

    def execute(function: RunFunction, specs: Sequence[RunSpec]) -> Ended:
        def do(run: RemoteRun) -> Fault | None:
            return run()

        ray.init(ignore_reinit_error=True)
        remote = ray.remote(max_calls=1, **options)(do)
        running = {remote.remote(RemoteRun(function, spec)): spec for spec in specs}
        try:
            while running:
                (ended,), _ = ray.wait(list(running), num_returns=1)
                spec = running.pop(ended)
                try:
                    yield spec, ray.get(ended)
                except ray.exceptions.RayError as error:
                    is_fault = isinstance(error, ray.exceptions.RayTaskError)
                    yield spec, Fault(describe(error), resumes=not is_fault)  # a killed worker
        finally:
            for task in running:
                ray.cancel(task, force=True)

    return execute


EXECUTORS.register("here", lambda: here)
EXECUTORS.register("slurm", slurm)
EXECUTORS.register("ray", ray_cluster)


def _library(name: str, executor: str) -> Any:
    """Import a library that only an executor needs."""
    try:
        return import_module(name)
    except ImportError:
        raise SettingsError(
            f"executor {executor} needs {name}, which is not installed: pip install {name}"
        ) from None


# --- processes of this machine --------------------------------------------------------------------


SECONDS_TO_STOP = 5.0
CHILD_ENV_QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
"""Environment in which transformers is imported: the board is the only display."""
CHILD_ENV_NO_CWD = {"PYTHONSAFEPATH": "1"}
"""Environment in which Python looks for no module in the current folder; read since Python 3.11."""
LIBRARIES = (
    *("torch", "scipy.stats", "gymnasium", "datasets", "peft", "stable_baselines3"),
    *("transformers.models.auto.modeling_auto", "transformers.models.gpt2.modeling_gpt2"),
)
"""Modules that take seconds to import, and that a run needs."""


@dataclass
class Notices:
    """Log of the processes of a comparison, each text of which is logged once here.

    Alarms of an update that differ in their numbers alone count as one text: many runs raise them.
    """

    logged: set[str] = field(default_factory=set)
    """Texts that were logged."""

    def take(self, message: Any) -> bool:
        """Log a message of a process, if it is a record of its log; return whether it is one."""
        if not isinstance(message, logging.LogRecord):
            return False
        text, logger = message.getMessage(), logging.getLogger(message.name)
        if re.match(r"update \d", text):
            text = re.sub(r"-?\d[\d.]*", "N", text)
        if text not in self.logged and logger.isEnabledFor(message.levelno):
            self.logged.add(text)
            logger.handle(message)
        return True


class _LogForwarder(QueueHandler):
    """Sends the log of a process through a connection to its parent, from any thread."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self.connection: Connection = connection

    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(BrokenPipeError):  # nobody is left who would read it
            self.connection.send(record)


@contextmanager
def _forwarding_logs(connection: Any) -> Iterator[None]:
    """Send tokengym's log through a connection, in place of this process's stderr."""
    forwarder, logger = _LogForwarder(connection), logging.getLogger("tokengym")
    logger.addHandler(forwarder)
    try:
        yield
    finally:
        logger.removeHandler(forwarder)


@dataclass
class _Child:
    """A process that calls one function, and what it has sent."""

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


def runs_at_a_time(jobs: int | None, spec: RunSpec) -> int:
    """Return how many runs as ``spec`` this machine does at a time, where ``jobs`` names no number.

    It is the bundle's own number, else one per core, fewer where each has several threads.
    """
    known = jobs or bundle_settings(spec.task.bundle, "comparison").get("jobs")
    return known or max(1, (os.cpu_count() or 1) // spec.training.threads)


def processes_here(jobs: int, notices: Notices | None = None) -> Executor:
    """Return the executor that does each run in a process of its own, ``jobs`` at a time, here."""

    def execute(function: RunFunction, specs: Sequence[RunSpec]) -> Ended:
        context, log, waiting = processes(), notices or Notices(), deque(specs)
        working: list[tuple[RunSpec, _Child]] = []
        try:
            while waiting or working:
                while waiting and len(working) < jobs:
                    spec = waiting.popleft()
                    name = f"{spec.name} seed {spec.seed}"
                    working.append((spec, _begin(context, function, spec, name, log)))
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
        is_killed = code == -signal.SIGKILL
        killed = "; it may have run out of memory: try fewer jobs" if is_killed else ""
        # As one that was stopped, or that Slurm or Ray lost: the same command does it again.
        return Fault(f"its process ended with code {code} and no result{killed}", resumes=is_killed)
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
    with _starting({**CHILD_ENV_NO_CWD, **CHILD_ENV_QUIET}):
        multiprocessing.forkserver.ensure_running()
    return context


def run_in_subprocess(
    function: Callable[[Comparison], str],
    comparison: Comparison,
    notices: Notices | None = None,
) -> str:
    """Return what a function says of a comparison, asked in a process that ends with the answer.

    The models that it loads stay out of this process, which has no use for them.
    """
    child = _begin(processes(), function, comparison, "apart", notices or Notices())
    try:
        while child.is_open and child.answer is None:
            wait([child.connection])
            child.listen()
        # The answer was its last act; stopped, it leaves semaphores.
        child.process.join(None if child.answer is None else SECONDS_TO_STOP)
    finally:
        child.connection.close()
        _stop([child.process])
    if child.answer is None or child.answer[1] is not None:
        raise _error_of(child)
    return str(child.answer[0])


def _error_of(child: _Child) -> Exception:
    """Return what a function raised in its process, or what is known of a process that ended."""
    if child.answer is None:
        return ChildProcessError(
            f"the process that makes the environments ended with code {child.process.exitcode}; if "
            "it ran out of memory, take a smaller model"
        )
    _, fault, error = child.answer
    try:
        raised: Exception = pickle.loads(error or b"")
    except Exception:
        return RuntimeError(fault)
    return raised


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
    with _starting(), _apart_from_main():
        process.start()
    sender.close()  # or reading would never meet the end of the process, which has the other copy
    return _Child(process, receiver, notices)


def _work(
    function: Callable[[Any], Any], pickled: bytes, connection: Connection, *here: Any
) -> None:
    """Send what a function returns, or what it raises, in words and with its traceback."""
    answer = fault = error = None
    try:
        with _as_child(*here), _forwarding_logs(connection):
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
def _starting(environment: Mapping[str, str] = CHILD_ENV_NO_CWD) -> Iterator[None]:
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


@contextmanager
def _apart_from_main() -> Iterator[None]:
    """Start processes that do not run this program's script, of which a run needs no name.

    multiprocessing does it by the script's file or module, and one that compares without
    ``if __name__ == "__main__":`` would begin anew in each.
    """
    main = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(kept)


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
def _as_child(path: list[str], environment: Mapping[str, str], device: str) -> Iterator[None]:
    """Give a new process the path, variables and device of its parent, which handles Ctrl-C."""
    gc.freeze()  # a collection would copy the server's objects, which are shared until written to
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)  # or semaphores of libraries would be left behind
    sys.path[:] = path
    for name in CHILD_ENV_NO_CWD.keys() - environment.keys():
        os.environ.pop(name, None)  # what the run starts is its own affair
    os.environ.update({**environment, **CHILD_ENV_QUIET})  # a server's is that of its own start
    with preferred_device(device):
        yield


def _leave(*_: object) -> None:
    """End a process that is stopped as one ends that has finished."""
    raise Stopped(128 + signal.SIGTERM)


def _end_after(parent: Any) -> None:
    """End this process as soon as its parent was killed; its run resumes as after Ctrl-C."""
    parent.join()
    os._exit(1)
