r"""Reward and preference models trained on pairs: bundled ones, and a file of one's own.

Three sources of pairs, each trained again for every seed, with other pairs held out:

    dialogue      two answers to a request, written by the bundled grammar; its gold score says
                  which one is better
    movie_review  two reviews after the same opening, likewise
    FILE          pairs of people, such as HH-RLHF; a small language model with byte-level BPE is
                  trained from scratch on the training side, since the bundled ones do not know its
                  words

    python -m studies.reward_training run --out runs/reward_training
    python -m studies.reward_training run --out runs/reward_training \
        --pairs harmless-base-test.jsonl.gz --name hh
    python -m studies.reward_training report --out runs/reward_training \
        --docs docs/rewards

A model that has its folder is not trained again, and one that was stopped is resumed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from studies.cells import Docs, Out, command_line
from studies.tables import fill, iqm_with_interval, markdown_table, with_interval
from tokengym.base.files import read_json, replacing
from tokengym.envs import bundled
from tokengym.evaluation.report.figures import save_reliability
from tokengym.evaluation.report.verdict import number
from tokengym.lab.makers.building.language_model import (
    ModelSize,
    new_language_model,
    train_language_model,
)
from tokengym.lab.makers.building.tokenizers import byte_tokenizer
from tokengym.lab.makers.corpora.dialogue_world import RULES
from tokengym.lab.makers.corpora.dialogues import all_requests, human_answer
from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.makers.corpora.movie_reviews import write_reviews
from tokengym.lab.makers.corpora.movie_words import LEXICON
from tokengym.rewards import (
    PreferencePair,
    RewardTraining,
    read_pairs,
    train_preference_model,
    train_reward_model,
)
from tokengym.rewards.gold.rules import gold_parts
from tokengym.rewards.gold.sentiment_lexicon import gold_score
from tokengym.rewards.maths.pairwise import ReliabilityBin
from tokengym.rewards.pairs import split_pairs

KINDS: dict[str, Callable[..., Any]] = {
    "reward": train_reward_model,
    "preference": train_preference_model,
}
BUNDLED_COUNT, BUNDLED_HELD_OUT = 4000, 1 / 8
"""Pairs of a bundled source, and the share of their prompts whose pairs are held out."""
FILE_HELD_OUT = 0.2
"""The share of a file's prompts."""
BUNDLED_TRAINING = RewardTraining(
    learning_rate=1e-3, epochs=2.0, batch_size=16, micro_batch_size=16, max_tokens=256
)
FILE_TRAINING = RewardTraining(
    learning_rate=3e-4,
    epochs=1.0,
    batch_size=16,
    micro_batch_size=16,
    max_tokens=192,
    overlong="left",
)
FILE_MODEL = ModelSize(positions=192)
FILE_VOCABULARY = 2000
FILE_STEPS, FILE_TEXT = 300, 64
"""Optimiser steps of a file's language model, and the tokens of each of its texts."""

Sides = tuple[Sequence[PreferencePair], Sequence[PreferencePair]]


def dialogue_pairs(count: int, rng: np.random.Generator) -> list[PreferencePair]:
    """Return pairs of human answers to a request, the better one by the gold rules chosen."""
    requests, dice = all_requests(), Dice(rng)
    pairs: list[PreferencePair] = []
    while len(pairs) < count:
        request = requests[rng.integers(len(requests))]
        answers = [human_answer(request, dice) for _ in range(2)]
        words = request.text.split()
        gold = [sum(gold_parts(RULES, words, text.split()).values()) for text in answers]
        pairs += _ordered(request.text, answers, gold)
    return pairs


def movie_pairs(count: int, rng: np.random.Generator) -> list[PreferencePair]:
    """Return pairs of 10 to 40 words of reviews after an opening of 2 to 7, likewise."""
    pairs: list[PreferencePair] = []
    while len(pairs) < count:
        opening, *reviews = (review.split() for review in write_reviews(3, rng))
        start = opening[: rng.integers(2, 8)]
        texts = [review[: rng.integers(10, 41)] for review in reviews]
        gold = [gold_score([*start, *text], LEXICON) for text in texts]
        pairs += _ordered(" ".join(start), [" ".join(text) for text in texts], gold)
    return pairs


Source = Literal["dialogue", "movie_review"]
BUNDLED_PAIRS: dict[Source, Callable[..., list[PreferencePair]]] = {
    "dialogue": dialogue_pairs,
    "movie_review": movie_pairs,
}


def run_bundled(out: Path, source: Source, seed: int) -> None:
    """Train both kinds on pairs of a bundled grammar, from the task's bundled language model."""
    pairs = BUNDLED_PAIRS[source](BUNDLED_COUNT, np.random.default_rng(seed))
    sides = _divide(pairs, BUNDLED_HELD_OUT)
    for kind, train in KINDS.items():
        _train(
            train,
            bundled(source).policy,
            sides,
            out / f"{source}-{kind}-{seed}",
            replace(BUNDLED_TRAINING, seed=seed, chat_template=source == "dialogue"),
        )


def run_file(out: Path, name: str, file: Path, seed: int) -> None:
    """Train a language model on a file's training side, and from it both kinds."""
    pairs = read_pairs(file, on_error="skip")
    print(pairs.report())
    order = np.random.default_rng(seed).permutation(len(pairs))
    sides = _divide([pairs[index] for index in order], FILE_HELD_OUT)
    language_model = out / f"{name}-language_model-{seed}"
    if not language_model.exists():
        _train_language_model(sides[0], language_model, seed)
    for kind, train in KINDS.items():
        training = replace(FILE_TRAINING, seed=seed)
        _train(train, language_model, sides, out / f"{name}-{kind}-{seed}", training)


