"""Does a real model learn from a verifier? SmolLM2 adds one-digit numbers and spells backward.

    python -m studies.real_reasoning run --out runs/real_reasoning [--until 04:40]
    python -m studies.real_reasoning publish --out runs/real_reasoning

Best-of-n of the untrained policy and its likeliest answers come first, then the two learners on
both data sets, seed by seed. A run takes about four CPU minutes; one that is there is not
repeated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokengym.base.files import write_csv
from tokengym.evaluation.measure.references import reference_lines
from tokengym.evaluation.report.verdict import number
from tokengym.evaluation.runs.config import ComparisonConfig, TaskSettings
from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
from tokengym.evaluation.runs.run import make_agent, make_evaluator, run_references
from tokengym.evaluation.runs.run import run as run_one
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.study import DOCS, Docs, Out, command_line, deadline, read_rows
from tokengym.lab.tables import after_holm, fill, markdown_table, student_mean

ENV, RULE = "tokengym/ReasoningGym-v0", "sparse"
UPDATES, ROWS, PROMPTS = 24, 32, 48
LEARNERS = ("grpo", "loo")
SEEDS = range(3)
TRAINING: dict[str, Any] = {
    **{"steps": UPDATES, "batch_size": ROWS, "learning_rate": 1e-3, "lora_rank": 8},
    **{"group_size": 8, "n_epochs": 1, "n_minibatches": 4, "micro_batch_size": 8},
    **{"kl_in": "loss", "kl_coef": 0.01, "value_network": "trunk", "dtype": "float32"},
}
"""The price is in the loss, as in GRPO's paper: in the reward, what is divided by the deviation of
a group of failures would be the price's noise."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """A data set of reasoning-gym, framed as text that a small model continues."""

    dataset: str
    """Word of the data set."""
    prompt_format: str
    """Frame of the question; the line of the answer ends the response."""
    max_new_tokens: int
    """Longest response, tokens."""


TASKS = {
    "adding": Questions(
        dataset="chain_sum:min_terms=2,max_terms=2,min_digits=1,max_digits=1,size=48",
        prompt_format="{prompt}",
        max_new_tokens=4,
    ),
    "spelling": Questions(
        dataset="spell_backward:min_word_len=3,max_word_len=3",
        prompt_format="{prompt} ->",
        max_new_tokens=6,
    ),
}
PAGE, FOLDER, RUNS, LINES = "real_model.md", "real_model", "reasoning.csv", "reasoning_lines.csv"
LIKELIEST = "likeliest.csv"
FIGURES = ("score", "right", "kl")
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run."""

    task: str
    """Name of its questions, see `TASKS`."""
    learner: str
    """Name of the estimator of advantages."""
    seed: int
    """Seed of the training."""

    def file(self, out: Path) -> Path:
        """Return the file of the run's rows."""
        return out / "runs" / f"{self.task}_{self.learner}_{self.seed}.csv"

    def config(self) -> ComparisonConfig:
        """Return the comparison that it is a run of."""
        questions = TASKS[self.task]
        return ComparisonConfig(
            env=ENV,
            rewards=(RULE,),
            seeds=1,
            training=training_settings(
                ENV,
                **TRAINING,
                advantage=self.learner,
                max_new_tokens=questions.max_new_tokens,
            ),
            evaluation=EvaluationSettings(
                every=UPDATES // 2, episodes=PROMPTS, samples=PROMPTS, reference_samples=16
            ),
            task=TaskSettings(
                model="smollm2",
                dataset=questions.dataset,
                prompt_format=questions.prompt_format,
                chat_template=False,
                stop_strings=("\n",),
            ),
        )


def pending(out: Path) -> Iterator[Cell]:
    """Yield the runs that are missing, seed by seed."""
    for seed in SEEDS:
        for task in TASKS:
            for learner in LEARNERS:
                cell = Cell(task=task, learner=learner, seed=seed)
                if not cell.file(out).exists():
                    yield cell


def run(out: Out, until: str | None = None) -> None:
    """Draw the reference samples, and do the runs that are missing, one at a time.

    Args:
        out: Folder of the study's runs.
        until: Time of day, HH:MM, after which nothing begins.
    """
    end = deadline(until)
    for task in TASKS:
        if datetime.now() >= end:
            return
        draw_lines(task, out)
    for cell in pending(out):
        if datetime.now() >= end:
            return
        record = run_one(cell.config(), RULE, cell.seed)
        rows = run_rows(cell, record.curve, record.samples)
        write_csv(cell.file(out), rows, list(rows[0]))
        print(f"{datetime.now():%H:%M:%S} {cell} {rows[-1]}", flush=True)


def draw_lines(task: str, out: Path) -> None:
    """Write what the best of n untrained responses reaches, and the likeliest, unless it is there.

    The row of the likeliest has no n.
    """
    file = out / task / LINES
    config = Cell(task=task, learner=LEARNERS[0], seed=0).config()
    if not file.exists():
        drawn = run_references(config, out / task)
        rows = reference_lines(drawn, None)["best_of_n"]
        for row in rows:
            row |= {"task": task, "right": right_of_best(drawn.scores, row["n"])}
        write_csv(file, rows, list(rows[0]))
    likeliest = out / task / LIKELIEST
    if not likeliest.exists():
        evaluator = make_evaluator(config)
        episodes = evaluator(make_agent(config, RULE, seed=0), deterministic=True).episodes
        evaluator.close()
        scores = np.array([episode.score for episode in episodes])
        row = {"score": float(scores.mean()), "task": task, "right": float((scores == 1).mean())}
        write_csv(likeliest, [row], ["n", "kl", *row])


