"""Bundles whose gold score is rules over words: dialogues, summaries, quarrels.

A language model learns what people wrote, a reward model the gold score of what they wrote and of
what the language model writes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast

from tokengym.envs import Chat, encode_chats
from tokengym.lab.makers.building.bundle_files import BuiltBundle, PromptRow
from tokengym.lab.makers.building.figures import (
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
    DrawPrefixes,
    reward_logits,
    reward_model_from,
    train_on_prefixes,
    train_reward_model,
)
from tokengym.lab.makers.building.tokenizers import add_roles, word_tokenizer, words_by_id
from tokengym.lab.makers.building.training import choose
from tokengym.lab.makers.bundles.encoder import encoder_of_pairs, pair_relevance
from tokengym.rewards.gold import GrammarRules, Rules

RESPONSE_TOKENS = 48
"""Longest response that the models learn from: the default horizon."""
TEMPERATURES = (1.0, 1.3, 1.6)
"""A policy in training leaves the grammar; the reward model must have seen texts that do."""
PREFIX_LEARNING_RATE = 3e-3
"""Learning rate of a reward model that learns the score at every token."""
MEASURED_PAIRS = 260
"""Held-out pairs that the encoder is measured on."""
BATCH = 64
"""Texts of a step of the reward model."""
SHORTEST_TOKENS = 4
"""Shortest response that a written or sampled one is cut to."""


@dataclass(frozen=True, kw_only=True)
class RatedCorpus:
    """Material of a bundle."""

    task: str
    """Task that it is for."""
    prompts: Sequence[PromptRow]
    """Prompts of both splits."""
    written: Sequence[tuple[str, str]]
    """Prompts with responses as people write them, for training; no test prompt among them."""
    held_out: Sequence[tuple[str, str]]
    """Likewise for measuring, on test prompts."""
    rules: Rules
    """The gold score."""
    temperature: float
    """A gold difference of 1 in logits of the reward model."""
    chat: bool = False
    """Whether prompts go through a chat template, which the tokenizer then carries."""
    learn_prompts: bool = True
    """Whether the language model learns to write prompts too. Where a response takes words from
    its prompt it should not: the prompt's own words drown what is to be learnt."""
    size: ModelSize = field(default_factory=ModelSize)
    """Size of both models."""
    judged: Sequence[tuple[str, str]] | None = None
    """Prompts with responses that the reward model learns the gold score of, token by token, where
    people's own are too seldom wrong to tell right from wrong by. None takes ``written``, and the
    score at their end alone."""
    middle: float | None = None
    """Gold score at which a text is as good as bad: makes the reward model a classifier of single
    texts. None trains it on pairs."""
    grammar: GrammarRules | None = None
    """Grammar of the texts, which the gold score multiplies with."""


