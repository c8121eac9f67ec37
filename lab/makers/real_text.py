"""A bundle from labelled texts of one's own: half of the labels make the proxy, half the gold."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast

from tokengym.envs import DatasetError
from tokengym.lab.makers.bundle_files import BuiltBundle, PromptRow
from tokengym.lab.makers.encoder import encoder_of_pairs
from tokengym.lab.makers.figures import (
    attention_rows,
    pair_accuracy,
    relative_entropy,
    rounded,
)
from tokengym.lab.makers.models import (
    DrawBatch,
    ModelSize,
    choose,
    held_out_nats,
    new_language_model,
    reward_logits,
    reward_model_from,
    sample_texts,
    train_language_model,
    train_reward_model,
)
from tokengym.lab.makers.options import BuildError, CorpusOptions
from tokengym.lab.makers.tokenizers import byte_tokenizer
from tokengym.rewards.pairs import read_table

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
"""File endings that can be read."""
MIN_ROWS = 200
"""Fewest rows to train on; a tenth of them must have each label."""
PROMPT_TOKENS = (2, 7)
"""Fewest and most tokens of a prompt, as in the ABC paper's setting."""
TEST_SHARE = 0.1
"""Share of the rows that no model is trained on, and that the test prompts come from."""
MEASURED_TOKENS = 24
"""Length of the sampled texts that the attention is measured on."""


@dataclass(frozen=True)
class LabelledText:
    """A text and whether its label is the preferred one."""

    text: str
    positive: bool


def build_from_corpus(
    rows: Sequence[LabelledText],
    evaluation_rows: Sequence[LabelledText] | None,
    *,
    seed: int,
    options: CorpusOptions,
) -> BuiltBundle:
    """Return a bundle of the task movie_review, trained from nothing on labelled texts.

    The reward model learns from one half of the training rows; the gold model, from the other, so
    that a policy that fools the first can be caught by the second.

    Args:
        rows: The corpus. A tenth of it is kept out of training, for the test prompts.
        evaluation_rows: Where the accuracies are measured; None takes the tenth.
        seed: Seed of the split, of the weights and of the batches.
        options: Sizes and steps.

    Raises:
        BuildError: if the texts give no prompts.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    shuffled = [rows[index] for index in rng.permutation(len(rows))]
    tests = round(TEST_SHARE * len(rows))
    held_out, training = shuffled[:tests], shuffled[tests:]
    tokenizer = byte_tokenizer([row.text for row in training], options.vocab_size)
    prompts = _prompts(tokenizer, held_out, training, rng)
    size = ModelSize(layers=options.layers, width=options.width, heads=options.heads)
    ids = _encode(tokenizer, training, size.positions)

    language_model = new_language_model(tokenizer, size, seed=seed)
    train_language_model(
        language_model,
        ids,
        steps=options.language_steps,
        generator=generator,
        dropout=options.dropout,
    )
    judges = {}
    half = len(training) // 2
    for name, part in (("reward_model", slice(half)), ("gold_model", slice(half, None))):
        judge = reward_model_from(language_model, seed=seed)
        draw = _drawer(ids[part], [row.positive for row in training[part]], generator)
        train_reward_model(
            judge,
            draw,
            steps=options.reward_steps,
            dropout=options.reward_dropout,
            dropout_seed=seed,
            label=name.replace("_", " "),
        )
        judges[name] = judge
    encoders = {}
    if options.encoder_steps:
        encoders["encoder"] = encoder_of_pairs(
            tokenizer, [row.text for row in training], seed=seed, steps=options.encoder_steps
        )
    judged = held_out if evaluation_rows is None else evaluation_rows
    return BuiltBundle(
        task="movie_review",
        tokenizer=tokenizer,
        prompts=prompts,
        models={"policy": language_model, **judges, **encoders},
        figures={
            "seed": seed,
            "vocabulary": len(tokenizer),
            "corpus_tokens": sum(map(len, ids)),
            "evaluation_rows": len(judged),
            "policy_nats_training": round(held_out_nats(language_model, ids[:2000]), 3),
            "policy_nats": round(
                held_out_nats(language_model, _encode(tokenizer, held_out, size.positions)), 3
            ),
            "reward_models": _measure(tokenizer, language_model, judges, judged, prompts, seed),
        },
    )


def _encode(
    tokenizer: PreTrainedTokenizerFast, rows: Sequence[LabelledText], limit: int
) -> list[list[int]]:
    ids = tokenizer([row.text for row in rows]).input_ids
    return [[*text[: limit - 1], tokenizer.eos_token_id] for text in ids]


def _prompts(
    tokenizer: PreTrainedTokenizerFast,
    held_out: Sequence[LabelledText],
    training: Sequence[LabelledText],
    rng: np.random.Generator,
) -> list[PromptRow]:
    """Return the texts' first whole words, 2 to 7 tokens of them; no prompt is in both splits."""
    test = _starts(tokenizer, held_out, rng)
    taken = set(test)
    train = [start for start in _starts(tokenizer, training, rng) if start not in taken]
    if not test or not train:
        raise BuildError(
            f"the corpus gives {len(train)} train and {len(test)} test prompts of "
            f"{PROMPT_TOKENS[0]} to {PROMPT_TOKENS[1]} tokens; give longer or more texts"
        )
    return [
        PromptRow(prompt=start, split=split)
        for split, starts in (("train", train), ("test", test))
        for start in starts
    ]


