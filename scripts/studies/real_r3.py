"""What does picking by R3 do to a chat model's answers? Best of 8 by SmolLM2, judged by MiniLM.

    python -m tokengym.scripts.studies.real_r3 run --out runs/real_r3
    python -m tokengym.scripts.studies.real_r3 publish --out runs/real_r3   # fills the page

Every question of the bundle smollm2-answers is answered eight times, in up to 48 tokens: about nine
CPU minutes, in four parts, of which those that are there are not repeated. All rules pick from the
same answers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokengym.envs import Episode, bundled
from tokengym.envs.files import read_jsonl, write_csv
from tokengym.evaluation.measure.metrics import distinct, rouge, words
from tokengym.evaluation.runs.config import TaskSettings
from tokengym.evaluation.statistics import PairedDifference, paired_difference
from tokengym.lab.collect import CollectionConfig, collect_to_file
from tokengym.rewards.scorers.stored import load_scorer
from tokengym.scripts.studies.cells import DOCS, Docs, Out, command_line, read_rows
from tokengym.scripts.studies.r3 import style_of
from tokengym.scripts.studies.r3_page import TITLES
from tokengym.scripts.studies.r3_selection import RULES, Rule, picks
from tokengym.scripts.studies.tables import (
    after_holm,
    fill,
    markdown_table,
    student_mean,
)

BUNDLE, SAMPLES, LENGTH = "smollm2-answers", 8, 48
ANSWERS, PUBLISHED, PAGE = "answers.jsonl", "real_model/r3.csv", "real_model.md"
PICKED: dict[str, Rule] = {
    **RULES,
    "LI": lambda p: p["length_incentive"],
    "R3": lambda p: p["score"],
}
"""Rule -> what it picks by. R3 is the whole score, which reads the reference of a constrained
query; the others pay r_x for every query, and LI alone reads no meaning."""
FIGURES = {
    "score": "R3",
    **{name: TITLES[name] for name in ("relevance_query", "length", "copied_words", "copies")},
    "different_bigrams": "different bigrams",
    "rouge_l": "ROUGE-L",
    "key_words": "key words of the reference",
}
"""Column -> head of the tables."""
PARTS = ("length_incentive", "repetition_penalty")
TYPES = ("OPENENDED", "CONSTRAINED")
LEAST_LETTERS = 4
"""Shortest word that counts as a key word."""
Row = dict[str, Any]


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
    numbers = {text: place for place, text in enumerate(asked)}
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
    encoder = load_scorer(bundle.encoder, "encoder", max_len=LENGTH)
    scores = encoder.bind(bundle.tokenizer).score(episodes)
    rows = []
    for place, episode in enumerate(episodes):
        parts = {name: float(values[place]) for name, values in scores.parts.items()}
        scored = Episode(**{**vars(episode), "score_parts": parts})
        found = {
            "score": float(scores.values[place]),
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
                **{name: round(value, 4) for name, value in found.items()},
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
    write_csv(docs / PUBLISHED, rows, list(rows[0]))
    page(docs)


def page(docs: Path) -> None:
    """Fill the page's tables from the published figures."""
    rows = read_rows(docs / PUBLISHED, text=["query_type"])
    fill(docs / PAGE, {f"r3 {name}": table(rows, name) for name in TYPES})


def table(rows: Sequence[Row], query_type: str) -> str:
    """Return what each rule picks among the answers to the questions of a type.

    First the mean of all answers, which is what one at random is expected to have, with Student's
    interval over the questions; then the paired differences of the picked ones from it, bold where
    clear after Holm's correction over the table.
    """
    groups: dict[float, list[Row]] = {}
    for row in rows:
        if row["query_type"] == query_type:
            groups.setdefault(row["question"], []).append(row)
    answers = list(groups.values())
    usual = {name: [_mean(group, name) for group in answers] for name in FIGURES}
    picked: dict[str, list[Mapping[str, Any]]] = {}
    for rule, _, _, answer in picks(answers, lambda row: row, PICKED, (SAMPLES,)):
        picked.setdefault(rule, []).append(answer)
    found = {
        (rule, name): _paired([answer[name] for answer in chosen], usual[name])
        for rule, chosen in picked.items()
        for name in FIGURES
    }
    shown = after_holm(found, with_wins=False)
    first = [student_mean(_known(usual[name])) for name in FIGURES]
    lines = [["one at random", *first]]
    for rule in picked:
        cells = (shown[rule, name] for name in FIGURES)
        lines.append([f"best of {SAMPLES} by {rule}", *cells])
    return markdown_table(["", *FIGURES.values()], lines)


def _mean(group: Sequence[Row], name: str) -> float:
    return float(np.mean([np.nan if row[name] is None else row[name] for row in group]))


def _known(values: Sequence[float]) -> list[float]:
    """Return the values that are there: a reference may have no key word."""
    return [value for value in values if not np.isnan(value)]


def _paired(chosen: Sequence[float | None], usual: Sequence[float]) -> PairedDifference:
    pairs = [(a, b) for a, b in zip(chosen, usual, strict=True) if a is not None]
    return paired_difference([a for a, _ in pairs], [b for _, b in pairs])


if __name__ == "__main__":
    command_line(__doc__, run, publish)
