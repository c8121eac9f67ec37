"""The outcome of one part of the campaign, and how its commands are run."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
COMMAND = (
    sys.executable,
    "-c",
    "import sys; from tokengym.scripts.cli import main; sys.exit(main())",
)
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


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """Start a command of tokengym in a process group of its own."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(arguments: list[str]) -> tuple[int, str]:
    """Run a command to its end and return its exit status and what it printed."""
    process = start(arguments)
    try:
        printed, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        raise LostError(f"still running after {LIMIT_S:.0f} s") from None
    return process.returncode, printed


def untimed(curve: Path) -> list[dict[str, str]]:
    """Return the rows of a curve without their times."""
    with curve.open(newline="") as file:
        return [
            {name: value for name, value in row.items() if not name.endswith("_s")}
            for row in csv.DictReader(file)
        ]
