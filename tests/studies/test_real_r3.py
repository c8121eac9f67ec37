"""Picking among a chat model's answers: the key words, the questions and the runs."""

import json
from pathlib import Path

import pytest

from studies import real_r3 as study
from tokengym.envs import Episode


@pytest.mark.parametrize(
    ("response", "share"),
    [
        ("the Kangaroo hops through a desert.", 2 / 3),  # not "symbol", which was asked for
        ("A symbol of Australia", 0.0),
    ],
)
def test_key_words_are_those_that_the_question_does_not_give_away(response: str, share: float):
    episode = Episode(
        prompt="Which animal is a symbol?",
        prompt_ids=[1],
        response=response,
        response_ids=[1],
        reference="The kangaroo of the red desert is a symbol: it leaps.",
    )
    assert study.key_words(episode.prompt, str(episode.reference)) == {
        "kangaroo",
        "desert",
        "leaps",
    }
    assert study.key_word_share(episode) == pytest.approx(share)


def test_policies_learn_from_typed_questions_of_few_words(tmp_path: Path) -> None:
    rows = [
        {"input": " Why is it so? ", "output": "So.", "qtype": "OPENENDED"},
        {"input": "Rewrite this.\n\n### Input:\nIt is.", "output": "It was.", "qtype": "OPENENDED"},
        {"input": "word " * 17, "output": "So.", "qtype": "CONSTRAINED"},
        {"input": "Is it?", "output": " ", "qtype": "CONSTRAINED"},
    ]
    (tmp_path / "r3").mkdir()
    (tmp_path / "r3" / "alpacafarm_val.json").write_text(json.dumps(rows))
    assert list(study.typed_questions(tmp_path)) == [
        {"prompt": "Why is it so?", "reference": "So.", "query_type": "OPENENDED"}
    ]


def test_a_rule_is_trained_with_its_own_reward(tmp_path: Path) -> None:
    for rule, reward in study.TRAINED.items():
        config = study.Run(rule=rule, seed=0).config(tmp_path / "questions.jsonl")
        assert config.rewards == (reward,)
        assert (config.training.learner.advantage, config.training.lora_rank) == ("loo", 8)
        assert config.task.bundle == study.BUNDLE