def report(out: Out, docs: Docs = Path("docs/rewards")) -> None:
    """Write the table and the diagrams of all results."""
    held_out_runs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for file in sorted(out.glob("*-*-*/measures.json")):
        source, kind, _ = file.parent.name.rsplit("-", 2)
        held_out_runs.setdefault((source, kind), []).append(read_json(file)["held_out"])
    rows = []
    for (source, kind), runs in held_out_runs.items():
        figures = [_figure(runs, name) for name in _MEASURES]
        rows.append([source, kind, str(len(runs)), str(runs[0]["pairs"]), *figures])
        save_reliability(
            docs / "training" / f"{source}-{kind}.png",
            pooled([run["reliability"] for run in runs]),
            title=f"{source}, {kind} model",
        )
    header = ["pairs", "model", "seeds", "held out", *_MEASURES.values()]
    fill(docs / "training.md", {"measures": markdown_table(header, rows)})


def pooled(tables: Sequence[Sequence[Mapping[str, Any]]]) -> list[ReliabilityBin]:
    """Return one reliability table of several, pairs counted together."""
    bins = []
    for rows in zip(*tables, strict=True):
        count = sum(row["pairs"] for row in rows)
        means = {
            name: sum(row["pairs"] * (row[name] or 0.0) for row in rows) / count if count else None
            for name in ("confidence", "accuracy")
        }
        low, high = rows[0]["low"], rows[0]["high"]
        bins.append(ReliabilityBin(low=low, high=high, pairs=count, **means))
    return bins


_MEASURES = {
    "accuracy": "accuracy",
    "longer_accuracy": "accuracy of the longer",
    "loss": "loss, nats",
    "calibration_error": "calibration error",
    "length_correlation": "length correlation",
}


def _figure(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    if len(runs) == 1:  # no spread over seeds to speak of; accuracy has its interval over pairs
        low, high = runs[0].get(f"{name}_interval", (None, None))
        if low is None:
            return number(runs[0][name])
        return with_interval({"iqm": runs[0][name], "low": low, "high": high})
    return iqm_with_interval(np.array([run[name] for run in runs]))


def _divide(pairs: Sequence[PreferencePair], share: float) -> Sides:
    """Return the pairs to train on and those held out; no prompt is on both sides."""
    train, held_out = split_pairs(pairs, share)
    return [pairs[index] for index in train], [pairs[index] for index in held_out]


def _train(
    train: Callable[..., Any],
    model: Path,
    sides: Sides,
    folder: Path,
    training: RewardTraining,
) -> None:
    if folder.exists():
        return
    pairs, held_out = sides
    trained = train(model, pairs, held_out=held_out, output_dir=folder, training=training)
    metrics = trained.metrics
    print(
        f"{folder.name}: accuracy {metrics.accuracy:.3f}, loss {metrics.loss:.3f}, training "
        f"{trained.train_loss:.3f}, calibration {metrics.calibration_error:.3f}, length "
        f"{metrics.length_correlation:.3f}",
        flush=True,
    )


def _train_language_model(pairs: Sequence[PreferencePair], folder: Path, seed: int) -> None:
    """Train on windows of the pairs' dialogues and store the model."""
    texts = [pair.prompt + text for pair in pairs for text in (pair.chosen, pair.rejected)]
    tokenizer = byte_tokenizer(texts, FILE_VOCABULARY)
    ids = [[*tokens, tokenizer.eos_token_id] for tokens in tokenizer(texts)["input_ids"]]
    # Windows over all of a dialogue: its end is what the pairs differ in.
    windows = [
        tokens[start : start + FILE_TEXT]
        for tokens in ids
        for start in range(0, len(tokens), FILE_TEXT // 2)
    ]
    model = new_language_model(tokenizer, FILE_MODEL, seed=seed)
    train_language_model(
        model,
        [window for window in windows if len(window) > 1],
        steps=FILE_STEPS,
        generator=torch.Generator().manual_seed(seed),
        dropout=0.1,
    )
    with replacing(folder) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)


def _ordered(prompt: str, texts: Sequence[str], gold: Sequence[float]) -> list[PreferencePair]:
    """Return the pair in its order, or none if both are as good or the same."""
    if gold[0] == gold[1]:
        return []
    better, worse = texts if gold[0] > gold[1] else reversed(texts)
    return [PreferencePair(prompt=prompt, chosen=f" {better}", rejected=f" {worse}")]


def run(
    out: Out,
    seeds: int = 5,
    first_seed: int = 0,
    sources: Sequence[Source] = tuple(BUNDLED_PAIRS),
    pairs: Path | None = None,
    name: str = "file",
) -> None:
    """Train what is missing, seed by seed.

    Args:
        out: Folder of the study's runs.
        seeds: Trainings of each kind and source.
        first_seed: Lowest seed.
        sources: Bundled sources of pairs.
        pairs: File of pairs, used instead of the bundled sources.
        name: Name of that file in the tables.
    """
    out.mkdir(parents=True, exist_ok=True)
    for seed in range(first_seed, first_seed + seeds):
        if pairs is not None:
            run_file(out, name, pairs, seed)
        else:
            for source in sources:
                run_bundled(out, source, seed)


if __name__ == "__main__":
    command_line(__doc__, run, report)
