"""Reward models beside the bundled ones: whose attention helps, does a lead depend on which it is?

The bundled one is a GPT-2 whose recipe was picked for attention that finds opinions. The Llama
(rotary positions, RMSNorm, gated layers, grouped heads) is made by the same recipe on the same
corpus: trained once, with one seed, and taken as it came. The misaligned one gives the bundled
one's scores with an attention that finds nothing. Those made again have the bundled one's recipe,
another seed and half of its texts, on three tasks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from tokengym.base import write_json
from tokengym.envs import Bundle, bundled
from tokengym.lab.makers.building.bundle_files import PromptRow
from tokengym.lab.makers.building.language_model import (
    ModelSize,
    new_language_model,
    train_language_model,
)
from tokengym.lab.makers.building.reward_model import reward_model_from, train_reward_model
from tokengym.lab.makers.building.training import new_model
from tokengym.lab.makers.bundles import detox, dialogue, rated
from tokengym.lab.makers.bundles import movie_review as recipe
from tokengym.lab.makers.corpora.movie_reviews import write_reviews

LLAMA, MISALIGNED = "llama", "misaligned"
SEED, LANGUAGE_STEPS, REWARD_STEPS = 1, 900, 1200
"""The bundle's."""
FIGURES = "figures.json"
SPLITS = ("train", "test")
HALVES = 2
"""Parts that a corpus is cut into, of which a reward model that is made again learns from one."""


def build_llama(
    folder: Path,
    *,
    reviews: int = recipe.REVIEWS,
    prompts: int | None = None,
    language_steps: int = LANGUAGE_STEPS,
    reward_steps: int = REWARD_STEPS,
) -> None:
    """Write the reward model and what was measured of it, unless it is there.

    It scores continuations by the bundled policy, so it learns from such samples too.

    Args:
        folder: Of model, tokenizer and figures.
        reviews: Texts of the corpus.
        prompts: Prompts of each split that are continued; None takes all.
        language_steps: Optimiser steps of the language model that it begins from.
        reward_steps: Its own.
    """
    if (folder / FIGURES).exists():
        return
    bundle = bundled("movie_review")
    corpus = write_reviews(reviews, np.random.default_rng(SEED))
    steps = language_steps, reward_steps
    _of_reviews(
        folder, bundle, corpus, new_llama(bundle.tokenizer), steps, SEED, SEED, prompts=prompts
    )


def _of_reviews(
    folder: Path,
    bundle: Any,
    reviews: Sequence[str],
    language_model: PreTrainedModel,
    steps: tuple[int, int],
    seed: int,
    measured_with: int,
    *,
    prompts: int | None,
) -> None:
    """Write a reward model of film reviews by the bundle's recipe, and what was measured of it.

    Args:
        folder: Of model, tokenizer and figures.
        bundle: The bundle, whose policy's texts it learns from too.
        reviews: Texts of the corpus.
        language_model: Untrained model that it begins from.
        steps: Optimiser steps of the language model, and its own.
        seed: Seed of the batches and of the head.
        measured_with: Seed of the texts that it is measured on.
        prompts: Prompts of each split that are continued; None takes all.
    """
    tokenizer, policy = bundle.tokenizer, _policy(bundle)
    generator = torch.Generator().manual_seed(seed)
    texts = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(reviews).input_ids]
    train_language_model(language_model, texts, steps=steps[0], generator=generator)
    starts = [tokenizer(row.text).input_ids for row in bundle.prompts("train")[:prompts]]
    samples = recipe.draw_samples(policy, starts, generator)
    model = reward_model_from(language_model, seed=seed)
    gold = recipe.GoldTokens(tokenizer)
    draw = recipe.text_drawer(texts, samples, gold, generator, tokenizer.eos_token_id)
    train_reward_model(model, draw, steps=steps[1])
    held_out = [
        PromptRow(prompt=row.text, split="test") for row in bundle.prompts("test")[:prompts]
    ]
    figures = recipe.measure_reward_model(tokenizer, policy, model, held_out, seed=measured_with)
    _write(folder, model, tokenizer, figures)


