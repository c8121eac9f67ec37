"""A policy that was shown how to ask a calculator: ReasoningGym's bytes, sums and products.

It writes "calc 12 + 34", reads the partner's answer and copies it into answer tags, or guesses at
once, about as often. Alone it cannot calculate: who asks is right three times in four.
"""

import random
import re
from collections.abc import Mapping

import torch

from tokengym.base.prompt import Prompt
from tokengym.lab.envs.reasoning import generated_prompts
from tokengym.lab.makers.building.bundle_files import BuiltBundle, PromptRow
from tokengym.lab.makers.building.language_model import (
    ModelSize,
    new_language_model,
    train_language_model,
)
from tokengym.lab.makers.building.tokenizers import byte_tokenizer
from tokengym.lab.makers.bundles.reasoning_gym import SEED

SIZE = ModelSize(
    layers=2, width=64, heads=4, positions=192, initializer_range=0.08, matching_heads=2
)
SUMS = "chain_sum:min_terms=2,max_terms=2,min_digits=2,max_digits=2"
PRODUCTS = "products:min_terms=2,max_terms=2,min_digits=1,max_digits=2"
SHOWN: Mapping[str, int] = {SUMS: 3000, PRODUCTS: 3000}
"""Data sets that the policy learns from, and how many of their questions."""
ASKED = 0.6
"""Share of the examples that ask the calculator; the others guess, wrongly as a rule."""
BATCH_SIZE = 24

_TOKENIZER = byte_tokenizer((), 258)


def build_calculator(*, seed: int, language_steps: int = 500) -> BuiltBundle:
    """Return the bundle, trained from nothing.

    Args:
        seed: Seed of the weights, the guesses and the batches.
        language_steps: Optimiser steps of the policy.
    """
    rng = random.Random(seed)
    examples = [
        example(prompt, rng, most=150 if name == SUMS else 5000)
        for name, size in SHOWN.items()
        for prompt in generated_prompts(f"{name},seed={SEED},size={size // 2}", "all")
    ]
    policy = new_language_model(_TOKENIZER, SIZE, seed=seed)
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
        # The library generates the prompts; these two show the form.
        prompts=[
            PromptRow(prompt=prompts[0].text, reference=prompts[0].reference, split=split)
            for split in ("train", "test")
            for prompts in [generated_prompts(SUMS, split)]
        ],
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
