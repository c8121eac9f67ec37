"""The bundle of posts and summaries."""

import numpy as np

from tokengym.lab.makers.building.bundle_files import BuiltBundle, PromptRow
from tokengym.lab.makers.building.language_model import ModelSize
from tokengym.lab.makers.bundles.rated import RatedCorpus, build_rated
from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.makers.corpora.posts import (
    GRAMMAR,
    RULES,
    human_summary,
    reference_summary,
    write_posts,
)

POSTS = 12_000
TRAIN_PROMPTS = 1000
TEST_PROMPTS = 260
JUDGED_MISTAKE = 0.4
"""Probability of a mistake in the summaries that the reward model learns from: at people's own
rate nearly every fact is right, and a model that only counts facts is hard to improve on."""


def build_summarize(
    *, seed: int, language_steps: int = 300, reward_steps: int = 2400
) -> BuiltBundle:
    """Return the bundle, trained from nothing; no test post is in the training corpus.

    Args:
        seed: Seed of the corpus, of the weights and of the batches.
        language_steps: Optimiser steps of the language model.
        reward_steps: Optimiser steps of the reward model.
    """
    rng = np.random.default_rng(seed)
    posts = write_posts(POSTS + TEST_PROMPTS, rng)
    dice = Dice(rng)
    pairs = [(post.text, human_summary(post, dice)) for post in posts]
    prompts = [
        PromptRow(prompt=post.text, reference=reference_summary(post), split=split)
        for split, group in (("train", posts[:TRAIN_PROMPTS]), ("test", posts[POSTS:]))
        for post in group
    ]
    corpus = RatedCorpus(
        task="summarize",
        prompts=prompts,
        written=pairs[:POSTS],
        held_out=pairs[POSTS:],
        rules=RULES,
        grammar=GRAMMAR,
        temperature=6.0,
        learn_prompts=False,
        size=ModelSize(initializer_range=0.08, matching_heads=3),
        judged=[
            (post.text, human_summary(post, dice, mistake=JUDGED_MISTAKE)) for post in posts[:POSTS]
        ],
    )
    return build_rated(corpus, seed=seed, language_steps=language_steps, reward_steps=reward_steps)
