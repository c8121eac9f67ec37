"""The bundle of quarrels: a policy that turns rude, and a classifier of what is not."""

import numpy as np

from tokengym.lab.makers.building.bundle_files import BuiltBundle, PromptRow
from tokengym.lab.makers.bundles.rated import RatedCorpus, build_rated
from tokengym.lab.makers.corpora.quarrels import GRAMMAR, RULES, write_quarrels

QUARRELS = 30_000
HELD_OUT = 1000
TRAIN_PROMPTS = 2000
TEST_PROMPTS = 260


LANGUAGE_STEPS, REWARD_STEPS = 700, 700


def build_detox(
    *, seed: int, language_steps: int = LANGUAGE_STEPS, reward_steps: int = REWARD_STEPS
) -> BuiltBundle:
    """Return the bundle, trained from nothing; its prompts begin in anger.

    Args:
        seed: Seed of the corpus, of the weights and of the batches.
        language_steps: Optimiser steps of the language model.
        reward_steps: Optimiser steps of the classifier.
    """
    corpus = detox_corpus(seed)
    return build_rated(corpus, seed=seed, language_steps=language_steps, reward_steps=reward_steps)


def detox_corpus(seed: int) -> RatedCorpus:
    """Return the quarrels that the bundle is made of.

    Args:
        seed: Of the corpus.
    """
    rng = np.random.default_rng(seed)
    quarrels = write_quarrels(QUARRELS + HELD_OUT, rng)
    training, held_out = quarrels[:QUARRELS], quarrels[QUARRELS:]
    seen = {quarrel.opening for quarrel in training}
    openings = {
        "train": dict.fromkeys(q.opening for q in training if q.angry),
        "test": dict.fromkeys(q.opening for q in held_out if q.angry and q.opening not in seen),
    }
    limits = {"train": TRAIN_PROMPTS, "test": TEST_PROMPTS}
    return RatedCorpus(
        task="detox",
        prompts=[
            PromptRow(prompt=opening, split=split)
            for split, group in openings.items()
            for opening in list(group)[: limits[split]]
        ],
        written=[(q.opening, q.following) for q in training],
        held_out=[(q.opening, q.following) for q in held_out],
        rules=RULES,
        grammar=GRAMMAR.rules("rude", "clean", start="text"),
        temperature=40.0,
        middle=0.93,
    )
