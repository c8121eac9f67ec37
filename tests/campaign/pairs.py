"""Two processes on one folder: one is refused in one line, the other's numbers are right."""

import tempfile
from pathlib import Path

import numpy as np

from tests.campaign.kills import COMMANDS, command, results, uninterrupted
from tests.campaign.outcome import Command, LostError, Outcome, try_cases


def one_pair(random: np.random.Generator) -> None:
    """Start a command twice on one folder, up to half of its time apart."""
    name = str(random.choice(list(COMMANDS)))
    whole = uninterrupted(name)
    with tempfile.TemporaryDirectory() as scratch:
        first = Command(command(name, scratch))
        first.wait(float(random.uniform(0, 0.5 * whole.seconds)))
        second = Command(command(name, scratch))
        ends = [(printed, status) for status, printed in (first.finish(), second.finish())]
        if any("Traceback" in printed for printed, _ in ends):
            raise LostError(f"{name}: a traceback")
        if all(status for _, status in ends):
            raise LostError(f"{name}: both were refused")
        if results(Path(scratch)) != whole.results:
            raise LostError(f"{name}: other numbers")
        refused = [printed for printed, status in ends if status]
        if not refused:
            raise LostError(f"{name}: neither was refused")
        line = refused[0].strip().splitlines()[-1]
        if "is in use by process" not in line and "already" not in line:
            raise LostError(f"{name}: the refusal does not name the process: {refused[0]!r}")


def pairs(count: int, seed: int) -> Outcome:
    """Try ``count`` pairs of processes."""
    return try_cases("pairs", one_pair, count, seed)
