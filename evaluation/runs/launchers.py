"""The runs of a comparison in processes of this machine."""

import gc
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from typing import Any, TypeVar

import torch

from tokengym.base.device import auto_device, preferred_device
from tokengym.evaluation.runs.config import ComparisonConfig, RunPlan
from tokengym.evaluation.runs.progress import ProgressDisplay
from tokengym.evaluation.runs.record import describe, record_failure

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
class _Worker:
    """A process at work on one run."""

    plan: RunPlan
    process: Any
    connection: Connection
    error: str | None = None
    open: bool = True


def launch(
    plans: Sequence[RunPlan],
    board: ProgressDisplay,
    jobs: int | None,
    *,
    checkpoint_every: int,
    track: str | None,
) -> None:
    """Do runs, each in a process of its own; on Ctrl-C stop them and raise.

    Args:
        plans: The runs that are missing.
        board: Shows them.
        jobs: Runs at a time; None takes one per core, fewer where each has several threads.
        checkpoint_every: See `tokengym.evaluation.runs.compare.compare`, as for the next.
        track: Name of a tracker.
    """
    context = processes()
    waiting, working = deque(plans), list[_Worker]()
    jobs = jobs or max(1, (os.cpu_count() or 1) // plans[0].training.threads)
    try:
        while waiting or working:
            while waiting and len(working) < jobs:
                plan = waiting.popleft()
                title = f"{plan.run.name} seed {plan.seed}"
                work = pickle.dumps(plan), checkpoint_every, track
                begun = _begin(context, _work, work, title)
                working.append(_Worker(plan, *begun))
                board.start(plan.key)
            wait([w.connection for w in working if w.open] + [w.process.sentinel for w in working])
            for worker in working:
                _listen(worker, board)
            for worker in [w for w in working if not w.process.is_alive()]:
                _listen(worker, board)
                working.remove(worker)
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


def run_in_subprocess(function: Callable[[ComparisonConfig], T], config: ComparisonConfig) -> T:
    """Return what a function says of a comparison, asked in a process that ends with the answer.

    The models that it loads stay out of this process, which has no use for them.

    Args:
        function: One of a module's; what it returns can be pickled.
        config: The comparison.

    Raises:
        Exception: whatever the function raises; of a class that this process cannot read, as a
            RuntimeError that names it.
        ChildProcessError: if the process was killed.
    """
    process, connection = _begin(processes(), _answer, (function, pickle.dumps(config)), "apart")
    try:
        answer, fault, error = connection.recv()
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
    with _settled(*here):
        try:
            answer = function(pickle.loads(pickled))
        except Exception as raised:
            fault = describe(raised)
            with suppress(Exception):  # it may hold what cannot be sent
                error = pickle.dumps(ExceptionWithTraceback(raised, raised.__traceback__))
        with suppress(BrokenPipeError):  # the parent was stopped
            connection.send((answer, fault, error))


def _begin(
    context: Any, function: Callable[..., None], work: tuple[Any, ...], name: str
) -> tuple[Any, Connection]:
    """Start a process on a function; it also has a connection here, and what `_settled` takes."""
    receiver, sender = context.Pipe(duplex=False)
    here = sys.path[:], dict(os.environ), auto_device()
    process = context.Process(target=function, args=(*work, sender, *here), name=name, daemon=True)
    with _starting():
        process.start()
    sender.close()
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
    for process in running:
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
            connection.send((step, point))
        except BrokenPipeError:
            os._exit(1)  # the parent was killed: the run ends unwritten, as after Ctrl-C

    try:
        with _settled(*here):
            from tokengym.evaluation.runs.run import do_plan

            plan: RunPlan = pickle.loads(pickled)
            do_plan(plan, report=tell, checkpoint_every=checkpoint_every, track=track)
    except Exception as error:
        with suppress(BrokenPipeError):  # the parent was stopped
            connection.send(describe(error))
    finally:
        connection.close()


def _leave(number: int, frame: object) -> None:
    """End a process that is stopped as one ends that has finished."""
    del number, frame
    raise SystemExit(128 + signal.SIGTERM)


def _listen(worker: _Worker, board: ProgressDisplay) -> None:
    """Take in what a process has sent."""
    try:
        while worker.open and worker.connection.poll():
            message = worker.connection.recv()
            if isinstance(message, str):
                worker.error = message
            else:
                board.update(worker.plan.key, *message)
    except EOFError:
        worker.open = False


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
