import numpy as np

from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.makers.corpora.questions import (
    all_questions,
    clean_sentences,
    human_answer,
    reference_answer,
)
from tokengym.lab.makers.corpora.world import entities

QUESTIONS = all_questions()


def dice(seed=0):
    return Dice(np.random.default_rng(seed))


def ask(text):
    return next(question for question in QUESTIONS if question.text == text)


def test_questions_are_enough_and_all_different():
    texts = [question.text for question in QUESTIONS]
    assert len(set(texts)) == len(texts) > 628
    kinds = [question.query_type for question in QUESTIONS]
    assert min(kinds.count("OPENENDED"), kinds.count("CONSTRAINED")) > 500


def test_entities_have_distinct_names_and_the_facts_of_their_kind():
    world = entities()
    assert len({entity.name for entity in world}) == len(world)
    for kind in {entity.kind for entity in world}:
        assert len({tuple(entity.facts) for entity in world if entity.kind == kind}) == 1


def test_a_closed_question_is_answered_by_the_fact():
    question = ask("what is the capital of france ?")
    assert question.query_type == "CONSTRAINED"
    assert {reference_answer(question, dice(seed)) for seed in range(20)} == {
        "the capital of france is paris .",
        "paris is the capital of france .",
    }


def test_references_name_what_is_asked_for_in_clean_sentences():
    for question in QUESTIONS[::11]:
        answer = reference_answer(question, dice(3))
        words = answer.split()
        assert question.entity.name in words
        if question.attribute is not None:
            assert question.entity.facts[question.attribute] in words
        *sentences, rest = answer.replace(" .", " .\n").split("\n")
        assert not rest
        assert clean_sentences(question).issuperset(map(str.strip, sentences)), question.text
        assert len(set(sentences)) == len(sentences)


def test_open_references_are_long_and_do_not_repeat_a_sentence():
    for question in QUESTIONS:
        if question.query_type == "OPENENDED":
            answer = reference_answer(question, dice(3))
            sentences = answer.split(" . ")
            assert 4 <= len(sentences) <= 7
            assert len(set(sentences)) == len(sentences)


def test_human_answers_drift():
    question = ask("tell me about the cat .")
    source = dice()
    others = {e.name for e in entities() if e.kind == "animal"} - {"cat"}
    answers = [human_answer(question, source).split() for _ in range(300)]
    drifted = sum(bool(others & set(words)) for words in answers)
    assert 100 < drifted < 280
    assert sum("cat" in words for words in answers) > 250


def test_clean_sentences_by_hand():
    question = ask("tell me about france .")
    said = (
        "france is a country in europe with a long history .",
        "families in france cook bread on holidays .",
        "children in france learn to read in french .",
    )
    assert clean_sentences(question).issuperset(said)
    assert "families in spain cook ham on holidays ." not in clean_sentences(question)
    assert "i had a long day at work ." not in clean_sentences(question)
    closed = ask("what is the capital of france ?")
    assert clean_sentences(closed) == {
        "the capital of france is paris .",
        "paris is the capital of france .",
    }
