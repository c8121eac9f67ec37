"""Random kills of a command that resumes, which must then equal the uninterrupted one."""

import functools
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.campaign.outcome import LostError, Outcome, finish, start, try_cases, untimed

TINY = ["--steps", "4", "--batch-size", "4", "--max-new-tokens", "6"]
ROUNDS = ["--iterations", "3", "--num-prompts", "8", "--n", "2", "--max-new-tokens", "6"]
COMMANDS = {
    "compare": ["compare", "--rewards", "sparse", "uniform", "--seeds", "1", "--jobs", "1", *TINY],
    "ppo": ["train", "--reward", "uniform", *TINY],
    "online-dpo": ["train", "--agent", "online-dpo", *ROUNDS],
    "raft": ["train", "--agent", "raft", *ROUNDS],
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = ("parent", "worker", "group")


@functools.cache
def uninterrupted(name: str) -> tuple[float, dict[str, list[dict[str, str]]]]:
    """Return how long a command takes, seconds, and its curves when nobody kills it."""
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        status, printed = finish([*COMMANDS[name], "--out", f"{scratch}/run"])
        if status:
            raise RuntimeError(f"{name} fails without a kill: {printed}")
        return time.monotonic() - began, curves(Path(scratch))


def curves(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Return the curves of a folder without times, by path within it."""
    found = {str(path.relative_to(folder)): untimed(path) for path in folder.rglob("curve*.csv")}
    if not found:
        raise LostError("no curve was written")
    return found


def victim(parent: int, target: str) -> int:
    """Return the process to kill: the parent, or its youngest child if it has one."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    found = children.read_text().split() if target == "worker" and children.exists() else []
    return int(found[-1]) if found else parent


def is_complete(name: str, folder: Path) -> bool:
    """Return whether ``train`` wrote its last file: it then refuses to be repeated.

    A comparison is always repeated, since one that lost a worker ends with a failed run.
    """
    return name != "compare" and any(folder.rglob("run.json"))


def one_kill(random: np.random.Generator) -> None:
    """Kill a command once to three times, resume it and compare its curves."""
    name = str(random.choice(list(COMMANDS)))
    takes_s, expected = uninterrupted(name)
    told = []
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [*COMMANDS[name], "--out", f"{scratch}/run"]
        for _ in range(int(random.integers(1, 4))):
            number, target = SIGNALS[random.integers(3)], str(random.choice(TARGETS))
            after_s = float(random.uniform(0.2, 1.0)) * takes_s
            told.append(f"{number.name} to {target} after {after_s:.1f} s")
            process = start(arguments)
            try:
                process.wait(after_s)
            except subprocess.TimeoutExpired:
                if target == "group":
                    os.killpg(process.pid, number)
                else:
                    os.kill(victim(process.pid, target), number)
            try:
                printed, _ = process.communicate(timeout=3 * takes_s + 60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                raise LostError(f"{name} hangs after {'; '.join(told)}") from None
            if "Traceback" in printed:
                raise LostError(f"{name}, a traceback after {'; '.join(told)}")
            done = is_complete(name, Path(scratch))
            if done:
                told[-1] += " (done by then)"
                break
        if not done:
            retry = ["--retry-failed"] if name == "compare" else []
            status, printed = finish([*arguments, *retry])
            if status:
                last = printed.strip().splitlines()[-1:]
                raise LostError(f"{name} does not resume after {'; '.join(told)}: {last}")
        if curves(Path(scratch)) != expected:
            raise LostError(f"{name}, other numbers after {'; '.join(told)}")


def kills(count: int, seed: int) -> Outcome:
    """Try ``count`` commands, each killed once to three times."""
    return try_cases("kills", one_kill, count, seed)
