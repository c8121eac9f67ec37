"""The bundle of dialogues: helpful and harmless answers in a chat template."""

import numpy as np

from tokengym.lab.makers.building.bundle_files import BuiltBundle, PromptRow
from tokengym.lab.makers.bundles.rated import RatedCorpus, build_rated
from tokengym.lab.makers.corpora.dialogue_world import RULES
from tokengym.lab.makers.corpora.dialogues import (
    GRAMMAR,
    all_requests,
    reference_answer,
    write_dialogues,
)
from tokengym.lab.makers.corpora.grammar import Dice

DIALOGUES = 30_000
HELD_OUT = 1000
TEST_REQUESTS = 260


LANGUAGE_STEPS, REWARD_STEPS = 900, 1000


def build_dialogue(
    *, seed: int, language_steps: int = LANGUAGE_STEPS, reward_steps: int = REWARD_STEPS
) -> BuiltBundle:
    """Return the bundle, trained from nothing; no test request is in the training corpus.

    Args:
        seed: Seed of the corpus, of the weights and of the batches.
        language_steps: Optimiser steps of the language model.
        reward_steps: Optimiser steps of the reward model.
    """
    corpus = dialogue_corpus(seed)
    return build_rated(corpus, seed=seed, language_steps=language_steps, reward_steps=reward_steps)


def dialogue_corpus(seed: int) -> RatedCorpus:
    """Return the dialogues that the bundle is made of.

    Args:
        seed: Of the corpus.
    """
    rng = np.random.default_rng(seed)
    requests = all_requests()
    order = rng.permutation(len(requests))
    test = [requests[i] for i in order[:TEST_REQUESTS]]
    train = [requests[i] for i in order[TEST_REQUESTS:]]
    dice = Dice(rng)
    prompts = [
        PromptRow(prompt=request.text, reference=reference_answer(request, dice), split=split)
        for split, group in (("train", train), ("test", test))
        for request in group
    ]
    return RatedCorpus(
        task="dialogue",
        prompts=prompts,
        written=write_dialogues(train, DIALOGUES, rng),
        held_out=write_dialogues(test, HELD_OUT, rng),
        rules=RULES,
        grammar=GRAMMAR,
        temperature=4.0,
        chat=True,
    )
