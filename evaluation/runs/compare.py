"""The comparison: every reward with every seed, each run in a process of its own.

The folder is the state. A run that is written down is never done again, so that a comparison that
was stopped goes on where it was, and rewards or seeds can be added to a finished one.
"""

import multiprocessing
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokengym.envs.files import read_json, write_json
from tokengym.evaluation.report.results import write_comparison
from tokengym.evaluation.runs.config import (
    SETTINGS_FILE,
    ComparisonConfig,
    differences,
    missing_runs,
    run_folder,
)
from tokengym.evaluation.runs.progress import Board, Run
from tokengym.evaluation.runs.record import record_failure
from tokengym.evaluation.runs.unfinished import UNFINISHED

if TYPE_CHECKING:
    from rich.console import Console

SECONDS_TO_STOP = 5.0
Launcher = Literal["local", "ray"]
Launch = Callable[[ComparisonConfig, Path, Sequence[Run], Board, "int | None"], None]


def compare(
    config: ComparisonConfig,
    out: Path | str,
    *,
    jobs: int | None = None,
    launcher: Launcher = "local",
    checkpoint_every: int = 1,
    retry_failed: bool = False,
    console: "Console | None" = None,
) -> dict[str, Any]:
    """Run what is missing of a comparison, and write its results.

    Writes ``curves.csv``, ``summary.json``, ``curves.png`` and ``report.html`` into ``out``, and a
    folder per run. Stopped by Ctrl-C it leaves the runs that are finished; the same call goes on.

    Args:
        config: What to compare.
        out: The comparison's folder.
        jobs: Runs at a time; None takes one per core, of this machine or of the Ray cluster.
        launcher: "local" starts processes here, "ray" hands the runs to a Ray cluster (that of
            RAY_ADDRESS, or one on this machine). The numbers are the same.
        checkpoint_every: Evaluations between two checkpoints of a run here, from which the same
            call goes on if it was stopped; 0 keeps none, and a stopped run begins anew.
        retry_failed: Do failed runs again; otherwise they stay, and are shown as failed.
        console: Where progress is shown; None takes the terminal.

    Returns:
        The summary, as summary.json holds it.

    Raises:
        ValueError: if the folder holds another comparison, an environment cannot be made, every
            run failed, or Ray is wanted and not installed.
        KeyboardInterrupt: if it was stopped.
    """
    from rich.console import Console

    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}; leave it out for one per core")
    if checkpoint_every < 0:
        raise ValueError(f"checkpoint_every must be >= 0, got {checkpoint_every}; 0 keeps none")
    launch = _launch(launcher, checkpoint_every)
    out = Path(out)
    check_folder(config, out)
    if retry_failed:
        _remove_failed(config, out)
    runs = missing_runs(config, out)
    console = console or Console()
    if runs:
        with console.status("making the environments"):
            preflight(config)
        write_json(out / SETTINGS_FILE, config.as_dict())
        total = len(config.rewards) * config.seeds
        steps = config.training.steps
        with Board(console, total=total, done=total - len(runs), steps=steps) as board:
            launch(config, out, runs, board, jobs)
    return write_comparison(config, out)


