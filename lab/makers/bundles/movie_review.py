"""The bundle of film reviews: language model, reward model and gold score from the grammar."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast

from tokengym.lab.makers.building.bundle_files import BuiltBundle, PromptRow
from tokengym.lab.makers.building.figures import (
    alignment,
    attention_rows,
    pair_accuracy,
    relative_entropy,
    rounded,
)
from tokengym.lab.makers.building.language_model import (
    ModelSize,
    held_out_nats,
    new_language_model,
    sample_texts,
    train_language_model,
)
from tokengym.lab.makers.building.reward_model import (
    DrawBatch,
    reward_logits,
    reward_model_from,
    train_reward_model,
)
from tokengym.lab.makers.building.tokenizers import word_tokenizer, words_by_id
from tokengym.lab.makers.building.training import choose
from tokengym.lab.makers.bundles.encoder import encoder_of_pairs, pair_relevance
from tokengym.lab.makers.corpora.movie_reviews import GRAMMAR, write_reviews
from tokengym.lab.makers.corpora.movie_words import LEXICON

REVIEWS = 30_000
HELD_OUT = 4_000
TEST_PROMPTS = 400
PROMPT_TOKENS = (2, 7)
"""Fewest and most tokens of a prompt, as in the ABC paper's setting."""
BATCH = 64
"""Texts of a step of the reward model."""
LENGTHS = (8, 64)
"""Fewest and most tokens of the texts the reward model learns from."""
MEASURED_LENGTHS = (24, 40, 64)
MEASURED_PAIRS = 260
"""Held-out reviews that the encoder is measured on."""


@dataclass(frozen=True)
class GoldTokens:
    """The gold score in terms of token ids, for a tokenizer whose tokens are words."""

    tokenizer: PreTrainedTokenizerFast

    @cached_property
    def _words(self) -> list[str]:
        return words_by_id(self.tokenizer)

    def score(self, ids: Sequence[int]) -> float:
        """Return the gold score of a text."""
        return LEXICON.score([self._words[index] for index in ids])

    def contributions(self, ids: Sequence[int]) -> np.ndarray:
        """Return what each token contributes to it."""
        return LEXICON.contributions([self._words[index] for index in ids])


