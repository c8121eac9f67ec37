"""The outcome of one part of the campaign, and how its commands are run."""

import csv
import functools
import multiprocessing.context
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

LIMIT_S = 600.0
"""Longest that one command may take, seconds; one that hangs is a lost case."""


class LostError(Exception):
    """A case broke its promise; the message says how, in one line."""


@dataclass
class Outcome:
    """Counts of one part: ``tried`` cases, of which ``lost`` broke a promise."""

    tried: int = 0
    lost: list[str] = field(default_factory=list)

    @property
    def survived(self) -> int:
        return self.tried - len(self.lost)


def try_cases(
    part: str, case: Callable[[np.random.Generator], None], count: int, seed: int
) -> Outcome:
    """Run cases ``seed`` to ``seed + count - 1``; each alone repeats from the line that is printed.

    Returns:
        The outcome; a lost case, of a broken promise or any other exception, is printed with the
        command that repeats it.
    """
    outcome = Outcome()
    for number in range(seed, seed + count):
        outcome.tried += 1
        try:
            case(np.random.default_rng(number))
        except Exception as error:
            said = error if isinstance(error, LostError) else f"{type(error).__name__}: {error}"
            line = f"python -m tests.campaign {part}=1 --seed {number}: {said}"
            outcome.lost.append(line)
            print(f"lost: {line}", flush=True)
    return outcome


class Command:
    """A command of tokengym, started in a process group of its own.

    It is forked from a process that has imported the libraries: that makes a case ten times
    cheaper. Workers of the command are started by it, as always.

    Args:
        arguments: The command line.
    """

    def __init__(self, arguments: list[str]) -> None:
        with tempfile.NamedTemporaryFile(delete=False) as file:
            self._printed = Path(file.name)
        self._process = _warm().Process(target=_run, args=(arguments, self._printed))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        while self._process.is_alive() and os.getpgid(self.pid) != self.pid:
            time.sleep(0.01)

    def printed(self) -> str:
        """Return what it has printed so far."""
        return self._printed.read_text(errors="replace")

    def wait(self, limit_s: float) -> bool:
        """Return whether it ends within a time, seconds."""
        self._process.join(limit_s)
        return self._process.exitcode is not None

    def finish(self, limit_s: float = LIMIT_S) -> tuple[int, str]:
        """Wait for its end, its workers' included; return its exit status and what it printed.

        Raises:
            LostError: if one still runs after the limit, seconds.
        """
        until = time.monotonic() + limit_s
        self.wait(limit_s)
        with suppress(ProcessLookupError):  # workers may outlive a command that was killed
            while time.monotonic() < until:
                os.killpg(self.pid, 0)
                time.sleep(0.05)
            os.killpg(self.pid, signal.SIGKILL)
            self._process.join()
            raise LostError(f"still running after {limit_s:.0f} s")
        printed = self.printed()
        self._printed.unlink()
        return int(self._process.exitcode or 0), printed


@functools.cache
def _warm() -> multiprocessing.context.ForkServerContext:
    """Return what forks processes that have imported what commands import."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            *("tests.campaign.outcome", "tokengym.agents", "tokengym.evaluation.runs.compare"),
            *("tokengym.scripts.cli", "tokengym.evaluation.report.report", "matplotlib.figure"),
            *("transformers.models.gpt2.modeling_gpt2", "stable_baselines3"),
        ]
    )
    return context


def _run(arguments: list[str], printed: Path) -> None:
    """Be the process of a command."""
    from tokengym.scripts.cli import main

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job may ignore it
    # A run of an earlier case may have started the shared server, with Ctrl-C blocked.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    file = os.open(printed, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = ["tokengym", *arguments]
    sys.exit(main())


def finish(arguments: list[str]) -> tuple[int, str]:
    """Run a `Command` to its end and return its exit status and what it printed."""
    return Command(arguments).finish()


def untimed(curve: Path) -> list[dict[str, str]]:
    """Return the rows of a curve without their times."""
    with curve.open(newline="") as file:
        return [
            {name: value for name, value in row.items() if not name.endswith("_s")}
            for row in csv.DictReader(file)
        ]