def right_of_best(scores: NDArray[np.floating], n: int) -> float:
    """Return the chance that n of a prompt's responses hold a right one, mean over the prompts.

    1 - C(wrong, n) / C(all, n): every set of n counts alike.

    Args:
        scores: (prompts, samples) of the verifier.
        n: Responses that are drawn.

    Example:
        >>> right_of_best(np.array([[1.0, 0.0], [0.5, 0.0]]), 1)
        0.25
    """
    samples = scores.shape[1]
    wrong = (scores < 1).sum(axis=1)
    return float(np.mean([1 - comb(int(count), n) / comb(samples, n) for count in wrong]))


def run_rows(cell: Cell, curve: Sequence[Row], samples: Sequence[Row]) -> list[Row]:
    """Return the points of a run: score and KL, and the share of right answers where it is known.

    Args:
        cell: The run.
        curve: Its measurements.
        samples: Responses of the first and the last of them, with their scores.
    """
    rows = []
    for point in curve:
        scores = [sample["score"] for sample in samples if sample["step"] == point["step"]]
        right = sum(score == 1 for score in scores) / len(scores) if scores else None
        figures = {name: round(point[name], 4) + 0.0 for name in ("tokens", "score", "kl")}
        rows.append({**vars(cell), "step": point["step"], **figures, "right": right})
    return rows


def publish(out: Out, docs: Docs = DOCS) -> None:
    """Copy the lines and the runs so far beside the page, and fill its tables.

    Args:
        out: Folder of the study's runs.
        docs: Folder of the page.
    """
    lines = [out / task / name for task in TASKS for name in (LIKELIEST, LINES)]
    for name, files in (
        (LINES, [file for file in lines if file.exists()]),
        (RUNS, sorted((out / "runs").glob("*.csv"))),
    ):
        if rows := read_rows(*files, text=["task", "learner"]):
            write_csv(docs / FOLDER / name, rows, list(rows[0]))
    page(docs)


def page(docs: Path) -> None:
    """Fill the page's tables from the published figures."""
    lines, rows = (
        read_rows(file, text=["task", "learner"]) if file.exists() else []
        for file in (docs / FOLDER / LINES, docs / FOLDER / RUNS)
    )
    fill(
        docs / PAGE,
        {"reasoning lines": lines_table(lines), "reasoning runs": runs_table(rows)}
        | {"reasoning learners": learners_table(rows)},
    )


def lines_table(lines: Sequence[Row]) -> str:
    """Return the table of the likeliest answer and of best-of-n."""
    shown = []
    for row in lines:
        what = "the likeliest" if row["n"] is None else f"best of {row['n']:.0f}"
        shown.append([row["task"], what, *(_number(row[k]) for k in ("score", "right", "kl"))])
    return markdown_table(["task", "answer", "score", "right", "KL at most, nats"], shown)


def _number(value: float | None) -> str:
    return "" if value is None else number(value)


def changes(task: str, learner: str, rows: Sequence[Row]) -> dict[float, tuple[Row, Row]]:
    """Return the first and the last point of every run of a learner, by seed."""
    by_seed: dict[float, list[Row]] = {}
    for row in rows:
        if (row["task"], row["learner"]) == (task, learner):
            by_seed.setdefault(row["seed"], []).append(row)
    return {seed: (points[0], points[-1]) for seed, points in sorted(by_seed.items())}


def learners_table(rows: Sequence[Row]) -> str:
    """Return each learner's figures at the end, and GRPO's difference paired by seed."""
    lines = []
    pairs = {}
    for task in TASKS:
        ends = {}
        for learner in LEARNERS:
            runs = changes(task, learner, rows)
            if len(runs) < 2:
                return "Too few runs yet."
            ends[learner] = {seed: end for seed, (_, end) in runs.items()}
            values = [[end[k] for end in ends[learner].values()] for k in FIGURES]
            lines.append([task, f"`{learner}`", str(len(runs)), *map(student_mean, values)])
        first, second = (ends[learner] for learner in LEARNERS)
        seeds = sorted(first.keys() & second.keys())
        for figure in FIGURES:
            one, other = ([end[s][figure] for s in seeds] for end in (first, second))
            pairs[task, figure] = paired_difference(one, other)
    shown = after_holm(pairs)
    name = "`{}` minus `{}`".format(*LEARNERS)
    lines += [[task, name, "", *(shown[task, k] for k in FIGURES)] for task in TASKS]
    return markdown_table(
        ["task", "learner", "seeds", "score at the end", "right at the end", "KL at the end, nats"],
        lines,
    )


def runs_table(rows: Sequence[Row]) -> str:
    """Return the table of runs, each with its start and its end."""
    lines = []
    for task in TASKS:
        for learner in LEARNERS:
            for seed, (start, end) in changes(task, learner, rows).items():
                moved = [f"{number(start[k])} to {number(end[k])}" for k in ("score", "right")]
                lines.append([task, f"`{learner}`", f"{seed:.0f}", *moved, number(end["kl"])])
    return markdown_table(["task", "learner", "seed", "score", "right", "KL at the end"], lines)


if __name__ == "__main__":
    command_line(__doc__, run, publish)