def build_movie_review(
    *, seed: int, language_steps: int = 900, reward_steps: int = 1200
) -> BuiltBundle:
    """Return the bundle, trained from nothing.

    Args:
        seed: Seed of the corpus, of the weights and of the batches.
        language_steps: Optimiser steps of the language model.
        reward_steps: Optimiser steps of the reward model.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    reviews = write_reviews(REVIEWS + HELD_OUT, rng)
    tokenizer = word_tokenizer(reviews)
    texts = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(reviews).input_ids]
    training, held_out = texts[:REVIEWS], texts[REVIEWS:]
    prompts = draw_prompts(tokenizer, held_out, rng)
    language_model = new_language_model(tokenizer, ModelSize(), seed=seed)
    train_language_model(language_model, training, steps=language_steps, generator=generator)

    train_prompts = [tokenizer(row.prompt).input_ids for row in prompts if row.split == "train"]
    samples = draw_samples(language_model, train_prompts, generator)
    gold = GoldTokens(tokenizer)
    reward_model = reward_model_from(language_model, seed=seed)
    draw = text_drawer(training, samples, gold, generator, tokenizer.eos_token_id)
    train_reward_model(reward_model, draw, steps=reward_steps)
    encoder = encoder_of_pairs(tokenizer, review_pairs(reviews[:REVIEWS], seed), seed=seed)
    return BuiltBundle(
        task="movie_review",
        tokenizer=tokenizer,
        prompts=prompts,
        models={"policy": language_model, "reward_model": reward_model, "encoder": encoder},
        lexicon=LEXICON,
        grammar=GRAMMAR.rules("good", "bad"),
        figures={
            "seed": seed,
            "vocabulary": len(tokenizer),
            "corpus_tokens": sum(map(len, training)),
            "policy_nats": round(held_out_nats(language_model, held_out[:1000]), 3),
            "reward_model": measure_reward_model(
                tokenizer, language_model, reward_model, prompts, seed=seed
            ),
            "encoder": pair_relevance(
                tokenizer, encoder, review_pairs(reviews[REVIEWS:], seed)[:MEASURED_PAIRS]
            ),
        },
    )


def review_pairs(reviews: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """Return reviews as prompts, of `PROMPT_TOKENS`, with what follows them."""
    rng = np.random.default_rng([seed, 1])
    low, high = PROMPT_TOKENS
    words = [(review.split(), int(rng.integers(low, high + 1))) for review in reviews]
    return [(" ".join(text[:cut]), " ".join(text[cut:])) for text, cut in words if len(text) > cut]


def draw_samples(
    language_model: GPT2LMHeadModel,
    prompts: Sequence[Sequence[int]],
    generator: torch.Generator,
) -> list[list[int]]:
    """Return one text of the language model per prompt and temperature.

    A policy in training leaves the grammar; the reward model must have seen texts that do.
    """
    samples: list[list[int]] = []
    for temperature in (1.0, 1.3, 1.6):
        samples += sample_texts(
            language_model,
            prompts,
            max_tokens=LENGTHS[1],
            temperature=temperature,
            generator=generator,
            label=f"samples at {temperature:g}",
        )
    return samples


def measure_reward_model(
    tokenizer: PreTrainedTokenizerFast,
    language_model: GPT2LMHeadModel,
    reward_model: PreTrainedModel,
    prompts: Sequence[PromptRow],
    *,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Return, per length, what the reward model is worth on sampled continuations of test prompts.

    Args:
        tokenizer: The bundle's.
        language_model: Writes the texts.
        reward_model: Is measured on them.
        prompts: Those of the test split are used.
        seed: Seed of the sampling.

    Returns:
        Per length in tokens, prompt included: ``pair_accuracy``, ``correlation``, ``opinion_mass``
        and ``opinion_share`` of the last attention row on the response, ``attention_entropy``
        relative to a uniform row, and the ``deviation`` of the logit.
    """
    starts = [tokenizer(row.prompt).input_ids for row in prompts if row.split == "test"]
    texts = sample_texts(
        language_model,
        starts,
        max_tokens=max(MEASURED_LENGTHS),
        temperature=1.0,
        generator=torch.Generator().manual_seed(seed),
        label="test samples",
    )
    gold = GoldTokens(tokenizer)
    figures = {}
    for length in MEASURED_LENGTHS:
        kept = [
            (text[:length], len(start))
            for text, start in zip(texts, starts, strict=True)
            if len(text) >= length
        ]
        cut, prompt_lengths = [text for text, _ in kept], [start for _, start in kept]
        logits = reward_logits(reward_model, cut).numpy()
        rows = attention_rows(reward_model, cut, prompt_lengths)
        contributions = [gold.contributions(text)[start:] for text, start in kept]
        values = {
            "pair_accuracy": pair_accuracy(logits, np.array([gold.score(text) for text in cut])),
            **alignment(rows, contributions),
            "attention_entropy": relative_entropy(rows),
            "deviation": float(logits.std()),
        }
        figures[str(length)] = rounded(values)
    return figures


def draw_prompts(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[Sequence[int]],
    rng: np.random.Generator,
) -> list[PromptRow]:
    """Return the different beginnings of texts as prompts, the first `TEST_PROMPTS` held out."""
    lengths = rng.integers(*PROMPT_TOKENS, size=len(texts), endpoint=True)
    starts = [str(tokenizer.decode(list(text[:n]))) for text, n in zip(texts, lengths, strict=True)]
    unique = list(dict.fromkeys(starts))
    return [
        PromptRow(prompt=prompt, split="test" if index < TEST_PROMPTS else "train")
        for index, prompt in enumerate(unique)
    ]


def text_drawer(
    reviews: Sequence[Sequence[int]],
    samples: Sequence[Sequence[int]],
    gold: GoldTokens,
    generator: torch.Generator,
    eos: int,
) -> DrawBatch:
    """Return a function that draws texts of mixed lengths, half written and half sampled."""

    def draw() -> tuple[list[list[int]], Tensor]:
        half = BATCH // 2
        batch = [reviews[i] for i in choose(len(reviews), half, generator)]
        batch += [samples[i] for i in choose(len(samples), half, generator)]
        spread = LENGTHS[1] - LENGTHS[0] + 1
        lengths = [LENGTHS[0] + n for n in choose(spread, BATCH, generator)]
        cut = [list(text[:n]) for text, n in zip(batch, lengths, strict=True)]
        # An episode that ends by itself is scored at its EOS, wherever that stands.
        for index in range(0, BATCH, 8):
            if cut[index][-1] != eos:
                cut[index][-1] = eos
        return cut, torch.tensor([gold.score(text) for text in cut], dtype=torch.float32)

    return draw
