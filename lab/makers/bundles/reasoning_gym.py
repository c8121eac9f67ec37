"""The models of ReasoningGym: a policy that reads and writes bytes, and can spell a little."""

import random
import re
from collections.abc import Sequence

import numpy as np
import torch

from tokengym.envs import Prompt
from tokengym.lab.envs.reasoning import generated_prompts, verdict
from tokengym.lab.makers.building.bundle_files import BuiltBundle, PromptRow
from tokengym.lab.makers.building.language_model import (
    ModelSize,
    new_language_model,
    train_language_model,
)
from tokengym.lab.makers.building.reward_model import (
    DrawPrefixes,
    reward_model_from,
    train_on_prefixes,
)
from tokengym.lab.makers.building.tokenizers import byte_tokenizer
from tokengym.lab.makers.building.training import choose
from tokengym.lab.makers.bundles.encoder import encoder_of_pairs

SIZE = ModelSize(
    layers=2, width=64, heads=4, positions=256, initializer_range=0.08, matching_heads=2
)
SHOWN = {
    "spell_backward": 6000,
    "letter_counting:min_words=1,max_words=3": 1500,
    "chain_sum:min_terms=2,max_terms=2,min_digits=1,max_digits=1": 500,
}
"""Data sets that the policy learns from, and how many of their questions."""
SEED = 1_000_000
"""Seed of these questions, far from those that environments use."""
CALCULATOR_SIZE = ModelSize(
    layers=2, width=64, heads=4, positions=192, initializer_range=0.08, matching_heads=2
)
SUMS = "chain_sum:min_terms=2,max_terms=2,min_digits=2,max_digits=2"
PRODUCTS = "products:min_terms=2,max_terms=2,min_digits=1,max_digits=2"
CALCULATIONS = {SUMS: 3000, PRODUCTS: 3000}
"""Data sets that the policy of the calculator's bundle learns from, and how many questions."""
ASKED = 0.6
"""Share of its examples that ask the calculator; the others guess, wrongly as a rule."""
BATCH_SIZE = 24

_TOKENIZER = byte_tokenizer((), 258)


