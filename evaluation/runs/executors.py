"""Where runs are done besides in processes of this machine, behind one interface.

An executor is a function of what does a run and of the runs. It yields each run as it ends, with
its error in one line. A run's folder, on a disk that all machines share, has its spec before it
begins and its result when it has ended, so that the same command resumes whatever was stopped.
"""

from collections.abc import Callable, Generator, Sequence
from importlib import import_module
from typing import Any

from tokengym.base.errors import SettingsError
from tokengym.base.registry import Registry
from tokengym.evaluation.runs.record import describe
from tokengym.evaluation.runs.spec import RunSpec

RunFunction = Callable[[RunSpec], str | None]
"""Does a run and returns the error it ended with, in one line; None where it finished."""
Ended = Generator[tuple[RunSpec, str | None], None, None]
"""Runs as they end, each with its error; closed, it stops those that have not ended."""
Executor = Callable[[RunFunction, Sequence[RunSpec]], Ended]
EXECUTORS: Registry[Callable[..., Executor]] = Registry("executor")
"""Executors by the name that ``--executor`` takes; their options follow it."""


def in_this_process() -> Executor:
    """Return the executor that does one run after another, here."""

    def execute(function: RunFunction, specs: Sequence[RunSpec]) -> Ended:
        for spec in specs:
            yield spec, function(spec)

    return execute


def slurm(folder: str = "runs/slurm", **parameters: Any) -> Executor:
    """Return the executor that has Slurm do runs, as one array of jobs; it needs submitit.

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
        submitter = submitit.AutoExecutor(folder=folder, cluster="slurm")
        submitter.update_parameters(**parameters)
        with submitter.batch():
            jobs = {submitter.submit(function, spec): spec for spec in specs}
        try:
            for job in submitit.helpers.as_completed(list(jobs)):
                error = job.exception()  # such as of a job that was killed
                yield jobs[job], job.result() if error is None else describe(error)
        finally:
            for job in jobs:
                if not job.done():
                    job.cancel()

    return execute


def ray_cluster(**options: Any) -> Executor:
    """Return the executor that has a Ray cluster do runs, each in a fresh process; it needs Ray.

    Args:
        options: Those of ``ray.remote``: ``num_cpus``, ``num_gpus``, ``max_retries``, ...

    Raises:
        SettingsError: if Ray is not installed.
    """
    ray = _library("ray", "ray")

    def execute(function: RunFunction, specs: Sequence[RunSpec]) -> Ended:
        def do(spec: RunSpec) -> str | None:
            return function(spec)

        ray.init(ignore_reinit_error=True)
        remote = ray.remote(max_calls=1, **options)(do)
        running = {remote.remote(spec): spec for spec in specs}
        try:
            while running:
                (ended,), _ = ray.wait(list(running), num_returns=1)
                spec = running.pop(ended)
                try:
                    error = ray.get(ended)
                except ray.exceptions.RayError as fault:  # such as of a worker that was killed
                    error = describe(fault)
                yield spec, error
        finally:
            for task in running:
                ray.cancel(task, force=True)

    return execute


EXECUTORS.register("here", in_this_process)
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
