"""Damaged files of stopped runs: one line, or a run that ends as if nothing had happened."""

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.campaign.garbled import call, damage, kept_folder
from tests.campaign.kills import command, results
from tests.campaign.outcome import LostError, Outcome, try_cases

STOPS = {
    **dict.fromkeys(
        ("ppo", "online-dpo", "raft"), "tokengym.evaluation.runs.record.RunRecord.write"
    ),
    "collect": "tokengym.lab.collect.save_dataset",
    "train-reward": "tokengym.lab.training.pipeline.measure_pairs",
    "constitution": "tokengym.lab.constitution.pipeline.write_reports",
}
"""Where each command is stopped: what it keeps is complete, and its results are not written."""
UNHASHED = ("collect",)
"""Commands that read parts of their own without a hash: another number in a text is not found."""


@functools.cache
def stopped(name: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a stopped run, and the results of resuming it undamaged."""
    base = kept_folder()
    (base / "stopped").mkdir()
    arguments = command(name, base / "stopped")
    with mock.patch(STOPS[name], side_effect=KeyboardInterrupt):
        status, printed = call(arguments)
    if status != 130:
        raise RuntimeError(f"{name} was not stopped: {printed}")
    shutil.copytree(base / "stopped", base / "whole")
    status, printed = call(command(name, base / "whole"))
    if status:
        raise RuntimeError(f"{name} does not resume undamaged: {printed}")
    return base / "stopped", results(base / "whole")


def one_damage(random: np.random.Generator) -> None:
    """Damage one file of a stopped run and resume it."""
    name = str(random.choice(list(STOPS)))
    folder, right = stopped(name)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        shutil.copytree(folder, base)
        files = sorted(path for path in base.rglob("*") if path.is_file() and path.stat().st_size)
        files = [path for path in files if path.name != "pairs.jsonl" or name != "train-reward"]
        path = files[random.integers(len(files))]
        told = f"{name}: {path.relative_to(base)}, {damage(path, random)}"
        status, printed = call(command(name, base))
        if status == 1 or "Traceback" in printed:
            raise LostError(f"{told}: {printed.strip()[-500:]}")
        if status and len([line for line in printed.splitlines() if line.startswith("error")]) != 1:
            raise LostError(f"{told}: exit code {status} without one line of error")
        if not status and name not in UNHASHED and results(base) != right:
            raise LostError(f"{told}: other numbers, and no error")


def damaged(count: int, seed: int) -> Outcome:
    """Try ``count`` damaged files of stopped runs."""
    return try_cases("damaged", one_damage, count, seed)
