"""A comparison's runs on a Ray cluster: the same numbers as here, from as many machines.

A run works in a folder of its own node and brings its files back, so that no disk need be shared;
every node needs tokengym, and what the settings name by path. A run whose node is lost is done
again elsewhere; one that fails by itself is written down as failed, as it is here.
"""

import logging
import os
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokengym.envs.files import read_json, write_bytes
from tokengym.evaluation.runs.config import ComparisonConfig, run_folder
from tokengym.evaluation.runs.progress import Board, Run
from tokengym.evaluation.runs.record import describe, record_failure

RETRIES = 5
"""How often a run is begun anew because its node was lost."""
LAST = "run.json"
"""The file that makes a run count: written when the others are there."""


def run_on_ray(
    config: ComparisonConfig, out: Path, runs: Sequence[Run], board: Board, jobs: int | None
) -> None:
    """Do the runs on a Ray cluster.

    Args:
        config: The comparison.
        out: Its folder, on this machine.
        runs: What to do.
        board: Is told of each run's start and end.
        jobs: Runs at a time; None takes one per core of the cluster.

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
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(do_run)
    waiting, working = deque(runs), dict[Any, Run]()
    try:
        while waiting or working:
            cores = int(ray.cluster_resources().get("CPU", 1))  # nodes come and go
            while waiting and len(working) < (jobs or max(1, cores)):
                run = waiting.popleft()
                working[task.remote(config.as_dict(), run, sys.path[:])] = run
                board.start(run)
            done, _ = ray.wait(list(working), timeout=1.0)
            for reference in done:
                run = working.pop(reference)
                board.finish(run, _bring_back(config, out, run, reference))
    finally:
        for reference in working:
            ray.cancel(reference, force=True)
        if ours:
            ray.shutdown()


def do_run(settings: dict[str, Any], run: Run, path: list[str]) -> dict[str, bytes]:
    """Do one run on the node this is called on.

    Args:
        settings: `ComparisonConfig.as_dict`.
        run: Reward and seed.
        path: Where modules are looked for.

    Returns:
        The run's files by name; a run that failed has written so itself.
    """
    sys.path[:] = path
    os.environ.update(TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")
    import torch

    from tokengym.evaluation.runs.run import run as train

    torch.set_num_threads(1)
    config = ComparisonConfig.from_dict(settings)
    with tempfile.TemporaryDirectory() as folder:
        own = run_folder(Path(folder), *run)
        try:
            train(config, *run, out=Path(folder))
        except Exception:
            if not (own / LAST).exists():
                raise
        return {file.name: file.read_bytes() for file in sorted(own.iterdir()) if file.is_file()}


def _bring_back(config: ComparisonConfig, out: Path, run: Run, reference: Any) -> str | None:
    """Write a finished run's files and return the error it ended with, if any."""
    import ray

    try:
        files: Mapping[str, bytes] = ray.get(reference)
    except ray.exceptions.RayError as lost:
        text = describe(lost)[:500]
        record_failure(config, out, run, text)
        return text
    folder = run_folder(out, *run)
    for name in sorted(files, key=lambda name: name == LAST):
        write_bytes(folder / name, files[name])
    result: dict[str, Any] = read_json(folder / LAST)
    error: str | None = result.get("error")
    return error