@dataclass(frozen=True)
class Rated:
    """Texts as token ids: a prompt, a response, and the gold score of the two."""

    tokenizer: PreTrainedTokenizerFast
    rules: Rules
    chat: bool

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the ids that a response follows, as an environment shows them."""
        if self.chat:
            return encode_chats(self.tokenizer, [Chat.of_text(prompt) for prompt in prompts])
        return self.tokenizer(list(prompts)).input_ids

    def responses(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Return prompts and responses, EOS included; what exceeds `RESPONSE_TOKENS` is cut off."""
        starts = self.encode([prompt for prompt, _ in pairs])
        ends = self.tokenizer([response for _, response in pairs]).input_ids
        eos = self.tokenizer.eos_token_id
        return [
            (start, [*end, eos][:RESPONSE_TOKENS]) for start, end in zip(starts, ends, strict=True)
        ]

    def texts(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Return whole texts: each prompt with its response."""
        return [[*start, *response] for start, response in self.responses(pairs)]

    def parts(self, prompt: Sequence[int], response: Sequence[int]) -> dict[str, float]:
        """Return the parts of the gold score."""
        return self.rules.parts(self._words_of(prompt), self._words_of(response))

    def gold(self, prompt: Sequence[int], response: Sequence[int]) -> float:
        """Return the gold score."""
        return sum(self.parts(prompt, response).values())

    @cached_property
    def _words(self) -> list[str]:
        return words_by_id(self.tokenizer)

    def _words_of(self, ids: Sequence[int]) -> list[str]:
        return [word for word in map(self._words.__getitem__, ids) if word]


def build_rated(
    corpus: RatedCorpus, *, seed: int, language_steps: int, reward_steps: int
) -> BuiltBundle:
    """Return the bundle of a corpus, trained from nothing.

    Args:
        corpus: Prompts, texts and gold rules.
        seed: Seed of the weights and of the batches.
        language_steps: Optimiser steps of the language model.
        reward_steps: Optimiser steps of the reward model.
    """
    generator = torch.Generator().manual_seed(seed)
    references = [f"{row.prompt} {row.reference or ''}" for row in corpus.prompts]
    tokenizer = word_tokenizer([*map(" ".join, [*corpus.written, *corpus.held_out]), *references])
    if corpus.chat:
        add_roles(tokenizer)
    rated = Rated(tokenizer, corpus.rules, corpus.chat)
    written = rated.responses(corpus.written)
    texts = [[*start, *response] for start, response in written]
    language_model = new_language_model(tokenizer, corpus.size, seed=seed)
    train_language_model(
        language_model,
        texts,
        steps=language_steps,
        generator=generator,
        starts=None if corpus.learn_prompts else [len(start) for start, _ in written],
    )

    starts = rated.encode([row.prompt for row in corpus.prompts if row.split == "train"])
    samples = draw_responses(language_model, starts, TEMPERATURES, generator)
    reward_model = rated_reward_model(
        corpus, rated, language_model, samples, generator, seed=seed, steps=reward_steps
    )
    encoder = encoder_of_pairs(tokenizer, corpus.written, seed=seed)
    return BuiltBundle(
        task=corpus.task,
        tokenizer=tokenizer,
        prompts=corpus.prompts,
        models={"policy": language_model, "reward_model": reward_model, "encoder": encoder},
        grammar=corpus.grammar,
        rules=corpus.rules,
        figures={
            "seed": seed,
            "vocabulary": len(tokenizer),
            "corpus_tokens": sum(map(len, texts)),
            "policy_nats": round(held_out_nats(language_model, rated.texts(corpus.held_out)), 3),
            **measure_rated(rated, language_model, reward_model, corpus.prompts, seed=seed),
            "encoder": pair_relevance(tokenizer, encoder, corpus.held_out[:MEASURED_PAIRS]),
        },
    )


def rated_reward_model(
    corpus: RatedCorpus,
    rated: Rated,
    language_model: GPT2LMHeadModel,
    samples: Sequence[tuple[list[int], list[int]]],
    generator: torch.Generator,
    *,
    seed: int,
    steps: int,
) -> GPT2ForSequenceClassification:
    """Return a reward model of a corpus's gold score.

    Args:
        corpus: Prompts, texts and gold rules.
        rated: Encodes texts and scores them.
        language_model: Model whose weights it begins from.
        samples: Prompts with responses of the policy.
        generator: Draws the batches.
        seed: Seed of the weights that the language model has not.
        steps: Optimiser steps.
    """
    reward_model: GPT2ForSequenceClassification = reward_model_from(language_model, seed=seed)
    if corpus.judged is None:
        train_reward_model(
            reward_model,
            _drawer(rated.responses(corpus.written), samples, rated, generator),
            steps=steps,
            temperature=corpus.temperature,
            middle=corpus.middle,
        )
    else:
        train_on_prefixes(
            reward_model,
            prefix_drawer(rated.responses(corpus.judged), samples, rated, generator),
            steps=steps,
            temperature=corpus.temperature,
            learning_rate=PREFIX_LEARNING_RATE,
        )
    return reward_model


def draw_responses(
    language_model: GPT2LMHeadModel,
    starts: Sequence[Sequence[int]],
    temperatures: Sequence[float],
    generator: torch.Generator,
) -> list[tuple[list[int], list[int]]]:
    """Return each prompt with a response of at most `RESPONSE_TOKENS` at every temperature."""
    drawn = []
    for temperature in temperatures:
        texts = sample_texts(
            language_model,
            starts,
            max_tokens=language_model.config.n_positions,
            max_new_tokens=RESPONSE_TOKENS,
            temperature=temperature,
            generator=generator,
            label=f"samples at {temperature:g}",
        )
        drawn += [(list(s), text[len(s) :]) for s, text in zip(starts, texts, strict=True)]
    return drawn


def measure_rated(
    rated: Rated,
    language_model: GPT2LMHeadModel,
    reward_model: GPT2ForSequenceClassification,
    prompts: Sequence[PromptRow],
    *,
    seed: int,
) -> dict[str, Mapping[str, Mapping[str, float]]]:
    """Return what the reward model is worth on sampled responses to test prompts, and their gold.

    Args:
        rated: Encodes texts and scores them.
        language_model: Writes the responses.
        reward_model: Is measured on them.
        prompts: Those of the test split are used.
        seed: Seed of the sampling.

    Returns:
        ``reward_model``: on the policy's samples, the ``pair_accuracy``, the ``correlation`` of
        the logit with the gold score, the ``deviation`` of the logit, and the
        ``attention_entropy`` relative to a uniform row; ``gold``: mean score and parts,
        without grammaticality, of the ``policy`` and, where there are any, of the ``reference``
        answers.
    """
    rows = [row for row in prompts if row.split == "test"]
    starts = rated.encode([row.prompt for row in rows])
    generator = torch.Generator().manual_seed(seed)
    pairs = draw_responses(language_model, starts, [1.0], generator)
    texts = [[*start, *response] for start, response in pairs]
    logits = reward_logits(reward_model, texts).numpy()
    gold = np.array([rated.gold(*pair) for pair in pairs])
    values = {
        "pair_accuracy": pair_accuracy(logits, gold),
        "correlation": float(np.corrcoef(logits, gold)[0, 1]),
        "deviation": float(logits.std()),
        "attention_entropy": relative_entropy(
            attention_rows(reward_model, texts, list(map(len, starts)))
        ),
    }
    golds = {"policy": _mean_parts(rated, pairs)}
    if all(row.reference for row in rows):
        references = rated.tokenizer([row.reference or "" for row in rows]).input_ids
        golds["reference"] = _mean_parts(rated, list(zip(starts, references, strict=True)))
    return {"reward_model": {"samples": rounded(values)}, "gold": golds}


def _mean_parts(
    rated: Rated, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> dict[str, float]:
    parts = [rated.parts(*pair) for pair in pairs]
    means = {name: float(np.mean([row[name] for row in parts])) for name in parts[0]}
    return rounded({"score": sum(means.values()), **means})


def _drawer(
    written: Sequence[tuple[list[int], list[int]]],
    samples: Sequence[tuple[list[int], list[int]]],
    rated: Rated,
    generator: torch.Generator,
) -> DrawBatch:
    """Return a function that draws texts, half written and half sampled; every third one is cut.

    A response may end at the horizon instead of by EOS, and by EOS anywhere.
    """
    eos = rated.tokenizer.eos_token_id

    def cut(response: list[int], index: int) -> list[int]:
        if index % 3 == 0 and len(response) > SHORTEST_TOKENS:
            kept = response[
                : SHORTEST_TOKENS + choose(len(response) - SHORTEST_TOKENS, 1, generator)[0]
            ]
            return kept if index % 2 else [*kept, eos]
        return response

    def draw() -> tuple[list[list[int]], Tensor]:
        half = BATCH // 2
        pairs = [written[i] for i in choose(len(written), half, generator)]
        pairs += [samples[i] for i in choose(len(samples), half, generator)]
        pairs = [(start, cut(response, index)) for index, (start, response) in enumerate(pairs)]
        gold = torch.tensor([rated.gold(*pair) for pair in pairs], dtype=torch.float32)
        return [[*start, *response] for start, response in pairs], gold

    return draw


def prefix_drawer(
    written: Sequence[tuple[list[int], list[int]]],
    samples: Sequence[tuple[list[int], list[int]]],
    rated: Rated,
    generator: torch.Generator,
    batch_size: int = 32,
) -> DrawPrefixes:
    """Return a function that draws texts with the gold score of every beginning of the response.

    A quarter of them are the policy's.
    """
    sampled = batch_size // 4

    def draw() -> tuple[list[list[int]], list[list[float]]]:
        pairs = [written[i] for i in choose(len(written), batch_size - sampled, generator)]
        pairs += [samples[i] for i in choose(len(samples), sampled, generator)]
        gold = [
            [math.nan] * (len(start) - 1)
            + [rated.gold(start, response[:end]) for end in range(len(response) + 1)]
            for start, response in pairs
        ]
        return [[*start, *response] for start, response in pairs], gold

    return draw
