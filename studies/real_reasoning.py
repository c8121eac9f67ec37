"""Does a real model learn from a verifier? SmolLM2 adds one-digit numbers and spells backward.

    python -m studies.real_reasoning run --out runs/real_reasoning [--until 04:40]
    python -m studies.real_reasoning publish --out runs/real_reasoning

Best-of-n of the untrained policy and its likeliest answers come first, then the two learners on
both data sets, seed by seed. A run takes about four CPU minutes; one that is there is not
repeated.
"""

from collections.abc import Sequence
from functools import partial
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokengym import ComparisonConfig
from tokengym.evaluation.report import number
from tokengym.evaluation.runs import (
    EvaluationSettings,
    RunRecord,
    TaskSettings,
    run_references,
)
from tokengym.lab.study import Cell, Drawn, Published, Row, Runs, Study, single_run
from tokengym.lab.tables import after_holm, markdown_table, student_mean

ENV, RULE = "tokengym/ReasoningGym-v0", "sparse"
UPDATES, ROWS, PROMPTS = 24, 32, 48
LEARNERS = ("grpo", "loo")
TRAINING: dict[str, Any] = {
    "steps": UPDATES,
    "batch_size": ROWS,
    "learning_rate": 1e-3,
    "lora_rank": 8,
    "group_size": 8,
    "n_epochs": 1,
    "n_minibatches": 4,
    "micro_batch_size": 8,
    "kl_in": "loss",
    "kl_coef": 0.01,
    "value_network": "trunk",
    "dtype": "float32",
}
"""The price is in the loss, as in GRPO's paper: in the reward, what is divided by the deviation of
a group of failures would be the price's noise."""
TASKS: dict[str, dict[str, Any]] = {
    "adding": {
        "dataset": "chain_sum:min_terms=2,max_terms=2,min_digits=1,max_digits=1,size=48",
        "prompt_format": "{prompt}",
    },
    "spelling": {
        "dataset": "spell_backward:min_word_len=3,max_word_len=3",
        "prompt_format": "{prompt} ->",
    },
}
"""Data sets of reasoning-gym, framed as text that a small model continues; one line answers."""
LENGTHS = {"adding": 4, "spelling": 6}
"""Longest response, tokens."""
LINES, LIKELIEST = "reasoning_lines.csv", "likeliest.csv"
FIGURES = ("score", "right", "kl")


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of."""
    del out
    return single_run(
        ENV,
        RULE,
        **TRAINING,
        advantage=run.learner,
        max_new_tokens=LENGTHS[run.task],
        evaluation=EvaluationSettings(
            every=UPDATES // 2, episodes=PROMPTS, samples=PROMPTS, reference_samples=16
        ),
        task=TaskSettings(
            model="smollm2", chat_template=False, stop_strings=("\n",), **TASKS[run.task]
        ),
    )


def best_of_n(task: str, out: Path) -> list[Row]:
    """Return what the best of n untrained responses reaches."""
    first = Cell(task=task, learner=LEARNERS[0], seed=0)
    drawn = run_references(config(first, out), out / task)
    return [
        {**row, "task": task, "right": right_of_best(drawn.scores, row["n"])}
        for row in drawn.lines(None)["best_of_n"]
    ]


def likeliest(task: str, out: Path) -> list[Row]:
    """Return what the likeliest answers reach, in a row without n."""
    about = config(Cell(task=task, learner=LEARNERS[0], seed=0), out)
    evaluator = about.evaluator()
    untrained = evaluator.untrained(**about.policy_kwargs())
    episodes = evaluator(untrained, deterministic=True).episodes
    evaluator.close()
    scores = np.array([episode.score for episode in episodes])
    figures = {"score": float(scores.mean()), "task": task, "right": float((scores == 1).mean())}
    return [{"n": None, "kl": None, **figures}]


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


def measure(run: Cell, record: RunRecord) -> list[Row]:
    """Return the points of a run: score, KL, and the share of right answers where it is known."""
    del run
    rows: list[Row] = []
    for point in record.curve:
        scores = [row["score"] for row in record.samples if row["step"] == point["step"]]
        right = sum(score == 1 for score in scores) / len(scores) if scores else None
        figures = {name: round(point[name], 4) + 0.0 for name in ("tokens", "score", "kl")}
        rows.append({"step": point["step"], **figures, "right": right})
    return rows


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables."""
    return {
        "reasoning lines": lines_table(published.drawn[LINES]),
        "reasoning runs": runs_table(published.runs),
        "reasoning learners": learners_table(published.runs),
    }


def lines_table(lines: Sequence[Row]) -> str:
    """Return the table of the likeliest answer and of best-of-n."""
    rows = []
    for row in lines:
        what = "the likeliest" if row["n"] is None else f"best of {row['n']:.0f}"
        figures = ("" if row[k] is None else number(row[k]) for k in FIGURES)
        rows.append([row["task"], what, *figures])
    return markdown_table(["task", "answer", "score", "right", "KL at most, nats"], rows)


def learners_table(runs: Runs) -> str:
    """Return each learner's figures at the end, and GRPO's difference paired by seed."""
    rows, pairs = [], {}
    for task in TASKS:
        first, second = cells = [Cell(task=task, learner=learner) for learner in LEARNERS]
        for cell in cells:
            ends = [[*runs.ends(cell, figure).values()] for figure in FIGURES]
            if len(ends[0]) < 2:
                return "Too few runs yet."
            rows.append([task, f"`{cell.learner}`", str(len(ends[0])), *map(student_mean, ends)])
        for figure in FIGURES:
            if (gain := runs.difference(first, second, figure)) is not None:
                pairs[task, figure] = gain
    shown = after_holm(pairs)
    name = "`{}` minus `{}`".format(*LEARNERS)
    rows += [[task, name, "", *(shown[task, k] for k in FIGURES)] for task in TASKS]
    head = ["score at the end", "right at the end", "KL at the end, nats"]
    return markdown_table(["task", "learner", "seeds", *head], rows)


def runs_table(runs: Runs) -> str:
    """Return the table of runs, each with its start and its end."""
    rows = []
    for task in TASKS:
        for learner in LEARNERS:
            for seed, points in sorted(runs.runs.get(Cell(task=task, learner=learner), {}).items()):
                start, end = points[0], points[-1]
                moved = [f"{number(start[k])} to {number(end[k])}" for k in ("score", "right")]
                rows.append([task, f"`{learner}`", f"{seed}", *moved, number(end["kl"])])
    return markdown_table(["task", "learner", "seed", "score", "right", "KL at the end"], rows)


STUDY = Study(
    document="real_model.md",
    folder="real_model",
    axes={"task": str, "learner": str},
    rounds=lambda: [([Cell(task=t, learner=a) for t in TASKS for a in LEARNERS], range(3))],
    config=config,
    measure=measure,
    tables=tables,
    drawn=(
        Drawn(
            file=LINES,
            parts={
                f"{task}/{name}": partial(make, task)
                for task in TASKS
                for name, make in ((LIKELIEST, likeliest), (LINES, best_of_n))
            },
            text=("task",),
            part_of=lambda row: f"{row['task']}/{LIKELIEST if row['n'] is None else LINES}",
        ),
    ),
    first_rate=None,
    runs="reasoning.csv",
    holm="table",
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
