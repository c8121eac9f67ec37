"""The models of Forks: a policy that solves some of it, a reward model of the chance of success."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import GPT2ForSequenceClassification

from tokengym.lab.envs.forks import families
from tokengym.lab.envs.forks.env import LONGEST_LEARNT, VOCABULARY, ForksEnv, forks_tokenizer
from tokengym.lab.envs.forks.gold import ForkRules
from tokengym.lab.makers.building.bundle_files import BuiltBundle, PromptRow
from tokengym.lab.makers.building.figures import rounded
from tokengym.lab.makers.building.language_model import (
    ModelSize,
    new_language_model,
    train_language_model,
)
from tokengym.lab.makers.building.reward_model import (
    DrawPrefixes,
    reward_logits,
    reward_model_from,
    train_on_prefixes,
)
from tokengym.lab.makers.building.training import choose
from tokengym.lab.makers.bundles.encoder import encoder_of_pairs
from tokengym.lab.makers.corpora.forks_texts import Demonstration, demonstrate, write_prompt

SIZE = ModelSize(
    layers=3, width=64, heads=4, positions=LONGEST_LEARNT, initializer_range=0.08, matching_heads=2
)
SKILL = 0.9
"""Skill of the demonstrator that the policy learns from and the reward model judges by."""
DEMONSTRATIONS = 12_000
BATCH_SIZE = 48
FILLERS_BEFORE = (0, 0, 0, 1, 3, 3)
"""Fillers before each decision, each as often: the fewer, the more of a text is decisions."""
PAIRS = 2_000
MEASURED = 512
"""Responses per family that figures are taken from."""

_TOKENIZER = forks_tokenizer()
_IDS = {word: index for index, word in enumerate(VOCABULARY)}


def build_forks(*, seed: int, language_steps: int = 900, reward_steps: int = 450) -> BuiltBundle:
    """Return the bundle, trained from nothing.

    Args:
        seed: Seed of the texts, of the weights and of the batches.
        language_steps: Optimiser steps of the policy.
        reward_steps: Optimiser steps of the reward model.
    """
    shown, judged = demonstrations(seed)
    generator = torch.Generator().manual_seed(seed)
    policy = new_language_model(_TOKENIZER, SIZE, seed=seed)
    train_language_model(
        policy,
        [token_ids(d) for d in shown],
        starts=[_start(d) for d in shown],
        steps=language_steps,
        generator=generator,
        learning_rate=3e-3,
        batch_size=BATCH_SIZE,
    )
    reward_model = reward_model_from(policy, seed=seed)
    train_on_prefixes(
        reward_model, drawer(judged, generator), steps=reward_steps, learning_rate=2e-3
    )
    pair_rng = np.random.default_rng([seed, 3])
    texts = [write_prompt(pair_rng)[1] for _ in range(PAIRS)]
    encoder = encoder_of_pairs(_TOKENIZER, [(t, families.solution(t)) for t in texts], seed=seed)
    return BuiltBundle(
        task="forks",
        tokenizer=_TOKENIZER,
        # The environment draws its prompts by its knobs; these two show the form.
        prompts=[
            PromptRow(prompt=ForksEnv(split=split).prompts[0].text, split=split)
            for split in ("train", "test")
        ],
        models={"policy": policy, "reward_model": reward_model, "encoder": encoder},
        rules=ForkRules(),
        figures={
            "seed": seed,
            "vocabulary": len(_TOKENIZER),
            "reward_model": measure_reward_model(reward_model, seed=seed),
        },
    )


def demonstrations(seed: int) -> tuple[list[Demonstration], list[Demonstration]]:
    """Return what the policy learns from, and what the reward model judges.

    Args:
        seed: Seed of the texts.
    """
    rng = np.random.default_rng(seed)
    shown = [_shown(SKILL, rng) for _ in range(DEMONSTRATIONS)]
    judged = [_shown(float(skill), rng) for skill in rng.uniform(0.5, 1.0, DEMONSTRATIONS)]
    return shown, judged


def drawer(judged: Sequence[Demonstration], generator: torch.Generator) -> DrawPrefixes:
    """Return a function that draws responses, with the chance of success after each token.

    The chance is that of the demonstrator the policy learned from: the mean of what a reward model
    trained on outcomes at every token would be shown (Cobbe et al. 2021, arXiv:2110.14168).
    """

    def draw() -> tuple[list[list[int]], list[list[float]]]:
        shown = [judged[i] for i in choose(len(judged), BATCH_SIZE, generator)]
        targets = [[np.nan] * _start(d) + list(d.chances) for d in shown]
        return [token_ids(d) for d in shown], targets

    return draw


def measure_reward_model(
    model: GPT2ForSequenceClassification, *, seed: int
) -> dict[str, dict[str, float]]:
    """Return per family how well the reward model tells finished responses that are right."""
    rng = np.random.default_rng([seed, 2])
    figures: dict[str, dict[str, float]] = {}
    for family in families.FAMILIES:
        shown: list[Demonstration] = []
        while len(shown) < MEASURED:
            drawn, prompt = write_prompt(rng)
            if drawn == family:
                shown.append(_demonstration(drawn, prompt, 0.9, rng))
        right = np.array([d.chances[-1] for d in shown]) > 0
        predicted = reward_logits(model, [token_ids(d) for d in shown]).numpy()
        figures[str(family)] = rounded(
            {
                "accuracy": ((predicted > 0.5) == right).mean(),
                "solved": right.mean(),
                "error": np.sqrt(np.square(predicted - right).mean()),
            }
        )
    return figures


def _shown(skill: float, rng: np.random.Generator) -> Demonstration:
    return _demonstration(*write_prompt(rng), skill, rng)


def _demonstration(
    family: families.FamilyName, prompt: str, skill: float, rng: np.random.Generator
) -> Demonstration:
    fillers = int(rng.choice(FILLERS_BEFORE))
    return demonstrate(family, prompt, skill=skill, judged_by=SKILL, fillers=fillers, rng=rng)


def token_ids(shown: Demonstration) -> list[int]:
    """Return the tokens of prompt and response."""
    words = [*shown.prompt.split(), *shown.words]
    return [_IDS[word] for word in words][:LONGEST_LEARNT]


def _start(shown: Demonstration) -> int:
    return len(shown.prompt.split())