def _starts(
    tokenizer: PreTrainedTokenizerFast, rows: Sequence[LabelledText], rng: np.random.Generator
) -> list[str]:
    starts = []
    low, high = PROMPT_TOKENS
    for row in rows:
        offsets = tokenizer(row.text, return_offsets_mapping=True)["offset_mapping"]
        # A token that begins with a space begins a word, so the text before it ends with one.
        ends = [
            begin
            for index, (begin, _) in enumerate(offsets[: high + 1])
            if index >= low and row.text[begin].isspace()
        ]
        if ends:
            starts.append(row.text[: ends[rng.integers(len(ends))]])
    return list(dict.fromkeys(starts))


def _drawer(
    texts: Sequence[Sequence[int]],
    labels: Sequence[bool],
    generator: torch.Generator,
    batch_size: int = 64,
) -> DrawBatch:
    """Return a function that draws texts, half of each label; half of them whole, half begun.

    The label of a text is taken for its beginnings too: what the model is asked to score in an
    environment stops at the horizon.
    """
    groups = [
        [text for text, label in zip(texts, labels, strict=True) if label is wanted]
        for wanted in (True, False)
    ]

    def draw() -> tuple[list[list[int]], Tensor]:
        batch, gold = [], []
        for group, value in zip(groups, (1.0, 0.0), strict=True):
            for i in choose(len(group), batch_size // 2, generator):
                text = list(group[i])
                if choose(2, 1, generator)[0] and len(text) > 8:
                    text = text[: 8 + choose(len(text) - 8, 1, generator)[0]]
                batch.append(text)
                gold.append(value)
        return batch, torch.tensor(gold)

    return draw


def _measure(
    tokenizer: PreTrainedTokenizerFast,
    language_model: GPT2LMHeadModel,
    judges: dict[str, GPT2ForSequenceClassification],
    rows: Sequence[LabelledText],
    prompts: Sequence[PromptRow],
    seed: int,
) -> dict[str, dict[str, float]]:
    """Return each judge's figures on labelled rows and on sampled continuations of test prompts."""
    starts = [tokenizer(row.prompt).input_ids for row in prompts if row.split == "test"]
    samples = sample_texts(
        language_model,
        starts,
        max_tokens=MEASURED_TOKENS,
        temperature=1.0,
        generator=torch.Generator().manual_seed(seed),
        label="test samples",
    )
    texts = _encode(tokenizer, rows, language_model.config.n_positions)
    labels = np.array([float(row.positive) for row in rows])
    on_samples = {name: reward_logits(judge, samples).numpy() for name, judge in judges.items()}
    agreement = float(np.corrcoef(on_samples["reward_model"], on_samples["gold_model"])[0, 1])
    figures = {}
    for name, judge in judges.items():
        logits = reward_logits(judge, texts).numpy()
        attention = attention_rows(judge, samples, [len(start) for start in starts])
        values = {
            "pair_accuracy": pair_accuracy(logits, labels),
            "accuracy_at_median": float(((logits > np.median(logits)) == (labels > 0)).mean()),
            "correlation_of_judges": agreement,
            "attention_entropy": relative_entropy(attention),
            "deviation": float(on_samples[name].std()),
        }
        figures[name] = rounded(values)
    return figures


# --- the corpus ----------------------------------------------------------------------------------


def read_corpus(
    path: Path,
    text_column: str,
    label_column: str,
    *,
    positive_label: str | None = None,
    min_rows: int = MIN_ROWS,
) -> list[LabelledText]:
    """Return the labelled texts of a file, rows without text left out.

    Args:
        path: A csv, tsv, jsonl or parquet file, told apart by its ending. A tsv has no quoting.
        text_column: The texts' column. Two integers as columns (from 0) say that a csv or tsv file
            has no header.
        label_column: The labels' column; it must hold two different values.
        positive_label: The preferred value; None takes the one that sorts last (1, "positive").
        min_rows: Fewer rows than this are refused, or fewer than a tenth of it of one label.

    Raises:
        BuildError: if the file, a column, the labels or the number of rows is not as it should be.
    """
    table = _read_columns(path, text_column, label_column)
    texts = [str(text or "").strip() for text in table[text_column]]
    labels = [str(label) for label in table[label_column]]
    rows = [(text, label) for text, label in zip(texts, labels, strict=True) if text]
    if len(rows) < min_rows:
        raise BuildError(f"{path} has {len(rows)} rows with text; at least {min_rows} are needed")
    counts = Counter(label for _, label in rows)
    if len(counts) != 2:
        shown = ", ".join(repr(label) for label in sorted(counts)[:5])
        raise BuildError(
            f"column {label_column!r} of {path} must hold two labels, got {len(counts)}: {shown}; "
            "choose another --label-column"
        )
    rarer = min(counts, key=lambda label: counts[label])
    if counts[rarer] < min_rows / 10:
        raise BuildError(
            f"label {rarer!r} of {path} has {counts[rarer]} rows; at least {min_rows // 10} "
            "of each label are needed"
        )
    preferred = max(counts) if positive_label is None else positive_label
    if preferred not in counts:
        raise BuildError(
            f"positive label {preferred!r} is not in column {label_column!r} of {path}, which has "
            f"{sorted(counts)}; give one of these as --positive-label"
        )
    return [LabelledText(text, label == preferred) for text, label in rows]


def _read_columns(path: Path, *columns: str) -> dict[str, list[Any]]:
    """Return columns of a file by name, or by position where all are integers."""
    endings = ", ".join(FORMATS)
    if not path.is_file():
        raise BuildError(f"corpus {path} is not a file; give --corpus a {endings} file")
    if path.suffix.lower() not in FORMATS:
        raise BuildError(f"corpus {path} ends in {path.suffix!r}; give --corpus a {endings} file")
    numbered = all(column.isdecimal() for column in columns)
    try:
        table = read_table(path, of="corpus", headerless=numbered)
    except DatasetError as error:
        raise BuildError(str(error)) from error
    for column in columns:
        if column not in table.columns:
            raise BuildError(
                f"{path} has no column {column!r}; it has {table.columns} (integers "
                "for both columns read a csv or tsv without header)"
            )
    return {column: table.values(column) for column in columns}
