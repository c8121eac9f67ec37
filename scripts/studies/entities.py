"""Does what is learned about some things hold for others? QuestionAnswer with things held out.

The bundled test questions are worded anew and ask about things that training questions ask about as
well. Here the training questions about a third of the things are left out, another third for each
seed, and the test questions about these are set against those about the others.

    python -m tokengym.scripts.studies.entities run --out runs/entities [--until 12:25]
    python -m tokengym.scripts.studies.entities publish --out runs/entities
    python -m tokengym.scripts.studies.entities page
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from tokengym.envs import bundled
from tokengym.envs.files import write_csv
from tokengym.evaluation.runs.config import ComparisonConfig, TaskSettings
from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
from tokengym.evaluation.runs.run import run as run_one
from tokengym.evaluation.statistics import paired_difference
from tokengym.scripts.corpora.questions import all_questions
from tokengym.scripts.corpora.world import entities
from tokengym.scripts.studies.cells import DOCS, Docs, Out, command_line, deadline, read_rows
from tokengym.scripts.studies.other_prompts import read_prompts, with_prompts
from tokengym.scripts.studies.tables import (
    difference,
    fill,
    markdown_table,
    mean,
    student_mean,
)

ENV = "tokengym/QuestionAnswer-v0"
RULES = ("r3-dense", "sparse")
SEEDS = range(5)
SHARE = 3
"""One thing in so many is held out."""
TEST_QUESTIONS = 260
GROUPS = ("known", "new")
"""Test questions about things that training questions ask about as well, and about the others."""
FILE, TEXT = "rewards/entities.csv", ("rule", "group")
Row = Mapping[str, Any]


def held_out(seed: int) -> frozenset[str]:
    """Return the names of the things that no training question asks about, of each kind a third."""
    rng = np.random.default_rng(seed)
    names: dict[str, list[str]] = {}
    for entity in entities():
        names.setdefault(entity.kind, []).append(entity.name)
    return frozenset(
        str(name)
        for own in names.values()
        for name in rng.choice(own, len(own) // SHARE, replace=False)
    )


def asked_about() -> dict[str, str]:
    """Return the name of the thing that each question asks about, by the question."""
    return {question.text: question.entity.name for question in all_questions()}


def split(seed: int, out: Path) -> Path:
    """Return the folder of the bundle without training questions about the things held out."""
    about, without = asked_about(), held_out(seed)
    source = bundled("question_answer").path
    rows = [
        row
        for row in read_prompts(source)
        if row["split"] == "test" or about[row["prompt"]] not in without
    ]
    return with_prompts(source, rows, out / "bundles" / f"{seed}")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run."""

    rule: str
    """Credit rule."""
    seed: int
    """Seed of the training and of the things held out."""

    def file(self, out: Path) -> Path:
        """Return the file of the run's rows."""
        return out / "runs" / f"{self.rule}_{self.seed}.csv"

    def config(self, out: Path) -> ComparisonConfig:
        """Return the comparison that it is a run of: the task's own settings."""
        training = training_settings(ENV)
        return ComparisonConfig(
            env="QuestionAnswer",
            rewards=(self.rule,),
            seeds=1,
            training=training,
            evaluation=EvaluationSettings(
                every=training.steps, episodes=TEST_QUESTIONS, samples=TEST_QUESTIONS
            ),
            task=TaskSettings(bundle=str(split(self.seed, out))),
        )


def measure(cell: Cell, out: Path) -> list[dict[str, Any]]:
    """Train a policy and return a row per group of test questions, before and after."""
    record = run_one(cell.config(out), cell.rule, cell.seed)
    about, without = asked_about(), held_out(cell.seed)
    rows = []
    for point in record.curve:
        for group in GROUPS:
            golds = [
                row["gold_score"]
                for row in record.samples
                if row["step"] == point["step"]
                and (about[row["prompt"]] in without) == (group == "new")
            ]
            figures = {"questions": len(golds), "gold_score": round(mean(golds), 4)}
            kl = round(point["kl"], 4)
            rows.append({**vars(cell), "step": point["step"], "group": group, **figures, "kl": kl})
    return rows


def pending(out: Path) -> Iterator[Cell]:
    """Yield the runs that are missing, all rules seed by seed."""
    for seed in SEEDS:
        for rule in RULES:
            cell = Cell(rule=rule, seed=seed)
            if not cell.file(out).exists():
                yield cell


def run(out: Out, until: str | None = None) -> None:
    """Do the runs that are missing, one at a time.

    Args:
        out: Folder of the study's runs.
        until: Time of day, HH:MM, after which no run begins.
    """
    end = deadline(until)
    for cell in pending(out):
        if datetime.now() >= end:
            return
        rows = measure(cell, out)
        write_csv(cell.file(out), rows, list(rows[0]))
        print(f"{datetime.now():%H:%M:%S} {cell}", *(row["gold_score"] for row in rows), flush=True)


def publish(out: Out, docs: Docs = DOCS) -> None:
    """Write all runs as one csv beside the page, and fill its table."""
    rows = read_rows(*sorted((out / "runs").glob("*.csv")), text=TEXT)
    write_csv(docs / FILE, rows, list(rows[0]))
    page(docs)


def page(docs: Docs = DOCS) -> None:
    """Fill the page's table from the published runs."""
    fill(docs / "rewards.md", {"entities": table(read_rows(docs / FILE, text=TEXT))})


def gains(rows: Iterable[Row], rule: str) -> dict[str, dict[float, tuple[float, float]]]:
    """Return gold before and after training, by group and seed.

    Args:
        rows: A row per run, step and group.
        rule: Credit rule.
    """
    golds: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for row in rows:
        if row["rule"] == rule:
            at = golds.setdefault((row["group"], row["seed"]), [])
            at.append((row["step"], row["gold_score"]))
    found: dict[str, dict[float, tuple[float, float]]] = {group: {} for group in GROUPS}
    for (group, seed), points in golds.items():
        found[group][seed] = min(points)[1], max(points)[1]
    return found


def table(rows: Sequence[Row]) -> str:
    """Return what each rule gains on known and on new things, and the difference by seed."""
    lines = []
    for rule in RULES:
        found = gains(rows, rule)
        seeds = sorted(found["known"])
        if len(seeds) < 2:
            continue
        line = [f"`{rule}`", str(len(seeds))]
        gained = {}
        for group in GROUPS:
            before, after = ([found[group][seed][i] for seed in seeds] for i in (0, 1))
            gained[group] = [late - early for early, late in zip(before, after, strict=True)]
            line += [f"{mean(before):.3f} to {mean(after):.3f}", student_mean(gained[group])]
        gap = paired_difference(gained["known"], gained["new"])
        lines.append([*line, difference(vars(gap))])
    head = ["reward", "seeds", "gold, known things", "gain", "gold, new things", "gain"]
    return markdown_table([*head, "known minus new, by gain"], lines)


if __name__ == "__main__":
    command_line(__doc__, run, publish, page)
