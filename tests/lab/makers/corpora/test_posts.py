import numpy as np
import pytest

from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.makers.corpora.posts import (
    ENDING,
    FACTS,
    RULES,
    human_summary,
    reference_summary,
    write_posts,
)


@pytest.fixture(scope="module")
def posts():
    return write_posts(600, np.random.default_rng(5))


def gold(post, summary):
    return RULES.parts(post.text.split(), summary.split())


def test_a_word_is_one_kind_of_fact():
    words = [word for kind in FACTS.values() for word in kind]
    assert len(set(words)) == len(words)


def test_posts_differ_and_tell_exactly_their_facts(posts):
    assert len({post.text for post in posts}) == len(posts)
    for post in posts:
        assert set(RULES.facts) & set(post.text.split()) == set(post.facts.values())
        assert 4 <= len(post.facts) <= 6
        assert {"relation", "deed", "object"} <= set(post.facts)
        assert post.text.endswith(ENDING)


def test_references_name_every_fact_and_nothing_else(posts):
    for post in posts:
        assert gold(post, reference_summary(post)) == {
            "facts": 1.0,
            "padding": 0.0,
            "copying": 0.0,
            "invention": 0.0,
        }


def test_human_summaries_fail_in_every_way(posts):
    dice = Dice(np.random.default_rng(0))
    found = [gold(post, human_summary(post, dice)) for post in posts]
    means = {name: np.mean([parts[name] for parts in found]) for name in found[0]}
    assert 0.5 < means["facts"] < 0.8
    assert all(means[name] < -0.002 for name in ("padding", "copying", "invention"))
    scores = np.array([sum(parts.values()) for parts in found])
    assert scores.std() > 0.2


def test_copying_the_whole_post_is_worth_less_than_its_reference(posts):
    for post in posts[:50]:
        assert sum(gold(post, post.text).values()) <= 0.5
