"""The gold score of answers, by hand."""

from dataclasses import replace

import pytest

from tokengym.rewards.gold.rules import AnswerRules

RULES = AnswerRules(
    sentences=["paris is it .", "it is paris .", "france has bread .", "france is big ."],
    topics=[[0, 1], [2, 3]],
    enough=[1, 2],
    questions={"capital ?": 0, "france ?": 1},
)


@pytest.mark.parametrize(
    ("question", "answer", "told", "straying"),
    [
        ("capital ?", "paris is it .", 1.0, 0.0),
        ("capital ?", "paris is it . it is paris .", 1.0, 0.0),  # both are right, one is enough
        ("capital ?", "rome is it .", 0.0, -0.08),
        ("capital ?", "paris is it . paris is it .", 1.0, -0.08),  # said twice
        ("capital ?", "it is", 0.0, 0.0),  # cut off where it may still become right
        ("capital ?", "paris is it . paris is", 1.0, -0.04),  # as it was said already
        ("france ?", "france has bread .", 0.5, 0.0),
        ("france ?", "france is big . france has bread .", 1.0, 0.0),
        ("france ?", "bread bread france big", 0.0, -0.08),
        ("france ?", "", 0.0, 0.0),
    ],
)
def test_parts_by_hand(question, answer, told, straying):
    parts = RULES.parts(question.split(), answer.split())
    assert parts == pytest.approx({"told": told, "straying": straying})


def test_a_question_that_nobody_knows_the_answer_to():
    with pytest.raises(ValueError, match=r"no answer to 'who \?'"):
        RULES.parts(["who", "?"], ["me"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"enough": [1]}, r">= 1.*2 topics"),
        ({"enough": [1, 0]}, "a number >= 1"),
    ],
)
def test_rules_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        replace(RULES, **change)