def check_folder(config: ComparisonConfig, out: Path) -> None:
    """Refuse a folder that holds another comparison; rewards and seeds may have been added.

    Raises:
        ValueError: naming what differs.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the results")
    if not (out / SETTINGS_FILE).exists():
        if out.is_dir() and any(out.iterdir()):
            raise ValueError(f"{out} holds other files, no comparison; name a new folder")
        return
    there, here = read_json(out / SETTINGS_FILE), config.as_dict()
    dropped = [reward for reward in there.get("rewards", []) if reward not in config.rewards]
    grows = (
        not dropped
        and there.get("rewards", [None])[0] == config.rewards[0]
        and there.get("first_seed") == config.first_seed
        and there.get("seeds", 0) <= config.seeds
    )
    if grows:
        here = {**here, "rewards": there["rewards"], "seeds": there["seeds"]}
    found = differences(there, here)
    if found:
        raise ValueError(
            f"{out} holds another comparison: {'; '.join(found)}. Name another folder, or repeat "
            "those settings"
        )


def preflight(config: ComparisonConfig) -> None:
    """Make every environment once, so that what cannot work is said before any work is done.

    Raises:
        ValueError: whatever an environment says.
    """
    import gymnasium as gym

    for reward in config.rewards:
        kwargs = config.env_kwargs(reward, train=True)
        gym.make_vec(config.env, num_envs=min(2, config.training.batch_size), **kwargs).close()
    from tokengym.evaluation.measure.evaluate import make_eval_envs

    kwargs = config.env_kwargs(config.rewards[0], train=False)
    make_eval_envs(config.env, kwargs, num_envs=1).close()


@dataclass
class _Worker:
    """A process at work on one run."""

    run: Run
    process: Any
    connection: Connection
    error: str | None = None
    open: bool = field(default=True)


def _launch(launcher: str, checkpoint_every: int) -> "Launch":
    """Return what does the runs.

    Raises:
        ValueError: if the launcher is unknown, or its package is not installed.
    """
    if launcher == "local":
        return partial(_run_here, checkpoint_every=checkpoint_every)
    if launcher == "ray":
        from tokengym.evaluation.runs.ray_launcher import run_on_ray

        return run_on_ray
    raise ValueError(f"launcher must be 'local' or 'ray', got {launcher!r}")


def _run_here(
    config: ComparisonConfig,
    out: Path,
    runs: Sequence[Run],
    board: Board,
    jobs: int | None,
    *,
    checkpoint_every: int,
) -> None:
    """Do the runs in processes of this machine; on Ctrl-C stop them and raise."""
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    waiting, working = deque(runs), list[_Worker]()
    jobs = jobs or os.cpu_count() or 1
    try:
        while waiting or working:
            while waiting and len(working) < jobs:
                run = waiting.popleft()
                working.append(_start(context, config, out, run, checkpoint_every))
                board.start(working[-1].run)
            wait([w.connection for w in working if w.open] + [w.process.sentinel for w in working])
            for worker in working:
                _listen(worker, board)
            for worker in [w for w in working if not w.process.is_alive()]:
                _listen(worker, board)
                working.remove(worker)
                board.finish(worker.run, _ended(config, out, worker))
    finally:
        for worker in working:
            worker.process.terminate()
        for worker in working:
            worker.process.join(SECONDS_TO_STOP)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _start(
    context: Any, config: ComparisonConfig, out: Path, run: Run, checkpoint_every: int
) -> _Worker:
    receiver, sender = context.Pipe(duplex=False)
    name = f"{run[0]} seed {run[1]}"
    process = context.Process(
        target=_work,
        args=(config.as_dict(), out, run, checkpoint_every, sender, sys.path[:]),
        name=name,
        daemon=True,
    )
    process.start()
    sender.close()
    return _Worker(run, process, receiver)


def _work(
    settings: dict[str, Any],
    out: Path,
    run: Run,
    checkpoint_every: int,
    connection: Connection,
    path: list[str],
) -> None:
    """Do one run, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    sys.path[:] = path
    # Before transformers is imported: the board is the only display.
    os.environ.update(TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")
    from tokengym.evaluation.runs.record import describe
    from tokengym.evaluation.runs.run import run as do_run

    def tell(step: int, score: float) -> None:
        try:
            connection.send((step, score))
        except BrokenPipeError:
            os._exit(1)  # the parent was killed: the run ends unwritten, as after Ctrl-C

    try:
        config = ComparisonConfig.from_dict(settings)
        import torch

        torch.set_num_threads(1)  # each run has a core; threads of several would fight for them
        do_run(config, *run, out=out, report=tell, checkpoint_every=checkpoint_every)
    except Exception as error:
        connection.send(describe(error))
    finally:
        connection.close()


def _listen(worker: _Worker, board: Board) -> None:
    """Take in what a process has sent."""
    try:
        while worker.open and worker.connection.poll():
            message = worker.connection.recv()
            if isinstance(message, str):
                worker.error = message
            else:
                board.update(worker.run, *message)
    except EOFError:
        worker.open = False


def _ended(config: ComparisonConfig, out: Path, worker: _Worker) -> str | None:
    """Return the error a run ended with; one that left no result is written down as failed."""
    worker.connection.close()
    file = run_folder(out, *worker.run) / "run.json"
    if file.exists():
        return worker.error
    code = worker.process.exitcode
    error = worker.error or (
        f"its process ended with code {code} and no result"
        + ("; it was killed, perhaps for want of memory: try fewer jobs" if code == -9 else "")
    )
    record_failure(config, out, worker.run, error)
    return error


def _remove_failed(config: ComparisonConfig, out: Path) -> None:
    for reward in config.rewards:
        for seed in config.all_seeds:
            folder = run_folder(out, reward, seed)
            file = folder / "run.json"
            if file.exists() and read_json(file).get("status") != "finished":
                if (folder / UNFINISHED).exists():  # it was killed: it goes on from there
                    file.unlink()
                else:
                    shutil.rmtree(folder)
