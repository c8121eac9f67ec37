"""Judges: texts that they cannot read, and their words in a run's files."""

import logging
from itertools import product
from typing import Any

import numpy as np
import pytest

from tests.support.words import make_word_tokenizer
from tokengym.agents import RandomAgent
from tokengym.envs import Episode, bundled
from tokengym.evaluation.measure.evaluate import Evaluator
from tokengym.evaluation.measure.judges import Judges, measured_by
from tokengym.rewards.registry import load_scorer
from tokengym.rewards.scorers.base import FunctionScorer
from tokengym.rewards.scorers.wrappers import Normalize

FOREIGN = ["zork", "blarg", "fnord", "quux"]
FAMILIAR = ["the", "film", "is", "great"]


def evaluator(words: list[str], task: str = "movie_review", **changes: Any) -> Evaluator:
    tokenizer = make_word_tokenizer(["<pad>", "<eos>", "<unk>", *words])
    kwargs: dict[str, Any] = {"tokenizer": tokenizer, "bundle": bundled(task).path}
    names = {"movie_review": "MovieReview", "dialogue": "Dialogue"}
    kwargs["prompts"] = [" ".join(words[:2])]
    options = {"max_new_tokens": 16, "min_new_tokens": 16, "forbidden_token_ids": [0, 2]}
    options["chat_template"] = False
    warns = changes.pop("warns", True)
    return Evaluator(names[task], {**kwargs, **options, **changes}, num_episodes=4, warns=warns)


@pytest.mark.parametrize("task", ["movie_review", "dialogue"])
def test_a_gold_score_that_knows_few_words_is_no_number(task, caplog):
    made = evaluator(FOREIGN, task)
    assert made.measured_by.startswith("RewardModel(reward_model); the gold score is left out")
    agent = RandomAgent(made.envs, seed=0)
    for _ in range(2):
        found = made(agent)
        assert found.gold_scores is None
        assert "gold_score" not in found.metrics
        assert np.isfinite(found.metrics["score"])
        assert made.reads_little
    assert made.measured_by.startswith("RewardModel(reward_model); the gold score is left out")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2  # once each
    assert "% of the words, and is left out" in said[0]
    assert said[1].startswith("RewardModel(reward_model) has no tokens for ")
    made.close()


@pytest.mark.parametrize(
    ("changes", "has_gold"),
    [
        ({"scorer": lambda prompt, response: 1.0}, False),
        ({"reward": lambda prompt, response: 1.0}, False),
        ({"reward": "uniform", "scorer": "length-penalty:rate=0.1"}, False),
        ({"reward": "uniform"}, True),  # the task's own reward model
        ({"prompts": None, "tokenizer": None, "scorer": lambda prompt, response: 1.0}, True),
    ],
)
def test_prompts_and_a_scorer_of_ones_own_have_no_gold_score(changes, has_gold, caplog):
    made = evaluator(FAMILIAR, **changes)
    assert (made.gold is not None) == has_gold
    if not has_gold:
        assert made.measured_by.endswith("; prompts and a scorer of your own have no gold score")
        assert "gold_score" not in made(RandomAgent(made.envs, seed=0)).metrics
    assert not caplog.records
    made.close()


def test_one_run_of_a_comparison_names_what_cannot_read_the_texts(caplog):
    made = evaluator(FOREIGN, warns=False)
    assert made(RandomAgent(made.envs, seed=0)).gold_scores is None  # left out all the same
    assert not caplog.records
    made.close()


def test_nothing_is_said_of_words_that_are_known(caplog):
    caplog.set_level(logging.WARNING)
    made = evaluator(FAMILIAR)
    assert "gold_score" in made(RandomAgent(made.envs, seed=0)).metrics
    assert not made.reads_little
    assert not caplog.records
    made.close()


def test_a_scorer_says_which_share_it_cannot_read():
    scorer = load_scorer(bundled("movie_review").reward_model, "reward_model")
    episodes = [
        Episode(prompt="The film", response=response, prompt_ids=[0], response_ids=[0])
        for response in ("is great", "is zork", "blarg fnord")
    ]
    plain = FunctionScorer(lambda prompt, response: 1.0)
    for judge in (scorer, Normalize(scorer), scorer + plain, plain * scorer):
        np.testing.assert_allclose(judge.oov_fraction(episodes), [0.0, 0.25, 0.5])
    np.testing.assert_array_equal(plain.oov_fraction(episodes), np.zeros(3))


@pytest.mark.parametrize("gold", [None, "Sentiment times grammaticality", "Relevance(e), full 0.3"])
@pytest.mark.parametrize("scorer", ["RewardModel(m) (guessed; class 1)", "Relevance(e), full 0.3"])
def test_judges_are_read_from_their_words(gold, scorer):
    for by_gold, has_rivals, is_own in product((False, True), repeat=3):
        words = measured_by(scorer, gold, by_gold=by_gold, has_rivals=has_rivals, is_own=is_own)
        score = gold if by_gold and gold is not None else scorer
        assert Judges.parse(words) == Judges(score=score, gold=gold)
