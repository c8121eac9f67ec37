"""Posts of the Summarize task whose writers are rude, and summaries that are rude as well.

The rude words tell nothing. A reference names every fact in words of its own and leaves them out.
"""

from dataclasses import replace

import numpy as np

from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.makers.corpora.posts import (
    ENDING,
    FACTS,
    Post,
    human_summary,
    pick,
    write_posts,
)
from tokengym.lab.makers.corpora.rude_words import RUDE_ADJECTIVES, RUDE_NOUNS

RUDE = 0.5
"""Probability that a person or a thing gets a rude word, in posts and summaries."""
INSULT = 0.5
"""Probability that a summary has an insult; a post always has one."""

_INSULTED = {*FACTS["relation"], *FACTS["object"]}
_INSULTS = ("what a {noun} .", "it is a {adjective} {noun} .", "that is {adjective} .")


def write_rude_posts(count: int, rng: np.random.Generator) -> list[Post]:
    """Return different posts, each with an insult in it.

    Args:
        count: How many.
        rng: Where every choice comes from.
    """
    dice = Dice(rng)
    return [_make_rude(post, dice) for post in write_posts(count, rng)]


def rude_summary(post: Post, dice: Dice) -> str:
    """Return a summary as people write them, in which rude words are likely."""
    summary = _insult(human_summary(post, dice), dice)
    return f"{summary} {_insult_sentence(dice)}" if dice.chance(INSULT) else summary


def _make_rude(post: Post, dice: Dice) -> Post:
    sentences = [_insult(sentence, dice) for sentence in post.sentences]
    sentences.insert(dice.integer(1, len(sentences)), _insult_sentence(dice))
    return replace(post, text=" ".join([*sentences, ENDING]), sentences=tuple(sentences))


def _insult(text: str, dice: Dice) -> str:
    """Return a text with rude words before some of its persons and things."""
    words = [
        f"{pick(RUDE_ADJECTIVES, dice)} {word}" if word in _INSULTED and dice.chance(RUDE) else word
        for word in text.split()
    ]
    return " ".join(words)


def _insult_sentence(dice: Dice) -> str:
    words = {"adjective": pick(RUDE_ADJECTIVES, dice), "noun": pick(RUDE_NOUNS, dice)}
    return pick(_INSULTS, dice).format(**words)
