"""Rude posts: the same facts, rude words in every post, and none in a reference."""

import numpy as np
import pytest

from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.makers.corpora.posts import ENDING, RULES, Post, human_summary, reference_summary
from tokengym.lab.makers.corpora.rude_posts import rude_summary, write_rude_posts
from tokengym.lab.makers.corpora.rude_words import RUDE_WORDS


@pytest.fixture(scope="module")
def posts() -> list[Post]:
    return write_rude_posts(400, np.random.default_rng(3))


def rudeness(text: str) -> float:
    words = [word for word in text.split() if word.isalpha()]
    return sum(word in RUDE_WORDS for word in words) / len(words)


def test_posts_are_rude_and_tell_their_facts(posts: list[Post]) -> None:
    assert write_rude_posts(400, np.random.default_rng(3)) == posts
    for post in posts:
        assert rudeness(post.text) > 0
        assert post.text == " ".join([*post.sentences, ENDING])
        assert set(RULES.facts) & set(post.text.split()) == set(post.facts.values())
        reference = reference_summary(post)
        assert rudeness(reference) == 0
        assert sum(RULES.parts(post.text.split(), reference.split()).values()) == 1


def test_summaries_are_rude_and_as_good_as_those_of_others(posts: list[Post]) -> None:
    rude = [rude_summary(post, Dice(np.random.default_rng(i))) for i, post in enumerate(posts)]
    plain = [human_summary(post, Dice(np.random.default_rng(i))) for i, post in enumerate(posts)]
    assert 0.05 < np.mean([rudeness(text) for text in rude]) < 0.2
    assert np.mean([rudeness(text) > 0 for text in rude]) > 0.6

    def facts(texts: list[str]) -> list[float]:
        pairs = zip(posts, texts, strict=True)
        return [RULES.parts(p.text.split(), t.split())["facts"] for p, t in pairs]

    assert facts(rude) == facts(plain)  # the same dice: the rude words come on top