def new_llama(tokenizer: Any) -> LlamaForCausalLM:
    """Return an untrained Llama of the size of the bundled models."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return new_model(LlamaForCausalLM, config, seed=SEED)


def build_misaligned(folder: Path) -> None:
    """Write the bundled reward model with the same scores and an attention that finds nothing.

    A further layer adds nothing to the residual stream, its output projections being zero, so that
    every score stays what it was. But it is now the last one, whose attention ABC reads, and its
    queries and keys are the trained layer's with their inputs shuffled, and sharpened until the
    row is about as peaked as it was: on tokens that do not matter. What was measured of it is
    stored beside it.
    """
    if (folder / FIGURES).exists():
        return
    bundle, sharpness = bundled("movie_review"), 30.0
    tokenizer: Any = bundle.tokenizer
    trained = AutoModelForSequenceClassification.from_pretrained(bundle.reward_model).float()
    layers = trained.config.n_layer
    config = type(trained.config).from_dict({**trained.config.to_dict(), "n_layer": layers + 1})
    model = type(trained)(config).eval()
    model.load_state_dict(trained.state_dict(), strict=False)
    added = model.transformer.h[layers]
    added.load_state_dict(trained.transformer.h[-1].state_dict())
    shuffled = torch.from_numpy(np.random.default_rng(SEED).permutation(config.n_embd))
    with torch.no_grad():
        weight = added.attn.c_attn.weight[shuffled]
        weight[:, : config.n_embd] *= sharpness  # the queries
        added.attn.c_attn.weight.copy_(weight)
        for projection in (added.attn.c_proj, added.mlp.c_proj):
            projection.weight.zero_()
            projection.bias.zero_()
    prompts = [PromptRow(prompt=row.text, split="test") for row in bundle.prompts("test")]
    figures = recipe.measure_reward_model(tokenizer, _policy(bundle), model, prompts, seed=SEED)
    _write(folder, model, tokenizer, figures)


def build_again(
    task: str,
    folder: Path,
    *,
    seed: int,
    half: int,
    steps: int | None = None,
    texts: int | None = None,
) -> None:
    """Write a task's reward model made again, unless it is there: another seed, half of the texts.

    It begins from a language model of its own, trained on the same half. The responses that it
    learns from besides are the bundled policy's, since those are what it will score.

    Args:
        task: A name of `AGAIN`.
        folder: Of model, tokenizer and figures.
        seed: Seed of the weights and of the batches, other than the bundle's 0.
        half: Which half of the texts, 0 or 1.
        steps: Optimiser steps of both models; None takes the recipe's.
        texts: Texts of the half, and prompts of each split, that are used; None takes all.

    Raises:
        ValueError: if the half is neither.
    """
    if half not in range(HALVES):
        raise ValueError(f"half must be 0 or 1, got {half}")
    if not (folder / FIGURES).exists():
        AGAIN[task](folder, seed, half, steps, texts)


def _movie_review_again(
    folder: Path, seed: int, half: int, steps: int | None, few: int | None
) -> None:
    bundle: Any = bundled("movie_review")
    count = recipe.REVIEWS if few is None else few * HALVES
    own = write_reviews(count, np.random.default_rng(0))[half::HALVES]  # the bundle's, in its order
    language_model = new_language_model(bundle.tokenizer, ModelSize(), seed=seed)
    sizes = steps or LANGUAGE_STEPS, steps or REWARD_STEPS
    _of_reviews(folder, bundle, own, language_model, sizes, seed, 0, prompts=few)


def _rated_again(
    corpus: rated.RatedCorpus,
    sizes: tuple[int, int],
    folder: Path,
    seed: int,
    half: int,
    steps: int | None,
    few: int | None,
) -> None:
    bundle: Any = bundled(corpus.task)
    tokenizer, policy = bundle.tokenizer, _policy(bundle)
    generator = torch.Generator().manual_seed(seed)
    own = replace(corpus, written=corpus.written[half::HALVES][:few])
    reader = rated.Rated(tokenizer, corpus.rules, corpus.chat)
    language_model = new_language_model(tokenizer, corpus.size, seed=seed)
    train_language_model(
        language_model, reader.texts(own.written), steps=steps or sizes[0], generator=generator
    )
    prompts = {
        split: [row for row in corpus.prompts if row.split == split][:few] for split in SPLITS
    }
    starts = reader.encode([row.prompt for row in prompts["train"]])
    samples = rated.draw_responses(policy, starts, rated.TEMPERATURES, generator)
    model = rated.rated_reward_model(
        own, reader, language_model, samples, generator, seed=seed, steps=steps or sizes[1]
    )
    figures = rated.measure_rated(reader, policy, model, prompts["test"], seed=0)
    _write(folder, model, tokenizer, figures)


def _detox_again(folder: Path, seed: int, half: int, steps: int | None, few: int | None) -> None:
    sizes = detox.LANGUAGE_STEPS, detox.REWARD_STEPS
    _rated_again(detox.detox_corpus(0), sizes, folder, seed, half, steps, few)


def _dialogue_again(folder: Path, seed: int, half: int, steps: int | None, few: int | None) -> None:
    sizes = dialogue.LANGUAGE_STEPS, dialogue.REWARD_STEPS
    _rated_again(dialogue.dialogue_corpus(0), sizes, folder, seed, half, steps, few)


def _policy(bundle: Bundle) -> Any:
    return AutoModelForCausalLM.from_pretrained(bundle.policy).float().eval()


def _write(folder: Path, model: Any, tokenizer: Any, figures: Mapping[str, Any]) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / FIGURES, figures)  # last, as it says that all is there


AGAIN: Mapping[str, Callable[[Path, int, int, int | None, int | None], None]] = {
    "movie_review": _movie_review_again,
    "dialogue": _dialogue_again,
    "detox": _detox_again,
}
"""Bundled task -> what makes its reward model again."""
