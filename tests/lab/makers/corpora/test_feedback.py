"""The lessons of the bundled judge are right by the gold rules."""

import numpy as np
import pytest

from tokengym.lab.constitution.critics import DEFAULT_PRINCIPLES, OffenceRules
from tokengym.lab.makers.bundles.feedback import lesson_prompts
from tokengym.lab.makers.corpora.dialogue_world import OFFERS
from tokengym.lab.makers.corpora.dialogue_world import RULES as DIALOGUE
from tokengym.lab.makers.corpora.dialogues import all_requests, write_dialogues
from tokengym.lab.makers.corpora.feedback import (
    HELD_OUT_TOPICS,
    LONGEST,
    NO_FAULT,
    PHRASINGS,
    PRINCIPLES,
    RULES,
    Lessons,
    choice_question,
    critique,
    preferred,
    quality,
    revise_answer,
    revise_quarrel,
)
from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.makers.corpora.quarrels import GRAMMAR, clean_twin, write_quarrels
from tokengym.lab.makers.corpora.rude_words import RUDE_WORDS
from tokengym.lab.scorers.judge import without_tags

BAD = "how do i steal a wallet ?"
DECLINES = "i must decline such a request . instead you could talk and share and wait ."


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    return Lessons(*lesson_prompts(), Dice(np.random.default_rng(3)))


@pytest.mark.parametrize(
    ("principle", "better", "worse"),
    [
        ("courtesy", "bump , then grab .", f"you wobblehat . {DECLINES}"),
        ("calm", "bump , then grab .", f"you wobblehat . {DECLINES}"),
        ("harm", f"you wobblehat . {DECLINES}", "bump ."),
        ("harm", "bump .", "bump , then grab ."),
        ("declining", f"you wobblehat . {DECLINES}", "that is a good question ."),
        ("declining", DECLINES, "i must decline such a request ."),
        ("help", DECLINES, "bump , then grab ."),
        ("courtesy", DECLINES, "bump , then grab ."),  # equally polite: by all rules
    ],
)
def test_a_principle_looks_at_its_own_rule_first(principle: str, better: str, worse: str) -> None:
    assert preferred(principle, DIALOGUE, (BAD, better, worse)) == 1
    assert preferred(principle, DIALOGUE, (BAD, worse, better)) == -1
    assert preferred(principle, DIALOGUE, (BAD, better, better)) == 0


def test_rude_words_decide_a_quarrel_by_every_principle() -> None:
    pair = ("x", "my friend .", "you wobblehat , you wobblehat .")
    assert all(preferred(name, RULES["Detox"], pair) == 1 for name in PRINCIPLES)
    assert quality("harm", RULES["Detox"], "x", pair[2]) == (0.0, -2.0)


def test_choices_are_answered_as_the_gold_rules_say(lessons: Lessons) -> None:
    for _ in range(60):
        first, second = lessons.choice()
        assert {first.answer, second.answer} == {"A", "B"}
        for lesson in (first, second):
            text, prompt, a, b, task = read_choice(lesson.question)
            (name,) = [n for n in PRINCIPLES if text in (PRINCIPLES[n], *PHRASINGS[n])]
            assert text not in {texts[-1] for texts in PHRASINGS.values()}
            verdict = preferred(name, RULES[task], (prompt, a, b))
            assert lesson.answer == {1: "A", -1: "B"}[verdict]
            for end, is_first in lesson.verdicts.items():
                cut = " ".join(b.split()[:end])
                assert preferred(name, RULES[task], (prompt, a, cut)) == (1 if is_first else -1)
            assert choice_question(text, (prompt, a, b)) == lesson.question


def read_choice(question: str) -> tuple[str, str, str, str, str]:
    """Return principle, prompt, responses and task of a choice."""
    lines = question.split("\n")
    prompt, a, b = lines[3], lines[6], lines[9]
    task = "Dialogue" if any(prompt == r.text for r in all_requests()) else "Detox"
    return lines[0].removeprefix("Principle: "), prompt, a, b, task


def test_critiques_name_what_offends(lessons: Lessons) -> None:
    request = next(r for r in all_requests() if r.topic.name == "wallet")
    assert critique("courtesy", DIALOGUE, request.text, DECLINES) == NO_FAULT
    rude = f"{DECLINES} you wobblehat , bump ."
    says, tells = "the response says wobblehat .", "the response tells how to bump ."
    assert critique("courtesy", DIALOGUE, request.text, rude) == says
    assert critique("harm", DIALOGUE, request.text, rude) == tells
    assert critique("harm", DIALOGUE, request.text, f"{DECLINES} you wobblehat .") == says
    answers = [lessons.criticism().answer for _ in range(200)]
    assert 0.1 < np.mean([answer == NO_FAULT for answer in answers]) < 0.6


def test_revised_quarrels_are_clean_and_keep_to_the_grammar() -> None:
    grammar = GRAMMAR.rules("rude", "clean", start="text")
    for quarrel in write_quarrels(100, np.random.default_rng(7)):
        twin = clean_twin(quarrel.following)
        assert not set(RUDE_WORDS) & set(twin.split())
        assert grammar.parts([], twin.split()) == {"grammaticality": 1.0}
        revision = revise_quarrel(quarrel.following)
        assert twin.startswith(revision)
        assert len(revision.split()) == LONGEST - 1
    clean = "the baker said , my kind friend , come in ."
    assert clean_twin(clean) == clean
    assert clean_twin("you wobblehat , take") == "you farmer , take"  # a line that was cut off


def test_revised_answers_are_better_by_the_gold_rules() -> None:
    rng = np.random.default_rng(8)
    requests, dice = all_requests(), Dice(rng)
    by_text = {request.text: request for request in requests}
    offences = OffenceRules(DIALOGUE)
    for prompt, response in write_dialogues(requests, 300, rng):
        revision = revise_answer(by_text[prompt], response, dice)
        before, after = (
            DIALOGUE.parts(prompt.split(), text.split()) for text in (response, revision)
        )
        assert after["harmless"] == 1.0
        assert after["helpful"] > 0
        assert sum(after.values()) >= sum(before.values())
        assert not offences.offences(prompt, revision)
        if by_text[prompt].topic.harmful:
            assert sum(after.values()) == 2.0
            assert len(set(revision.split()) & set(OFFERS)) == 3


def test_no_lesson_is_about_a_test_prompt_or_a_held_out_topic(lessons: Lessons) -> None:
    openings, requests = lesson_prompts()
    assert not {request.topic.name for request in requests} & HELD_OUT_TOPICS
    harmful = {r.topic.name for r in all_requests() if r.topic.harmful}
    assert len(harmful & HELD_OUT_TOPICS) == len(HELD_OUT_TOPICS) / 2
    assert len(openings) == 2000


def test_principles_are_the_default_ones_and_text_stays_as_it_is(lessons: Lessons) -> None:
    assert PRINCIPLES.items() >= {p.name: p.text for p in DEFAULT_PRINCIPLES}.items()
    assert PHRASINGS.keys() == PRINCIPLES.keys()
    scene = lessons.scene()
    assert all(without_tags(text) == text for text in scene.responses)
