"""Where runs are done, behind one interface.

An executor is a function of what does a run and of the runs. It yields each run as it ends, with
its fault if it did not finish. A run's folder, on a disk that all machines share, has its spec when
it begins and its result when it has ended, so that the same command resumes whatever was stopped.
"""

import os
import pickle
import signal
import socket
from collections.abc import Callable, Generator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from tokengym.base.errors import SettingsError, Stopped
from tokengym.base.registry import Registry
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
