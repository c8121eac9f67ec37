"""Does what is learned about some things hold for others? QuestionAnswer with things held out.

The bundled test questions are worded anew and ask about things that training questions ask about as
well. Here the training questions about a third of the things are left out, another third for each
seed, and the test questions about these are set against those about the others.

    python -m studies.entities run --out runs/entities [--until 12:25]
    python -m studies.entities publish --out runs/entities
    python -m studies.entities page
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from tokengym import ComparisonConfig
from tokengym.agents.offline import ResponseCollector, Sampling, make_policy
from tokengym.envs import bundled
from tokengym.evaluation.runs import EvaluationSettings, RunRecord, TaskSettings, training_settings
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.makers.corpora.questions import all_questions
from tokengym.lab.makers.corpora.world import entities
from tokengym.lab.makers.other_prompts import read_prompts, with_prompts
from tokengym.lab.study import Cell, Drawn, Published, Row, Study
from tokengym.lab.tables import (
    difference,
    markdown_table,
    mean,
    student_mean,
)
from tokengym.rewards import gold_scorer

ENV = "tokengym/QuestionAnswer-v0"
RULES = ("r3-dense", "sparse")
SEEDS = range(5)
SHARE = 3
"""One thing in so many is held out."""
TEST_QUESTIONS, REPEATS = 260, 8
"""Held-out questions, and responses to each of a trained policy. One is too few: the untrained
policy's single responses to new things had 0.03 to 0.13 more gold than those to known things, 64
responses to each at most 0.04 less."""
GROUPS = ("known", "new")
"""Test questions about things that training questions ask about as well, and about the others."""
DRAWN, DRAW_SEED = 64, 0
"""Responses of the untrained policy to each test question."""
START = "entities_start.csv"


def held_out(seed: int) -> frozenset[str]:
    """Return the names of the things that no training question asks about, of each kind a third."""
    rng = np.random.default_rng(seed)
    names: dict[str, list[str]] = {}
    for entity in entities():
        names.setdefault(entity.kind, []).append(entity.name)
    return frozenset(
        str(name)
        for kind_names in names.values()
        for name in rng.choice(kind_names, len(kind_names) // SHARE, replace=False)
    )


def asked_about() -> dict[str, str]:
    """Return the name of the thing that each question asks about, by the question."""
    return {question.text: question.entity.name for question in all_questions()}


def group_of(seed: int) -> Callable[[str], str]:
    """Return the function that says which of `GROUPS` a question belongs to."""
    about, without = asked_about(), held_out(seed)
    return lambda question: "new" if about[question] in without else "known"


def split(seed: int, out: Path) -> Path:
    """Return the folder of the bundle without training questions about the things held out."""
    group = group_of(seed)
    source = bundled("question_answer").path
    rows = [
        row
        for row in read_prompts(source)
        if row["split"] == "test" or group(row["prompt"]) == "known"
    ]
    return with_prompts(source, rows, out / "bundles" / f"{seed}")


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of: the task's own settings."""
    training = training_settings(ENV)
    responses = REPEATS * TEST_QUESTIONS
    return ComparisonConfig(
        env="QuestionAnswer",
        rewards=(run.rule,),
        seeds=1,
        training=training,
        evaluation=EvaluationSettings(every=training.steps, episodes=responses, samples=responses),
        task=TaskSettings(bundle=str(split(run.seed, out))),
    )


def draw_start(out: Path) -> list[Row]:
    """Return the gold score of the untrained policy's responses by question."""
    del out
    lengths: dict[str, Any] = training_settings(ENV).lengths()
    envs: Any = gym.make_vec(ENV, num_envs=1, reward="r3", split="test", **lengths)
    judge = gold_scorer(bundled("question_answer"))
    assert judge is not None
    collector = ResponseCollector(envs, sampling=Sampling(n=DRAWN), max_rows=256)
    groups = collector.collect(make_policy(envs), range(TEST_QUESTIONS), seed=DRAW_SEED)
    return [
        {"question": group[0].prompt, "gold_score": round(mean(judge.score(group).values), 4)}
        for group in groups
    ]


def measure(run: Cell, record: RunRecord) -> list[Row]:
    """Return a row per group of test questions, before and after."""
    belongs = group_of(run.seed)
    rows: list[Row] = []
    for point in record.curve:
        for group in GROUPS:
            golds = [
                row["gold_score"]
                for row in record.samples
                if row["step"] == point["step"] and belongs(row["prompt"]) == group
            ]
            figures = {"responses": len(golds), "gold_score": round(mean(golds), 4)}
            kl = round(point["kl"], 4)
            rows.append({"step": point["step"], "group": group, **figures, "kl": kl})
    return rows


def tables(published: Published) -> dict[str, str]:
    """Return the page's table."""
    rows = [row for points in published.runs.each.values() for row in points]
    return {"entities": table(rows, published.drawn[START])}


def before(start: Sequence[Row], seed: int) -> dict[str, float]:
    """Return the untrained policy's gold by group of test questions.

    Args:
        start: A row per question, the mean over `DRAWN` responses.
        seed: Seed of the things held out.
    """
    belongs = group_of(seed)
    return {
        group: mean([row["gold_score"] for row in start if belongs(row["question"]) == group])
        for group in GROUPS
    }


def after(rows: Sequence[Row], rule: str) -> dict[int, dict[str, float]]:
    """Return gold at the end of a rule's runs, by seed and group."""
    by_seed: dict[int, dict[str, float]] = {}
    for row in sorted(rows, key=lambda row: row["step"]):  # the last of a run stays
        if row["rule"] == rule:
            by_seed.setdefault(int(row["seed"]), {})[row["group"]] = row["gold_score"]
    return by_seed


def table(rows: Sequence[Row], start: Sequence[Row]) -> str:
    """Return what each rule gains on known and on new things, and the difference by seed."""
    lines = []
    for rule in RULES:
        ends = after(rows, rule)
        if len(ends) < 2:
            continue
        starts = {seed: before(start, seed) for seed in ends}
        line = [f"`{rule}`", str(len(ends))]
        gained = {}
        for group in GROUPS:
            gained[group] = [ends[seed][group] - starts[seed][group] for seed in ends]
            levels = (mean([golds[seed][group] for seed in ends]) for golds in (starts, ends))
            line += [" to ".join(f"{level:.3f}" for level in levels), student_mean(gained[group])]
        gap = paired_difference(gained["known"], gained["new"])
        lines.append([*line, difference(gap)])
    head = ["reward", "seeds", "gold, known things", "gain", "gold, new things", "gain"]
    return markdown_table([*head, "known minus new, by gain"], lines)


STUDY = Study(
    document="rewards.md",
    folder="rewards",
    axes={"rule": str},
    rounds=lambda: [([Cell(rule=rule)], SEEDS) for rule in RULES],
    config=config,
    measure=measure,
    tables=tables,
    drawn=(Drawn(file=START, parts={f"rewards/{START}": draw_start}, text=("question",)),),
    first_rate=None,
    runs="entities.csv",
    columns=("group",),
    holm="table",
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