def build_reasoning_gym(
    *, seed: int, language_steps: int = 900, reward_steps: int = 150, encoder_steps: int = 60
) -> BuiltBundle:
    """Return the bundle, trained from nothing.

    Args:
        seed: Seed of the weights and of the batches.
        language_steps: Optimiser steps of the policy.
        reward_steps: Optimiser steps of the reward model.
        encoder_steps: Optimiser steps of the encoder.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    shown = questions()
    policy = new_language_model(_TOKENIZER, SIZE, seed=seed)
    loss = train_language_model(
        policy,
        [_ids(p, str(p.reference)) for p in shown],
        starts=[_start(p) for p in shown],
        steps=language_steps,
        generator=generator,
        learning_rate=3e-3,
        batch_size=BATCH_SIZE,
    )
    reward_model = reward_model_from(policy, seed=seed)
    error = train_on_prefixes(
        reward_model, drawer(shown, rng, generator), steps=reward_steps, learning_rate=2e-3
    )
    pairs = [(prompt.text, str(prompt.reference)) for prompt in shown]
    return BuiltBundle(
        task="reasoning_gym",
        tokenizer=_TOKENIZER,
        prompts=examples_of_form("spell_backward"),
        models={
            "policy": policy,
            "reward_model": reward_model,
            "encoder": encoder_of_pairs(_TOKENIZER, pairs, seed=seed, steps=encoder_steps),
        },
        figures={
            "seed": seed,
            "vocabulary": len(_TOKENIZER),
            "policy_nats": round(loss, 3),
            "reward_model_error": round(error**0.5, 3),
        },
    )


def examples_of_form(data_set: str) -> list[PromptRow]:
    """Return a prompt per split: the library generates all, and these two show the form."""
    return [
        PromptRow(prompt=prompt.text, reference=prompt.reference, split=split)
        for split in ("train", "test")
        for prompt in [generated_prompts(data_set, split)[0]]
    ]


def questions() -> list[Prompt]:
    """Return the questions that are learned from, none of which an environment asks by default."""
    asked = {prompt.text for prompt in generated_prompts("spell_backward", "all")}
    return [
        prompt
        for name, size in SHOWN.items()
        for prompt in generated_prompts(
            f"{name}{',' if ':' in name else ':'}seed={SEED},size={size // 2}", "all"
        )
        if prompt.text not in asked
    ]


def drawer(
    shown: Sequence[Prompt], rng: np.random.Generator, generator: torch.Generator
) -> DrawPrefixes:
    """Return a function that draws answers, some letters of which are wrong, with their verdicts.

    The verdict on the whole answer is the target at each of its tokens (Cobbe et al. 2021,
    arXiv:2110.14168), so that the model learns the chance of success.
    """
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789")

    def corrupted(answer: str, share: float) -> str:
        wrong = rng.random(len(answer)) < share
        return "".join(
            str(rng.choice(letters)) if w else c for c, w in zip(answer, wrong, strict=True)
        )

    def draw() -> tuple[list[list[int]], list[list[float]]]:
        texts, targets = [], []
        for index in choose(len(shown), BATCH_SIZE, generator):
            prompt = shown[index]
            answer = corrupted(str(prompt.reference), float(rng.choice([0.0, 0.15, 0.4])))
            texts.append(_ids(prompt, answer))
            start = _start(prompt)
            score = verdict(prompt.metadata, answer)
            targets.append([np.nan] * start + [score] * (len(texts[-1]) - start))
        return texts, targets

    return draw


def _ids(prompt: Prompt, answer: str) -> list[int]:
    """Return the tokens of question and answer."""
    ids: list[int] = _TOKENIZER(prompt.text + answer).input_ids
    return [*ids, _TOKENIZER.eos_token_id]


def _start(prompt: Prompt) -> int:
    return len(prompt.text.encode())


def build_calculator(*, seed: int, language_steps: int = 500) -> BuiltBundle:
    """Return the bundle of a policy that was shown how to ask a calculator, trained from nothing.

    It writes "calc 12 + 34", reads the partner's answer and copies it into answer tags, or guesses
    at once, about as often. Alone it cannot calculate.

    Args:
        seed: Seed of the weights, the guesses and the batches.
        language_steps: Optimiser steps of the policy.
    """
    rng = random.Random(seed)
    examples = [
        example(prompt, rng, most=150 if name == SUMS else 5000)
        for name, size in CALCULATIONS.items()
        for prompt in generated_prompts(f"{name},seed={SEED},size={size // 2}", "all")
    ]
    policy = new_language_model(_TOKENIZER, CALCULATOR_SIZE, seed=seed)
    loss = train_language_model(
        policy,
        [ids for ids, _ in examples],
        starts=[start for _, start in examples],
        steps=language_steps,
        generator=torch.Generator().manual_seed(seed),
        learning_rate=3e-3,
        batch_size=BATCH_SIZE,
    )
    return BuiltBundle(
        task="reasoning_gym",
        tokenizer=_TOKENIZER,
        prompts=examples_of_form(SUMS),
        models={"policy": policy},
        figures={"seed": seed, "vocabulary": len(_TOKENIZER), "policy_nats": round(loss, 3)},
    )


def example(prompt: Prompt, rng: random.Random, *, most: int) -> tuple[list[int], int]:
    """Return the tokens of an example conversation, and how many of them the prompt has.

    Args:
        prompt: A question of two numbers and its answer.
        rng: Decides whether the calculator is asked, and guesses otherwise.
        most: Largest guess.
    """
    found = re.search(r"\d+ [-+*] \d+", prompt.text)
    assert found is not None
    ids = list(_TOKENIZER(prompt.text).input_ids)
    start, end = len(ids), int(_TOKENIZER.eos_token_id)
    if rng.random() < ASKED:
        ids += [*_TOKENIZER(f"calc {found[0]}").input_ids, end]
        said = f"{prompt.reference}<answer>{prompt.reference}</answer>"
    else:
        said = f"<answer>{rng.randint(-50, most)}</answer>"
    return [*ids, *_TOKENIZER(said).input_ids, end], start
