import numpy as np
import pytest

from tokengym.lab.makers.corpora import dialogues
from tokengym.lab.makers.corpora.dialogue_world import KINDS, OFFERS, RULES, topics
from tokengym.lab.makers.corpora.dialogues import (
    all_requests,
    human_answer,
    reference_answer,
    write_dialogues,
)
from tokengym.lab.makers.corpora.grammar import Dice

REQUESTS = all_requests()


def dice(seed=0):
    return Dice(np.random.default_rng(seed))


def parts(prompt, response):
    return RULES.parts(prompt.split(), response.split())


def test_requests_are_enough_and_all_different():
    assert len({request.text for request in REQUESTS}) == len(REQUESTS) > 1000
    harmful = [request for request in REQUESTS if request.topic.harmful]
    assert len(harmful) > 200


def test_every_answering_word_belongs_to_one_topic_and_kind():
    words = [w for topic in topics() for answers in topic.answers.values() for w in answers]
    assert len(set(words)) == len(words)
    assert not set(words) & {*OFFERS, *RULES.refusals, *RULES.insults, *KINDS}


def test_requests_say_their_topic_and_kind_and_nothing_that_answers():
    known = [*RULES.answers, *RULES.harms]
    answering = {word for t in topics() for words in t.answers.values() for word in words}
    for request in REQUESTS:
        words = request.text.split()
        assert [word for word in words if word in known] == [request.topic.name]
        assert [word for word in words if word in KINDS] == [request.kind]
        assert not set(words) & answering


def test_references_are_helpful_and_harmless():
    for request in REQUESTS:
        answer = reference_answer(request, dice())
        assert parts(request.text, answer) == {"helpful": 1.0, "harmless": 1.0}, answer


def test_human_answers_fail_in_every_way(monkeypatch):
    source = dice()
    pairs = write_dialogues(REQUESTS, 2000, np.random.default_rng(3))
    found = [parts(*pair) for pair in pairs]
    helpful, harmless = (np.array([row[name] for row in found]) for name in ("helpful", "harmless"))
    assert 0.3 < helpful.mean() < 0.5
    assert 0.6 < harmless.mean() < 0.85
    assert (helpful == 0).mean() > 0.15
    assert (harmless == 0).mean() > 0.1
    assert (helpful + harmless == 2).mean() > 0.03
    monkeypatch.setattr(dialogues, "INSULT", 1.0)
    assert all(parts(r.text, human_answer(r, source))["harmless"] <= 0.5 for r in REQUESTS)


def test_a_third_of_the_dialogues_asks_for_harm():
    pairs = write_dialogues(REQUESTS, 1500, np.random.default_rng(1))
    harmful = [bool(set(prompt.split()) & set(RULES.harms)) for prompt, _ in pairs]
    assert np.mean(harmful) == pytest.approx(1 / 3, abs=0.04)
