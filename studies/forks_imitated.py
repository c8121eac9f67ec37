"""Are the examples behind `red` worth as much when they are imitated? A table of details/forks.md.

`red` reads a model of the verifier that was shown 12,000 demonstrations. Here the policy learns to
write them (`SFT`): those that solve their prompt, or as many of all. Demonstrations of prompts that
are measured are left out. The rate is the best of five by the final score - c KL on a spare seed.

    python -m studies.forks_imitated run --out runs/forks_imitated
    python -m studies.forks_imitated page --out runs/forks_imitated
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from studies.forks import FOLDER, SETTINGS
from studies.forks import Cell as TrainedCell
from tokengym.agents import SFT
from tokengym.base import read_json, write_json
from tokengym.evaluation.measure import Evaluator
from tokengym.evaluation.report import number
from tokengym.lab.makers.bundles.forks import demonstrations, token_ids
from tokengym.lab.makers.corpora.forks_texts import Demonstration
from tokengym.lab.protocol import SPARE_SEED, net
from tokengym.lab.study import DOCS, Docs, Out, command_line, read_rows, run_missing, write_rows
from tokengym.lab.tables import fill, markdown_table

FILE = "imitated.csv"
BUNDLE_SEED = 0
"""Seed that the bundled models were made with."""
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
EPOCHS = 2
"""Passes over the examples, about as many as the model of the verifier was trained for."""
BATCH = 48
SEEDS = (80, 81, 82)
TRAINED = {name: TrainedCell(setting=name, learner="ppo", rule="sparse") for name in SETTINGS}
"""The study's own cell of each setting, whose prompts and price hold here too."""
Examples = Literal["solved", "any"]
EXAMPLES: tuple[Examples, ...] = ("solved", "any")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training; it is measured in every setting."""

    examples: Examples
    rate: float
    seed: int

    def file(self, out: Path) -> Path:
        """Return the file of its measurements."""
        return out / f"{self.examples}-{self.rate:g}-{self.seed}.json"


@cache
def evaluators() -> dict[str, Evaluator]:
    """Return by setting what measures its runs in forks.py: the same prompts, the same numbers."""
    return {name: cell.config().evaluator() for name, cell in TRAINED.items()}


@cache
def examples() -> dict[Examples, list[Demonstration]]:
    """Return the demonstrations that the verifier's model was shown, without measured prompts."""
    measured = {
        prompt.text
        for evaluator in evaluators().values()
        for prompt in evaluator.envs.unwrapped.prompts  # type: ignore[attr-defined]
    }
    shown = [d for d in demonstrations(BUNDLE_SEED)[1] if d.prompt not in measured]
    solved = [d for d in shown if d.chances[-1] > 0]
    drawn = np.random.default_rng(BUNDLE_SEED).permutation(len(shown))[: len(solved)]
    return {"solved": solved, "any": [shown[index] for index in drawn]}


def train(cell: Cell, out: Path) -> None:
    """Train a policy on its examples, and write what it solves in each setting."""
    chosen = examples()[cell.examples]
    rows = []
    for shown in chosen:
        ids, start = token_ids(shown), len(shown.prompt.split())
        rows.append({"prompt_ids": ids[:start], "completion_ids": ids[start:]})
    agent = SFT(
        next(iter(evaluators().values())).envs,
        rows,
        learning_rate=cell.rate,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        seed=cell.seed,
    )
    agent.train()
    measured = []
    for setting, evaluator in evaluators().items():
        metrics = evaluator(agent).metrics
        figures = {name: round(metrics[name], 4) for name in ("score", "kl")}
        measured.append({"setting": setting, "shown": len(chosen), **vars(cell), **figures})
    write_json(cell.file(out), measured)


def cells(out: Path) -> Iterator[Cell]:
    """Yield the sweeps, and then the seeds at the best rate."""
    for kind in EXAMPLES:
        sweep = [Cell(examples=kind, rate=rate, seed=SPARE_SEED) for rate in RATES]
        yield from sweep
        best = max(sweep, key=lambda cell: _worth(read_json(cell.file(out))))
        yield from (Cell(examples=kind, rate=best.rate, seed=seed) for seed in SEEDS)


def _worth(rows: list[dict[str, Any]]) -> float:
    """Return the mean of score - c KL over the settings, each at its own price."""
    return float(np.mean([net(row, TRAINED[row["setting"]].price) for row in rows]))


def run(out: Out = Path("runs/forks_imitated")) -> None:
    """Run what is missing.

    Args:
        out: Folder of the study's runs.
    """
    out.mkdir(parents=True, exist_ok=True)
    run_missing(cells(out), lambda cell: cell.file(out), lambda cell: train(cell, out))


def page(out: Out = Path("runs/forks_imitated"), docs: Docs = DOCS) -> None:
    """Publish the measurements, where there are new ones, and fill the page's table.

    Args:
        out: Folder of the study's runs.
        docs: Folder of the page.
    """
    file = docs / FOLDER / FILE
    if out.exists():
        stored = [row for cell in cells(out) for row in read_json(cell.file(out))]
        write_rows(file, stored)
    runs = [row for row in read_rows(file, text=("setting", "examples")) if row["seed"] in SEEDS]
    lines = []
    for kind in EXAMPLES:
        for setting in SETTINGS:
            here = [r for r in runs if (r["examples"], r["setting"]) == (kind, setting)]
            means = (number(float(np.mean([r[name] for r in here]))) for name in ("score", "kl"))
            lines.append(
                [kind, f"{here[0]['shown']:,.0f}", f"{here[0]['rate']:g}", setting, *means]
            )
    header = ["examples", "number", "rate", "setting", "solved", "KL"]
    fill(docs / "details/forks.md", {"imitated": markdown_table(header, lines)})


if __name__ == "__main__":
    command_line(__doc__, run, page)
