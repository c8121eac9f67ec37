"""Building the judge and critic: what it learns from, and that it does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tokengym.envs import bundled
from tokengym.envs.prompts.tokenization import encode
from tokengym.lab.makers.building.tokenizers import word_tokenizer
from tokengym.lab.makers.bundles.feedback import (
    EARLIER,
    PHASES,
    build_feedback,
    lesson_loss,
    lesson_prompts,
    new_judge,
    teach,
    vocabulary_texts,
)
from tokengym.lab.makers.corpora.feedback import Lesson, Lessons, choice_question
from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.scorers.preference_model import answer_ids

Made = tuple[Lessons, PreTrainedTokenizerFast]


@pytest.fixture(scope="module")
def made() -> Made:
    lessons = Lessons(*lesson_prompts(), Dice(np.random.default_rng(0)))
    return lessons, word_tokenizer(vocabulary_texts(lessons))


def test_the_tokenizer_knows_the_words_of_tasks_questions_and_answers(made: Made) -> None:
    lessons, tokenizer = made
    for task in ("detox", "dialogue"):
        words = set(bundled(task).tokenizer.get_vocab()) - {"<user>", "<assistant>", "<unk>"}
        assert words <= set(tokenizer.get_vocab())
    for _ in range(50):
        for lesson in (*lessons.choice(), lessons.criticism(), lessons.revision()):
            for text in (lesson.question, lesson.answer):
                (ids,) = encode(tokenizer, [text])
                assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == lesson.answer.lower()


def test_the_loss_is_that_of_answers_and_of_earlier_verdicts(made: Made) -> None:
    _, tokenizer = made
    model: LlamaForCausalLM = new_judge(tokenizer, seed=0)
    choice = Lesson(
        question=choice_question("be kind", ("hello", "you wobblehat", "my friend , come in")),
        answer="B",
        verdicts={2: True},
    )
    text = Lesson(question="the response is rude", answer="none", verdicts={})
    with torch.no_grad():
        loss = lesson_loss(model, tokenizer, [choice, text]).item()
        wanted = 0.0
        for lesson in (choice, text):
            (ids, answer) = encode(tokenizer, [lesson.question, lesson.answer])
            logits = model(torch.tensor([[*ids, *answer, tokenizer.eos_token_id]])).logits[0]
            ends = torch.tensor([answer[0], tokenizer.eos_token_id])
            wanted += functional.cross_entropy(logits[len(ids) - 1 : -1], ends).item()
        (ids,) = encode(tokenizer, [choice.question])
        place = ids.index(tokenizer("friend").input_ids[0])  # the second word of response B
        logits = model(torch.tensor([ids])).logits[0, place, answer_ids(tokenizer, ("A", "B"))]
        wanted += EARLIER * functional.cross_entropy(logits, torch.tensor(0)).item()
    assert loss == pytest.approx(wanted, abs=1e-4)


def test_lessons_are_learned(made: Made) -> None:
    lessons, tokenizer = made
    model = new_judge(tokenizer, seed=0)
    batch = [lesson for _ in range(8) for lesson in (lessons.criticism(), lessons.revision())]
    with torch.no_grad():
        before = lesson_loss(model, tokenizer, batch).item()
    teach(model, tokenizer, lessons, replace(PHASES[0], steps=12))
    with torch.no_grad():
        assert lesson_loss(model, tokenizer, batch).item() < before - 0.5


def test_a_build_holds_a_judge_and_its_figures() -> None:
    built = build_feedback(seed=1, phases=[replace(PHASES[0], steps=1)])
    assert built.task == "feedback"
    assert set(built.models) == {"judge"}
    assert built.figures["vocabulary"] == len(built.tokenizer)
