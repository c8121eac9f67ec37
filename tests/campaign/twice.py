"""The same command twice, in fresh processes, without variables and under load: the same bytes."""

import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tests.campaign.kills import command
from tests.campaign.outcome import LIMIT_S, LostError, Outcome, try_cases

NAMES = ("ppo", "compare", "dpo", "collect")
"""Commands that are run, by their names among those that are killed."""
CLOCKED = ("files", "hash")
"""Entries of JSON files that are hashes of files with times; times themselves end in "_s"."""
DRAWN = "report.html"
"""Page that draws scores over the seconds; what it says beside them is in summary.json."""
KEPT = ("PATH", "HOME")
"""Variables that a process is started with."""


def contents(folder: Path) -> dict[str, Any]:
    """Return all that a command wrote but wall-clock times, by path within its folder."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                found[name] = [_untimed(row) for row in csv.DictReader(file)]
        elif path.suffix == ".json":
            found[name] = _untimed(json.loads(path.read_text(encoding="utf-8")))
        elif path.is_file() and path.name != DRAWN:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _untimed(value: Any) -> Any:
    """Return plain data without wall-clock times and hashes of files that have them."""
    if isinstance(value, list):
        return [_untimed(item) for item in value]
    if not isinstance(value, dict):
        return value
    left = {k: v for k, v in value.items() if not k.endswith("_s") and k not in CLOCKED}
    return {name: _untimed(item) for name, item in left.items()}


@contextmanager
def load(loops: int) -> Iterator[None]:
    """Keep as many processors busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def once(name: str, folder: Path, *, jobs: int) -> None:
    """Run a command in a fresh process, with no variables but those of every shell.

    Raises:
        LostError: if it fails.
    """
    arguments = command(name, folder)
    if name == "compare":
        arguments += ["--jobs", str(jobs)]
    done = subprocess.run(
        [sys.executable, "-m", "tokengym.scripts.cli", *arguments],
        cwd=folder,
        env={variable: os.environ[variable] for variable in KEPT},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    if done.returncode:
        raise LostError(f"{name}: exit code {done.returncode}: {done.stderr[-300:]!r}")


def one_pair(random: np.random.Generator, name: str) -> None:
    """Run a command alone, then with a busy loop on each processor, and compare what they wrote."""
    found = []
    for loops in (0, os.cpu_count() or 1):
        with tempfile.TemporaryDirectory() as scratch, load(loops):
            once(name, Path(scratch), jobs=int(random.integers(1, 3)))
            found.append(contents(Path(scratch)))
    if differing := sorted(
        path for path in {**found[0], **found[1]} if found[0].get(path) != found[1].get(path)
    ):
        raise LostError(f"{name}, other bytes in {', '.join(differing[:4])}")


def twice(count: int, seed: int) -> Outcome:
    """Run ``count`` of the commands twice, one after another from the ``seed``-th on."""
    names = islice([*NAMES] * (seed + count), seed, None)
    return try_cases("twice", lambda random: one_pair(random, next(names)), count, seed)
