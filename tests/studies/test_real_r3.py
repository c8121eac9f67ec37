"""Picking among a chat model's answers: the judge that does not select, and the tables."""

import json
from pathlib import Path

import pytest

from studies import real_r3 as study
from tokengym.envs import Episode


def answer(question: int, **figures: float) -> study.Row:
    """Return a row of the published figures: 0 where nothing else is said."""
    names = (*study.FIGURES, *study.PARTS)
    return {"question": question, "query_type": "OPENENDED", **dict.fromkeys(names, 0.0), **figures}


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


def test_picked_answers_are_set_against_the_mean_of_all() -> None:
    rows = [
        row
        for question in range(3)
        for row in (
            answer(question, relevance_query=4.0, length=2.0 + question, repetition_penalty=0.5),
            answer(question, relevance_query=1.0, length=6.0 + question, length_incentive=0.6)
            | {"score": 3.0, "repetition_penalty": 1.0, "key_words": 0.5},
        )
    ]
    for row in rows[-2:]:
        row["key_words"] = None  # the reference of the last question has none
    lines = study.table(rows, "OPENENDED").splitlines()
    assert lines[2].split(" | ")[:3] == [
        "| one at random",
        "1.50 (1.50 to 1.50)",
        "2.50 (2.50 to 2.50)",
    ]
    cells = {line.split(" | ")[0][2:]: line.split(" | ") for line in lines[3:]}
    assert list(cells) == [f"best of 8 by {name}" for name in study.PICKED]
    # Means of 2.5 and 4 tokens: the first answer is 1.5 above and 2 below, the second the reverse.
    assert cells["best of 8 by relevance"][2:4] == [
        "**+1.50** (1.50 to 1.50)",
        "**\N{MINUS SIGN}2.00** (\N{MINUS SIGN}2.00 to \N{MINUS SIGN}2.00)",
    ]
    for rule in ("R3", "LI", "relevance x LI"):
        assert cells[f"best of 8 by {rule}"][3] == "**+2.00** (2.00 to 2.00)"


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
