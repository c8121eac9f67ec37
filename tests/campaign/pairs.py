"""Two processes on one folder: one is refused in one line, the other's numbers are right."""

import tempfile
import time
from pathlib import Path

import numpy as np

from tests.campaign.kills import COMMANDS, curves, uninterrupted
from tests.campaign.outcome import LIMIT_S, LostError, Outcome, start, try_cases


def one_pair(random: np.random.Generator) -> None:
    """Start a command twice on one folder, up to 2 s apart."""
    name = str(random.choice(list(COMMANDS)))
    _, expected = uninterrupted(name)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [*COMMANDS[name], "--out", f"{scratch}/run"]
        first = start(arguments)
        time.sleep(float(random.uniform(0, 2)))
        second = start(arguments)
        ends = [
            (process.communicate(timeout=LIMIT_S)[0], process.returncode)
            for process in (first, second)
        ]
        if any("Traceback" in printed for printed, _ in ends):
            raise LostError(f"{name}: a traceback")
        if all(status for _, status in ends):
            raise LostError(f"{name}: both were refused")
        if curves(Path(scratch)) != expected:
            raise LostError(f"{name}: other numbers")
        refused = [printed for printed, status in ends if status]
        if not refused:
            raise LostError(f"{name}: neither was refused")
        if "process" not in refused[0].strip().splitlines()[-1]:
            raise LostError(f"{name}: the refusal does not name the process: {refused[0]!r}")


def pairs(count: int, seed: int) -> Outcome:
    """Try ``count`` pairs of processes."""
    return try_cases("pairs", one_pair, count, seed)
