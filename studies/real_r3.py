"""What does picking by R3 do to a chat model's answers? Best of 8 by SmolLM2, judged by MiniLM.

    python -m studies.real_r3 run --out runs/real_r3
    python -m studies.real_r3 train --data DATA --out runs/real_r3
    python -m studies.real_r3 publish --out runs/real_r3   # fills the page

Every question of the bundle smollm2-answers is answered eight times, in up to 48 tokens: about nine
CPU minutes, in four parts, of which those that are there are not repeated. All rules pick from the
same answers. Then policies are trained by two of the rules on other questions, those of AlpacaFarm
in DATA (r3/alpacafarm_val.json), and answer the same questions once: a quarter of an hour a run.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from tokengym import ComparisonConfig
from tokengym.agents import PPO, CausalLMPolicy
from tokengym.agents.rollouts import GivenPrompts, as_sampler
from tokengym.base import read_jsonl, write_jsonl
from tokengym.envs import Episode, bundled
from tokengym.evaluation import run as run_one
from tokengym.evaluation.measure import copy_rate, distinct, rouge, words
from tokengym.evaluation.report import number
from tokengym.evaluation.runs import EvaluationSettings, TaskSettings, training_settings
from tokengym.lab.collect import CollectionConfig, collect_to_file
from tokengym.lab.protocol import PRICE
from tokengym.lab.study import (
    DOCS,
    Data,
    Docs,
    Out,
    command_line,
    deadline,
    read_rows,
    write_rows,
)
from tokengym.lab.tables import beside_first, fill, grouped, markdown_table
from tokengym.rewards import make_reward

BUNDLE, SAMPLES, LENGTH = "smollm2-answers", 8, 48
ANSWERS, PUBLISHED, PAGE = "answers.jsonl", "real_model/r3.csv", "real_model.md"
Rule = Callable[[Mapping[str, float]], float]
PICKED: dict[str, Rule] = {
    "relevance": lambda p: p["relevance_query"],
    "relevance x LI": lambda p: p["relevance_query"] * p["length_incentive"],
    "relevance x RP": lambda p: p["relevance_query"] * p["repetition_penalty"],
    "R3": lambda p: p["score"],
    "LI": lambda p: p["length_incentive"],
}
"""Rule -> what it picks by. R3 is the whole score, which reads the reference of a constrained
query; the others pay r_x for every query, and LI alone reads no meaning."""
FIGURES = {
    "score": "R3",
    "relevance_query": "r_x",
    "length": "tokens",
    "copied_words": "words out of the question",
    "copies": "copies of the question",
    "different_bigrams": "different bigrams",
    "rouge_l": "ROUGE-L",
    "key_words": "key words of the reference",
}
"""Column -> head of the tables."""
PARTS = ("length_incentive", "repetition_penalty")
TYPES = ("OPENENDED", "CONSTRAINED")
LEAST_LETTERS = 4
"""Shortest word that counts as a key word."""
ENV = "tokengym/QuestionAnswer-v0"
TRAINED = {
    "relevance": "r3:length_incentive=false,repetition_penalty=false,reward_branching=false",
    "R3": "r3",
}
"""Rule of a trained policy -> its reward."""
TRAINING: dict[str, Any] = {
    **{"steps": 12, "batch_size": 24, "max_new_tokens": LENGTH, "learning_rate": 3e-3},
    **{"kl_coef": PRICE, "normalize": "running:window=512", "n_minibatches": 4},
    **{"value_network": "trunk"},
}
"""Beside the bundle's own settings."""
SEEDS = range(2)
LONGEST_QUESTION = 16
"""Words of the longest question to train on."""
TRAINED_ANSWERS, TRAINED_RUNS = "r3_trained.csv", "r3_runs.csv"
REACHED = ("score", "kl", "length")
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training by one of the rules."""

    rule: str
    """One of `TRAINED`."""
    seed: int
    """Seed of the training and of the answers."""

    @property
    def folder(self) -> str:
        """Name of the folder of its files."""
        return f"{self.rule}_{self.seed}"

    def config(self, questions: Path) -> ComparisonConfig:
        """Return the comparison that it is a run of.

        Args:
            questions: File of the questions to train on.
        """
        return ComparisonConfig(
            env="QuestionAnswer",
            rewards=(TRAINED[self.rule],),
            seeds=1,
            training=training_settings(ENV, bundle=BUNDLE, **TRAINING),
            evaluation=EvaluationSettings(every=TRAINING["steps"], episodes=16, samples=0),
            task=TaskSettings(
                bundle=BUNDLE,
                dataset=str(questions),
                reference_column="reference",
                query_type_column="query_type",
            ),
        )


WORKS = [Run(rule=rule, seed=seed) for seed in SEEDS for rule in TRAINED]
"""All trainings, in the order of their making."""


def run(out: Out) -> None:
    """Sample the answers that are missing.

    Args:
        out: Folder of the study's runs.
    """
    if (out / ANSWERS).exists():
        return
    questions = bundled(BUNDLE)
    config = CollectionConfig(
        env="QuestionAnswer",
        num_prompts=sum(len(questions.prompts(split)) for split in ("train", "test")),
        n=SAMPLES,
        keep="all",
        reward="r3",
        split="all",
        task=TaskSettings(bundle=BUNDLE),
    )
    print(collect_to_file(config, out / ANSWERS, report=lambda done: print(done, flush=True)))


def train(data: Data, out: Out, until: str | None = None) -> None:
    """Train the runs that are missing, and let each answer the bundle's questions.

    Args:
        data: Folder of the texts.
        out: Folder of the study's runs.
        until: Time of day, HH:MM, after which nothing begins.
    """
    end = deadline(until)
    questions = out / "questions.jsonl"
    write_jsonl(questions, list(typed_questions(data)))
    for work in WORKS:
        folder = out / work.folder
        if (folder / ANSWERS).exists():
            continue
        if datetime.now() >= end:
            return
        config, agent = work.config(questions), folder / "agent"
        if not (folder / TRAINED_RUNS).exists():
            record = run_one(config, TRAINED[work.rule], work.seed, save=agent)
            rows = [
                {
                    **vars(work),
                    "step": point["step"],
                    **{k: round(point[k], 4) + 0.0 for k in REACHED},
                }
                for point in record.curve
            ]
            write_rows(folder / TRAINED_RUNS, rows)
        answer(PPO.load(agent).policy, folder / ANSWERS, seed=work.seed)
        print(f"{datetime.now():%H:%M:%S} {work} answered", flush=True)


def typed_questions(data: Path) -> Iterator[Row]:
    """Yield AlpacaFarm's questions of one line and few words, with answer and type."""
    rows = json.loads((data / "r3/alpacafarm_val.json").read_text(encoding="utf-8"))
    for row in rows:
        asked, said = row["input"].strip(), row["output"].strip()
        if said and "\n" not in asked and len(asked.split()) <= LONGEST_QUESTION:
            yield {"prompt": asked, "reference": said, "query_type": row["qtype"]}


