"""Best of n sampled answers by each component of R3, without any training.

Best-of-n maximises a reward at a known distance from the policy (KL of at most log n - (n - 1) / n
nats), so what it picks shows where the reward leads, free of PPO's luck. One set of answers per
question is sampled from the policy that copies the question now and then (see r3.py) and scored
once; all rewards pick from it.

    python -m studies.r3_selection --out runs/r3 --docs docs/results [--minilm FOLDER]
        [--worlds copying minilm]

A world that has its file in --out is not sampled again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import gymnasium as gym
import numpy as np

from studies.cells import DOCS, Docs, Out, command_line, read_rows, run_missing
from studies.r3 import SETTINGS, copying_policy, figures_of
from studies.r3_page import TITLES
from studies.relevance import minilm_folder
from studies.tables import fill, markdown_table, mean_with_interval
from tokengym.agents import PPO, collect
from tokengym.base.files import write_csv
from tokengym.envs import Episode, bundled

World = Literal["copying", "minilm"]
SAMPLES = 64
SIZES = (1, 4, 16, 64)
QUESTIONS: dict[World, int] = {"copying": 128, "minilm": 32}
"""World -> how many held-out open-ended questions are asked; MiniLM takes its time."""
FIGURES = (
    *("length", "copied_words", "copies", "repetition", "relevance_query", "clean_sentences"),
)
COLUMNS = ("world", "reward", "n", "question", *FIGURES)
Answer = TypeVar("Answer")
Rule = Callable[[Mapping[str, float]], float]
RULES: dict[str, Rule] = {
    "relevance": lambda p: p["relevance_query"],
    "relevance x LI": lambda p: p["relevance_query"] * p["length_incentive"],
    "relevance x RP": lambda p: p["relevance_query"] * p["repetition_penalty"],
    "R3": lambda p: p["relevance_query"] * p["length_incentive"] * p["repetition_penalty"],
}
"""Reward of an open-ended query, from the parts that the scorer reports."""


def sample(world: World, model: Path, minilm: Path | None) -> list[list[Episode]]:
    """Return `SAMPLES` answers to each question, scored."""
    prompts = [p for p in bundled("question_answer").prompts("test") if p.query_type == "OPENENDED"]
    prompts = prompts[: QUESTIONS[world]]
    envs = gym.make_vec(
        "tokengym/QuestionAnswer-v0",
        num_envs=SAMPLES,
        reward="r3",
        scorer=None if world == "copying" else str(minilm or minilm_folder()),
        prompts=[prompt for prompt in prompts for _ in range(SAMPLES)],
        prompt_sampling="sequential",
        max_new_tokens=SETTINGS.max_new_tokens,
    )
    agent = PPO("CausalLMPolicy", envs, policy_kwargs={"model": str(model)}, seed=0)
    episodes = collect(agent, envs, len(prompts) * SAMPLES, seed=0)
    envs.close()
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(episode.prompt, []).append(episode)
    return list(groups.values())


def picks(
    answers: Sequence[Sequence[Answer]],
    parts: Callable[[Answer], Mapping[str, float]],
    rules: Mapping[str, Rule] = RULES,
    sizes: Sequence[int] = SIZES,
) -> Iterator[tuple[str, int, int, Answer]]:
    """Yield rule, n, number of the question and the best of the first n answers to it.

    Args:
        answers: Answers to each question.
        parts: Returns what a rule reads of an answer.
        rules: By name.
        sizes: Numbers of answers.
    """
    for reward, rule in rules.items():
        for size in sizes:
            for question, group in enumerate(answers):
                values = [rule(parts(answer)) for answer in group[:size]]
                yield reward, size, question, group[values.index(max(values))]


def select(world: str, answers: Sequence[Sequence[Episode]]) -> list[dict[str, Any]]:
    """Return what each rule picks among the first n answers to each question."""
    return [
        {"world": world, "reward": reward, "n": n, "question": question, **figures_of(picked)}
        for reward, n, question, picked in picks(answers, lambda episode: episode.score_parts)
    ]


def table(rows: Sequence[Mapping[str, Any]], world: str) -> str:
    """Return the figures of the best of the most, means over questions with 95 % intervals."""
    world_rows = [row for row in rows if row["world"] == world]
    lines = []
    for label, reward, size in [
        ("one answer", "relevance", SIZES[0]),
        *((f"best of {SIZES[-1]} by {name}", name, SIZES[-1]) for name in RULES),
    ]:
        picked = [row for row in world_rows if (row["reward"], int(row["n"])) == (reward, size)]
        cells = [
            mean_with_interval(np.array([float(row[name]) for row in picked])) for name in FIGURES
        ]
        lines.append([label, *cells])
    return markdown_table(["", *(TITLES[name] for name in FIGURES)], lines)


def main(
    out: Out,
    docs: Docs = DOCS,
    minilm: Path | None = None,
    worlds: Sequence[World] = tuple(QUESTIONS),
) -> None:
    """Sample what is missing; write the csv and the tables.

    Args:
        out: Folder of the study's runs.
        docs: Folder of the study's page.
        minilm: Folder of the encoder of the world minilm; None takes the installed one.
        worlds: Worlds to sample.
    """
    policy = copying_policy("copying", out)
    assert policy is not None
    files = {world: out / f"selection-{world}.csv" for world in worlds}
    run_missing(
        worlds,
        lambda world: files[world],
        lambda world: write_csv(
            files[world], select(world, sample(world, policy, minilm)), COLUMNS
        ),
    )
    rows = read_rows(*files.values(), text=("world", "reward"))
    write_csv(docs / "r3" / "selection.csv", rows, COLUMNS)
    fill(docs / "r3.md", {f"selection {world}": table(rows, world) for world in worlds})


if __name__ == "__main__":
    command_line(__doc__, main)
