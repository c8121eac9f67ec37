"""What all written corpora have in common: a seed, words and lengths that the models can read."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tokengym.lab.makers.corpora.dialogues import all_requests, write_dialogues
from tokengym.lab.makers.corpora.movie_reviews import write_reviews
from tokengym.lab.makers.corpora.posts import write_posts
from tokengym.lab.makers.corpora.quarrels import write_quarrels
from tokengym.lab.makers.corpora.questions import all_questions, write_conversations

Write = Callable[[int, np.random.Generator], Sequence[tuple[str, ...]]]
"""Writes texts in their parts: an opening or a prompt, and what follows."""
CORPORA: dict[str, Write] = {
    "dialogues": lambda n, rng: write_dialogues(all_requests(), n, rng),
    "posts": lambda n, rng: [(post.text,) for post in write_posts(n, rng)],
    "quarrels": lambda n, rng: [(q.opening, q.following) for q in write_quarrels(n, rng)],
    "questions": lambda n, rng: write_conversations(all_questions(), n, rng),
    "reviews": lambda n, rng: [(review,) for review in write_reviews(n, rng)],
}


@pytest.mark.parametrize("name", CORPORA)
def test_a_seed_gives_the_same_texts_of_words_joined_by_single_spaces(name: str):
    write = CORPORA[name]
    texts = write(600, np.random.default_rng(5))
    assert write(600, np.random.default_rng(5)) == texts
    assert write(5, np.random.default_rng(6)) != texts[:5]
    for parts in texts:
        for part in parts:
            assert " ".join(part.lower().split()) == part


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("dialogues", 0, 48 - 1),  # an answer and its EOS
        ("posts", 0, 256 - 48 - 1),
        ("quarrels", 48 + 1, 10**6),
        ("reviews", 48 + 7 + 1, 10**6),
    ],
)
def test_texts_fit_the_default_horizon_or_outlast_it(name: str, least: int, most: int):
    texts = CORPORA[name](1500, np.random.default_rng(5))
    lengths = [len(parts[-1].split()) for parts in texts]
    assert np.percentile(lengths, 5) >= least
    assert max(lengths) <= most
