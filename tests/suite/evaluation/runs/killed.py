"""Runs that are killed, and what they leave."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


class Killed(GeneratorExit):
    """Stands for a process that ends at once: no handler writes anything."""


def killed_at(evaluation: int) -> Callable[[int, Mapping[str, Any]], None]:
    """Return a reporter that ends the run when so many evaluations are made."""
    seen: list[int] = []

    def report(step: int, point: Mapping[str, Any]) -> None:
        seen.append(step)
        if len(seen) == evaluation:
            raise Killed

    return report


def files(folder: Path) -> dict[str, Any]:
    """Return what a run has left, but for what its clock says."""
    found: dict[str, Any] = {}
    for name in ("curve.csv", "train.csv"):
        with (folder / name).open(newline="") as file:
            found[name] = [
                {k: v for k, v in row.items() if not k.endswith("_s")}
                for row in csv.DictReader(file)
            ]
    with np.load(folder / "responses.npz") as stored:
        found["responses"] = {name: stored[name].tolist() for name in stored.files}
    found["episodes"] = (folder / "episodes.jsonl").read_text()
    return found