def answer(
    policy: CausalLMPolicy, file: Path, *, seed: int | None = None, types: Sequence[str] = TYPES
) -> None:
    """Let a policy answer the bundle's questions once, and keep the answers.

    Args:
        policy: Who answers.
        file: File that the answers are written to.
        seed: Seed of the sampling; None takes the likeliest answers.
        types: Types of the questions.
    """
    env = gym.make_vec(ENV, num_envs=1, bundle=BUNDLE, reward=None, split="all")
    chosen = GivenPrompts(env)
    asked = [index for index, prompt in enumerate(chosen.prompts) if prompt.query_type in types]
    player = as_sampler(policy, seed=seed)
    episodes = chosen.play(player, asked, deterministic=seed is None)
    fields = ("prompt", "prompt_ids", "response", "response_ids")
    write_jsonl(file, [{name: getattr(e, name) for name in fields} for e in episodes])


def style_of(episode: Episode) -> dict[str, float]:
    """Return what one answer is like, whatever was asked.

    ``copies``: 1 if it holds at least half of the question's trigrams. ``copied_words``: share of
    its words that stand in the question.
    """
    return {
        "length": len(episode.response_ids),
        "relevance_query": episode.score_parts["relevance_query"],
        "repetition": 1.0 - episode.score_parts["repetition_penalty"],
        "copies": float(copy_rate(episode.response, episode.prompt) >= 0.5),
        "copied_words": copy_rate(episode.prompt, episode.response, n=1),
    }


def key_words(question: str, reference: str) -> set[str]:
    """Return the words of a reference answer that the question does not give away.

    Example:
        >>> sorted(key_words("In which year was the tower finished?", "It was finished in 1889."))
        ['1889']
    """
    asked = {word.lower() for word in words(question)}
    said = {word.lower() for word in words(reference)}
    return {word for word in said - asked if len(word) >= LEAST_LETTERS and word.isalnum()}


def key_word_share(episode: Episode) -> float:
    """Return the share of the reference's key words that an answer says; NaN if it has none."""
    wanted = key_words(episode.prompt, episode.reference or "")
    said = {word.lower() for word in words(episode.response)}
    return len(wanted & said) / len(wanted) if wanted else float("nan")


