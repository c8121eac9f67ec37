"""What each of R3's components selects: the best of n sampled answers, without any training.

Best-of-n maximises a reward at a known distance from the policy (KL of at most log n - (n - 1) / n
nats), so what it picks shows where the reward leads, free of PPO's luck. One set of answers per
question is sampled from the policy that copies the question now and then (see r3.py) and scored
once; all rewards pick from it.

    python scripts/studies/r3_selection.py --out runs/r3 --docs docs/results [--minilm FOLDER]
        [--worlds copying minilm]

A world that has its file in --out is not sampled again.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from tokengym.agents import PPO, collect
from tokengym.envs import Episode, bundled
from tokengym.envs.files import write_csv
from tokengym.evaluation.report.verdict import number
from tokengym.evaluation.statistics import Array, interval
from tokengym.scripts.studies.encoders import minilm_folder
from tokengym.scripts.studies.r3 import SETTINGS, figures_of, make_copying_policy
from tokengym.scripts.studies.r3_page import TITLES, read_rows
from tokengym.scripts.studies.tables import fill, markdown_table

SAMPLES = 64
SIZES = (1, 4, 16, 64)
QUESTIONS = {"copying": 128, "minilm": 32}
"""World -> how many held-out open-ended questions are asked; MiniLM takes its time."""
FIGURES = (
    *("length", "copied_words", "copies", "repetition", "relevance_query", "clean_sentences"),
)
COLUMNS = ("world", "reward", "n", "question", *FIGURES)
RULES: dict[str, Callable[[Mapping[str, float]], float]] = {
    "relevance": lambda p: p["relevance_query"],
    "relevance x LI": lambda p: p["relevance_query"] * p["length_incentive"],
    "relevance x RP": lambda p: p["relevance_query"] * p["repetition_penalty"],
    "R3": lambda p: p["relevance_query"] * p["length_incentive"] * p["repetition_penalty"],
}
"""What an open-ended query pays, from the parts that the scorer reports."""


def sample(world: str, model: Path, minilm: Path | None) -> list[list[Episode]]:
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


def select(world: str, answers: Sequence[Sequence[Episode]]) -> list[dict[str, Any]]:
    """Return what each rule picks among the first n answers to each question."""
    return [
        {
            "world": world,
            "reward": reward,
            "n": size,
            "question": question,
            **figures_of(max(group[:size], key=lambda episode: rule(episode.score_parts))),
        }
        for reward, rule in RULES.items()
        for size in SIZES
        for question, group in enumerate(answers)
    ]


def table(rows: Sequence[Mapping[str, Any]], world: str) -> str:
    """Return the figures of the best of the most, means over questions with 95 % intervals."""
    own = [row for row in rows if row["world"] == world]
    lines = []
    for label, reward, size in [
        ("one answer", "relevance", SIZES[0]),
        *((f"best of {SIZES[-1]} by {name}", name, SIZES[-1]) for name in RULES),
    ]:
        picked = [row for row in own if (row["reward"], int(row["n"])) == (reward, size)]
        cells = [_cell(np.array([float(row[name]) for row in picked])) for name in FIGURES]
        lines.append([label, *cells])
    return markdown_table(["", *(TITLES[name] for name in FIGURES)], lines)


def _cell(values: Array) -> str:
    low, high = interval(values, lambda sample: float(sample.mean()))
    return f"{number(float(values.mean()))} ({number(low)} to {number(high)})"


def main() -> None:
    """Sample what is missing; write the csv and the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path, required=True, help="folder of r3.md and r3/")
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--worlds", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    policy = arguments.out / "copying_policy"
    if not (policy / "config.json").exists():
        make_copying_policy(policy)
    rows: list[Mapping[str, Any]] = []
    for world in arguments.worlds:
        file = arguments.out / f"selection-{world}.csv"
        if not file.exists():
            write_csv(file, select(world, sample(world, policy, arguments.minilm)), COLUMNS)
        rows += read_rows(file)
    write_csv(arguments.docs / "r3" / "selection.csv", rows, COLUMNS)
    places = {f"selection {world}": table(rows, world) for world in arguments.worlds}
    fill(arguments.docs / "r3.md", places)


if __name__ == "__main__":
    main()
