"""Launchers: a comparison's runs in processes of this machine, or on a Ray cluster.

On Ray a run works in a folder of its own node and brings its files back, so that no disk need be
shared; every node needs tokengym, and the files that the settings name. A run whose node is lost is
done again elsewhere; one that fails by itself is recorded as failed. The numbers are the same.
"""

import gc
import logging
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from tokengym.base.files import read_json, write_bytes
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.plan import RunPlan
from tokengym.evaluation.runs.progress import ProgressDisplay
from tokengym.evaluation.runs.record import describe, record_failure

SECONDS_TO_STOP = 5.0
RETRIES = 5
"""Times that a run is begun anew because its node was lost."""
LAST = "run.json"
"""File that makes a run count: written after the others."""
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
"""Environment in which transformers is imported: the board is the only display."""
SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""Environment in which Python looks for no module in the current folder; read since Python 3.11."""
LIBRARIES = (
    *("torch", "scipy.stats", "gymnasium", "datasets", "peft", "stable_baselines3"),
    *("transformers.models.auto.modeling_auto", "transformers.models.gpt2.modeling_gpt2"),
)
"""Modules that take seconds to import, and that a run needs."""
Launcher = Literal["local", "ray"]
Launch = Callable[[Sequence[RunPlan], ProgressDisplay, "int | None"], None]
"""Does the runs of plans, so many at a time, and shows them."""
T = TypeVar("T")


def find_launcher(launcher: str, checkpoint_every: int, track: str | None = None) -> Launch:
    """Return the launcher of that name.

    Args:
        launcher: "local" or "ray".
        checkpoint_every: See `compare`, as for the next.
        track: Name of a tracker.

    Raises:
        ValueError: if the launcher is unknown, or its package is not installed.
    """
    if launcher == "local":
        return partial(_run_here, checkpoint_every=checkpoint_every, track=track)
    if launcher == "ray":
        return partial(run_on_ray, track=track)
    raise ValueError(f"launcher must be 'local' or 'ray', got {launcher!r}")


# --- processes of this machine -------------------------------------------------------------------


@dataclass
class _Worker:
    """A process at work on one run."""

    plan: RunPlan
    process: Any
    connection: Connection
    error: str | None = None
    open: bool = field(default=True)


def _run_here(
    plans: Sequence[RunPlan],
    board: ProgressDisplay,
    jobs: int | None,
    *,
    checkpoint_every: int,
    track: str | None = None,
) -> None:
    """Do the runs in processes of this machine; on Ctrl-C stop them and raise."""
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
    with _environment(QUIET), _starting():
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
    from tokengym.base.device import auto_device

    receiver, sender = context.Pipe(duplex=False)
    here = sys.path[:], dict(os.environ), auto_device()
    process = context.Process(target=function, args=(*work, sender, *here), name=name, daemon=True)
    with _starting():
        process.start()
    sender.close()
    return process, receiver


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment while the block runs."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _starting() -> Iterator[None]:
    """Start processes that no file of the current folder and no Ctrl-C reaches.

    multiprocessing starts Python with ``-c``, which looks for modules in the current folder first:
    a pickle.py beside somebody's results would run. The path that this process has is set later.
    """
    with _environment(SAFE_PATH), _without_ctrl_c():
        yield


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, not even while they import the libraries.

    The terminal sends it to every process of the command. A new process inherits the signals that
    are blocked here, so that none is delivered to it; this process gets its own afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which would unblock Ctrl-C if the start below started it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    from tokengym.base.device import preferred_device

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


# --- Ray -----------------------------------------------------------------------------------------


def run_on_ray(
    plans: Sequence[RunPlan],
    board: ProgressDisplay,
    jobs: int | None,
    *,
    track: str | None = None,
) -> None:
    """Do the runs on a Ray cluster.

    Args:
        plans: The runs that are missing, with their folders on this machine.
        board: Shows each run's start and end.
        jobs: Runs at a time; None takes one per core of the cluster, fewer where each has several
            threads.
        track: Name of a tracker.

    Raises:
        ValueError: if Ray is not installed.
        KeyboardInterrupt: after the runs at work were stopped.
    """
    if find_spec("ray") is None:
        raise ValueError("launcher='ray' needs Ray; pip install 'tokengym[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    import ray

    ours = not ray.is_initialized()
    if ours:  # joins the cluster of RAY_ADDRESS, or starts one here
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    from tokengym.base.device import auto_device

    threads, device = plans[0].training.threads, auto_device().partition(":")[0]  # Ray numbers GPUs
    task = ray.remote(num_cpus=threads, max_retries=RETRIES)(do_run)
    waiting, working = deque(plans), dict[Any, RunPlan]()
    try:
        while waiting or working:
            resources = ray.cluster_resources()  # nodes come and go
            limit = jobs or max(1, int(resources.get("CPU", 1)) // threads)
            share = 0.0 if device == "cpu" else gpu_share(limit, int(resources.get("GPU", 0)))
            while waiting and len(working) < limit:
                plan = waiting.popleft()
                work = pickle.dumps(plan), sys.path[:], track, device
                working[task.options(num_gpus=share).remote(*work)] = plan
                board.start(plan.key)
            done, _ = ray.wait(list(working), timeout=1.0)
            for reference in done:
                plan = working.pop(reference)
                board.finish(plan.key, _bring_back(plan, reference))
    finally:
        for reference in working:
            ray.cancel(reference, force=True)
        if ours:
            ray.shutdown()


def gpu_share(jobs: int, gpus: int) -> float:
    """Return the part of a GPU that one of so many runs at a time asks Ray for; 0 hides GPUs.

    Example:
        >>> [gpu_share(jobs, gpus) for jobs, gpus in ((8, 0), (8, 1), (3, 2), (2, 8))]
        [0.0, 0.125, 0.5, 1.0]
    """
    return 1.0 / -(-jobs // gpus) if gpus else 0.0


def do_run(
    pickled: bytes,
    path: list[str],
    track: str | None = None,
    device: str = "auto",
) -> dict[str, bytes]:
    """Do one run on the node this is called on.

    Args:
        pickled: The run's plan, whose folder is on the caller's machine.
        path: Where Python finds modules.
        track: Name of a tracker.
        device: What "auto" stands for: "auto", "cpu" or "cuda", the GPU that Ray lends.

    Returns:
        The run's files by name; a run that failed has written so itself.
    """
    sys.path[:] = path
    os.environ.update(QUIET)
    from tokengym.base.device import preferred_device
    from tokengym.evaluation.runs.run import do_plan

    plan: RunPlan = pickle.loads(pickled)
    with tempfile.TemporaryDirectory() as folder:
        folder_of_run = plan.run.folder(Path(folder), plan.seed)
        try:
            with preferred_device(device):
                do_plan(replace(plan, folder=folder_of_run), track=track)
        except Exception:
            if not (folder_of_run / LAST).exists():
                raise
        files = sorted([*folder_of_run.iterdir(), *folder_of_run.glob("tensorboard/*")])
        return {str(f.relative_to(folder_of_run)): f.read_bytes() for f in files if f.is_file()}


def _bring_back(plan: RunPlan, reference: Any) -> str | None:
    """Write a finished run's files and return the error it ended with, if any."""
    import ray

    try:
        files: Mapping[str, bytes] = ray.get(reference)
    except ray.exceptions.RayError as lost:
        text = describe(lost)[:500]
        record_failure(plan, text)
        return text
    folder = plan.folder
    assert folder is not None
    for name in sorted(files, key=lambda name: name == LAST):
        write_bytes(folder / name, files[name])
    result: dict[str, Any] = read_json(folder / LAST)
    error: str | None = result.get("error")
    return error
