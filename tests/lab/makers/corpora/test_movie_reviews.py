import numpy as np
import pytest

from tokengym.lab.makers.corpora import movie_reviews, movie_words
from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.makers.corpora.movie_words import LEXICON
from tokengym.rewards.gold.sentiment_lexicon import Lexicon


@pytest.fixture(scope="module")
def reviews():
    return movie_reviews.write_reviews(2000, np.random.default_rng(5))


def test_reviews_are_not_long(reviews):
    assert np.percentile([len(review.split()) for review in reviews], 95) < 110


def test_one_word_in_thirteen_is_an_opinion(reviews):
    words = [word for review in reviews for word in review.split()]
    assert sum(word in LEXICON.words for word in words) / len(words) == pytest.approx(
        0.08, abs=0.01
    )


def test_every_opinion_word_is_used(reviews):
    used = {word for review in reviews for word in review.split()}
    assert set(LEXICON.words) | set(LEXICON.intensifiers) | set(LEXICON.negations) <= used


def test_telling_sentences_hold_no_opinion():
    dice = Dice(np.random.default_rng(0))
    for _ in range(3000):
        sentence = movie_reviews.GRAMMAR.write("telling", dice)
        assert not set(sentence.split()) & set(LEXICON.words), sentence


@pytest.mark.parametrize(("side", "sign"), [("good", 1), ("bad", -1)])
def test_opinions_of_a_side_score_on_that_side(side, sign):
    dice = Dice(np.random.default_rng(0))
    for _ in range(3000):
        sentence = movie_reviews.GRAMMAR.write("opinion", dice, (side + "_{}").format)
        score = sign * LEXICON.score(sentence.split())
        assert score > 0.3, sentence


def test_gold_scores_spread_over_both_signs(reviews):
    scores = np.array([LEXICON.score(review.split()) for review in reviews])
    assert abs(scores.mean()) < 0.05
    assert scores.std() > 0.5


def test_the_lexicon_is_made_of_the_word_lists():
    assert isinstance(LEXICON, Lexicon)
    assert LEXICON.words["superb"] == movie_words.GOOD_ADJECTIVES["superb"] == 2.0
    assert all(weight < 0 for weight in movie_words.BAD_VERBS.values())
