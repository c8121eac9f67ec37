"""Random kills of a command that resumes, which must then equal the uninterrupted one."""

import functools
import hashlib
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.campaign.outcome import Command, LostError, Outcome, finish, try_cases, untimed
from tokengym.base.files import is_leftover

TINY = ["--updates", "4", "--batch-size", "4", "--max-new-tokens", "6"]
FEW = ["--num-prompts", "8", "--n", "2", "--max-new-tokens", "6"]
COMMANDS = {
    "compare": ["compare", "--rewards", "sparse", "uniform", "--seeds", "1", "--jobs", "1", *TINY],
    "ppo": ["train", "--reward", "uniform", *TINY],
    "online-dpo": ["train", "--agent", "online-dpo", "--iterations", "3", *FEW],
    "raft": ["train", "--agent", "raft", "--iterations", "3", *FEW],
    "dpo": ["train", "--agent", "dpo", "--epochs", "3", "--batch-size", "4", *FEW],
    "collect": ["collect", "--num-prompts", "96", "--n", "2", "--max-new-tokens", "12"],
    "train-reward": [
        *("train-reward", "--pairs", "{pairs}", "--epochs", "4", "--batch-size", "4"),
        *("--checkpoint-seconds", "0"),
    ],
    "constitution": [
        *("constitution", "--num-prompts", "8", "--pair-prompts", "16", "--ppo-steps", "2"),
        *("--batch-size", "4", "--eval-episodes", "4", "--max-new-tokens", "6"),
    ],
}
LAST = dict.fromkeys(("ppo", "online-dpo", "raft", "dpo"), "run/*/*/run.json") | {
    "collect": "run.jsonl",
    "train-reward": "run",
}
"""The file that is written last, of commands that refuse a run that has finished.

A comparison is always repeated, since one that lost a worker ends with a failed run.
"""
PAIRS = "".join(
    json.dumps({"prompt": f"film {i}", "chosen": "so good", "rejected": "a bad one"}) + "\n"
    for i in range(24)
)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = ("parent", "worker", "group")


class Whole(NamedTuple):
    """A command that nobody disturbed."""

    seconds: float
    results: dict[str, Any]
    size: int
    """Bytes that it wrote and kept."""


@functools.cache
def uninterrupted(name: str) -> Whole:
    """Return what a command does when nobody disturbs it."""
    with tempfile.TemporaryDirectory() as scratch:
        finish(["envs"])  # which imports the libraries, the first time
        began = time.monotonic()
        status, printed = finish(command(name, scratch))
        if status:
            raise RuntimeError(f"{name} fails without a kill: {printed}")
        took_s, folder = time.monotonic() - began, Path(scratch)
        size = sum(path.stat().st_size for path in folder.rglob("*"))
        return Whole(took_s, results(folder), size)


def command(name: str, folder: str | Path) -> list[str]:
    """Return a command that writes in a folder."""
    pairs = Path(folder, "pairs.jsonl")
    if name == "train-reward" and not pairs.exists():
        pairs.write_text(PAIRS)
    out = f"{folder}/run{'.jsonl' if name == 'collect' else ''}"
    return [part.format(pairs=pairs) for part in COMMANDS[name]] + ["--out", out]


def results(folder: Path) -> dict[str, Any]:
    """Return what a command found, without times, by path within its folder."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        if is_leftover(path):
            continue
        name = str(path.relative_to(folder))
        if path.match("curve*.csv"):
            found[name] = untimed(path)
        elif path.name in ("run.jsonl", "evaluation.json", "measures.json"):
            found[name] = path.read_text()
        elif path.suffix == ".safetensors" and ".previous/" not in name:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def is_done(name: str, folder: Path) -> bool:
    """Return whether a command has finished and refuses to be repeated."""
    return name in LAST and any(folder.glob(LAST[name]))


def victim(parent: int, target: str) -> int:
    """Return the process to kill: the parent, or its youngest child if it has one."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    found = children.read_text().split() if target == "worker" and children.exists() else []
    return int(found[-1]) if found else parent


def one_kill(random: np.random.Generator) -> None:
    """Kill a command once to three times, resume it and compare its results."""
    name = str(random.choice(list(COMMANDS)))
    whole = uninterrupted(name)
    told = []
    with tempfile.TemporaryDirectory() as scratch:
        arguments = command(name, scratch)
        for _ in range(int(random.integers(1, 4))):
            number, target = SIGNALS[random.integers(3)], str(random.choice(TARGETS))
            after_s = float(random.uniform(0.05, 1.0)) * whole.seconds
            told.append(f"{number.name} to {target} after {after_s:.1f} s")
            process = Command(arguments)
            if not process.wait(after_s):
                if target == "group":
                    os.killpg(process.pid, number)
                else:
                    os.kill(victim(process.pid, target), number)
            try:
                _, printed = process.finish(3 * whole.seconds + 60)
            except LostError as error:
                raise LostError(f"{name} after {'; '.join(told)}: {error}") from None
            if "Traceback" in printed:
                raise LostError(f"{name}, a traceback after {'; '.join(told)}: {printed[-300:]!r}")
            done = is_done(name, Path(scratch))
            if done:
                told[-1] += " (done by then)"
                break
        if not done:
            retry = ["--retry-failed"] if name == "compare" else []
            status, printed = finish([*arguments, *retry])
            if status:
                last = printed.strip().splitlines()[-1:]
                raise LostError(f"{name} does not resume after {'; '.join(told)}: {last}")
        found = results(Path(scratch))
        if found != whole.results:
            files = [f for f in {**found, **whole.results} if found.get(f) != whole.results.get(f)]
            what = f"other numbers in {', '.join(files[:4])}" if found else "no result"
            raise LostError(f"{name}, {what} after {'; '.join(told)}")


def kills(count: int, seed: int) -> Outcome:
    """Try ``count`` commands, each killed once to three times."""
    return try_cases("kills", one_kill, count, seed)
