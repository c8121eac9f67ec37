import numpy as np
import pytest

from tokengym.lab.makers.building.tokenizers import word_tokenizer
from tokengym.lab.makers.bundles import question_answer, rated
from tokengym.lab.makers.bundles.question_answer import _Triples, build_question_answer
from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.makers.corpora.questions import all_questions


@pytest.fixture(scope="module")
def built():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONVERSATIONS", "HELD_OUT", "JUDGED", "JUDGE_TEXTS"):
            patch.setattr(question_answer, name, 50)
        patch.setattr(question_answer, "JUDGE_TEXT_STEPS", 1)
        patch.setattr(rated, "TEMPERATURES", (1.0,))
        return build_question_answer(seed=2, language_steps=1, encoder_steps=1, reward_steps=1)


def test_it_holds_what_the_task_needs(built):
    assert set(built.models) == {"policy", "encoder", "reward_model"}
    assert set(built.figures["encoder"]) == {"OPENENDED", "CONSTRAINED"}
    test = {row.prompt for row in built.prompts if row.split == "test"}
    train = {row.prompt for row in built.prompts if row.split == "train"}
    assert len(test) == question_answer.TEST_QUESTIONS
    assert not test & train
    assert len(test | train) == len(all_questions())


def test_every_word_of_prompts_and_references_is_known(built):
    for row in built.prompts:
        ids = built.tokenizer([row.prompt, row.reference]).input_ids
        assert built.tokenizer.unk_token_id not in ids[0] + ids[1]


def test_triples_pair_a_question_with_its_thing_and_with_another_answer():
    questions = all_questions()
    words = [q.text for q in questions]
    dice = Dice(np.random.default_rng(0))
    references = [question_answer.reference_answer(q, dice) for q in questions for _ in range(8)]
    tokenizer = word_tokenizer(words + references)
    names = {question.entity.name for question in questions}
    draw = _Triples(questions, tokenizer, dice)
    for _ in range(5):
        queries, answers, wrong = (
            [set(text.split()) for text in tokenizer.batch_decode(batch)] for batch in draw()
        )
        things = [query & names for query in queries]
        assert len({min(thing) for thing in things}) == question_answer.ENCODER_BATCH
        full = [bool(thing & answer) for thing, answer in zip(things, answers, strict=True)]
        assert np.mean(full) > 0.8  # a cut answer may end before it names the thing
        assert all(answer != other for answer, other in zip(answers, wrong, strict=True))