def figures(file: Path) -> list[Row]:
    """Return a row per answer of a file of answers: its question, scores and style."""
    bundle = bundled(BUNDLE)
    asked = {p.text: p for split in ("train", "test") for p in bundle.prompts(split)}
    numbers = {text: index for index, text in enumerate(asked)}
    episodes = [
        Episode(
            prompt=row["prompt"],
            prompt_ids=row["prompt_ids"],
            response=row["response"],
            response_ids=row["response_ids"],
            reference=asked[row["prompt"]].reference,
            query_type=asked[row["prompt"]].query_type,
        )
        for row in read_jsonl(file)
    ]
    encoder = make_reward("r3", encoder=bundle.encoder, max_len=LENGTH).scorer
    scores = encoder.bind(bundle.tokenizer).score(episodes)
    rows = []
    for row, episode in enumerate(episodes):
        parts = {name: float(values[row]) for name, values in scores.parts.items()}
        scored = Episode(**{**vars(episode), "score_parts": parts})
        measured = {
            "score": float(scores.values[row]),
            **style_of(scored),
            **{name: parts[name] for name in PARTS},
            "different_bigrams": distinct([episode.response], 2),
            "rouge_l": rouge([episode])["rouge_l"],
            "key_words": key_word_share(episode),
        }
        rows.append(
            {
                "question": numbers[episode.prompt],
                "query_type": episode.query_type,
                **{name: round(value, 4) for name, value in measured.items()},
            }
        )
    return sorted(rows, key=lambda row: row["question"])


def publish(out: Out, docs: Docs = DOCS) -> None:
    """Write the figures of the answers beside the page, and fill its tables.

    Args:
        out: Folder of the study's runs.
        docs: Folder of the page.
    """
    rows = figures(out / ANSWERS)
    write_rows(docs / PUBLISHED, rows)
    folder = (docs / PUBLISHED).parent
    answered = [work for work in WORKS if (out / work.folder / ANSWERS).exists()]
    if answered:
        files = [out / work.folder / TRAINED_RUNS for work in answered]
        runs = read_rows(*files, text=["rule"])
        write_rows(folder / TRAINED_RUNS, runs)
        rows = [
            {**vars(work), **row}
            for work in answered
            for row in figures(out / work.folder / ANSWERS)
        ]
        write_rows(folder / TRAINED_ANSWERS, rows)
    page(docs)


def page(docs: Path) -> None:
    """Fill the page's tables from the published figures."""
    rows = read_rows(docs / PUBLISHED, text=["query_type"])
    tables = {f"r3 {name}": table(rows, name) for name in TYPES}
    folder = (docs / PUBLISHED).parent
    if (folder / TRAINED_RUNS).exists():
        trained = read_rows(folder / TRAINED_ANSWERS, text=["rule", "query_type"])
        for name in TYPES:
            tables[f"r3 trained {name}"] = trained_table(rows, trained, name)
        tables["r3 runs"] = runs_table(read_rows(folder / TRAINED_RUNS, text=["rule"]))
    fill(docs / PAGE, tables)


def runs_table(rows: Sequence[Row]) -> str:
    """Return what each training moved on held-out questions like those that it learned from."""
    lines = []
    for start, end in zip(rows[::2], rows[1::2], strict=True):
        moved = [f"{number(start[name])} to {number(end[name])}" for name in ("score", "length")]
        lines.append([start["rule"], f"{start['seed']:.0f}", *moved, number(end["kl"])])
    return markdown_table(["trained by", "seed", "score", "tokens", "KL at the end"], lines)


Figures = dict[str, dict[float, float]]
"""Column -> figure of each question; NaN where the reference has no key word."""


def means(rows: Sequence[Row], query_type: str) -> Figures:
    """Return the mean figures of the answers to each question of a type."""
    groups = grouped(
        (row for row in rows if row["query_type"] == query_type), lambda row: float(row["question"])
    )
    return {
        name: {
            question: float(np.mean([np.nan if row[name] is None else row[name] for row in group]))
            for question, group in groups.items()
        }
        for name in FIGURES
    }


def trained_table(rows: Sequence[Row], trained: Sequence[Row], query_type: str) -> str:
    """Return what trained policies answer to the questions of a type.

    First one of the untrained model's answers at random; then each rule's paired differences from
    it, a pair a question and the mean over the rule's runs.
    """
    lines = {"untrained": means(rows, query_type)}
    for rule in TRAINED:
        answered = means([row for row in trained if row["rule"] == rule], query_type)
        if answered["score"]:
            lines[f"trained by {rule}"] = answered
    return beside_first(lines, [*FIGURES.values()])


def table(rows: Sequence[Row], query_type: str) -> str:
    """Return what each rule picks among the answers to the questions of a type.

    First the mean of all answers, which is what one at random is expected to have, with Student's
    interval over the questions; then the paired differences of the picked ones from it.
    """
    answers = grouped(
        (row for row in rows if row["query_type"] == query_type), lambda row: float(row["question"])
    )
    lines = {"one at random": means(rows, query_type)}
    for rule, worth in PICKED.items():
        picked = [max(group[:SAMPLES], key=worth) for group in answers.values()]
        lines[f"best of {SAMPLES} by {rule}"] = means(picked, query_type)
    return beside_first(lines, [*FIGURES.values()])


if __name__ == "__main__":
    command_line(__doc__, run, train, publish)
