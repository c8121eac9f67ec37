"""Conversations written out as one text, as HH-RLHF has them."""

from typing import Any

import datasets
import pytest

from tokengym.base.chat import read_transcript
from tokengym.envs import DatasetError, Prompt, load_prompts

TURNS = "\n\nHuman: a b\n\nAssistant: c\nd\n\n- e\n\nHuman: why?\n\nAssistant: so"


def test_the_last_answer_is_apart_and_blank_lines_stay():
    messages, answer = read_transcript(TURNS) or ([], None)
    assert [(m["role"], m["content"]) for m in messages] == [
        ("user", "a b"),
        ("assistant", "c\nd\n\n- e"),
        ("user", "why?"),
    ]
    assert answer == "so"


ASKED = [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[(t, None) for t in ("", "hello", "hello\n\nHuman: a", "The Human: a", "Humans: a")],
        ("Human: a", (ASKED, None)),
        ("Human: a\n\nAssistant:", (ASKED, None)),
        (
            "Human: a\n\nHuman: b\n\nAssistant:\n\nAssistant: c\n\nAssistant: d",
            ([{"role": "user", "content": "a\n\nb"}], "c\n\nd"),
        ),
    ],
)
def test_other_texts_open_ends_and_speakers_in_a_row(text, expected):
    assert read_transcript(text) == expected


def rows(**columns: list[str]) -> Any:
    return datasets.Dataset.from_dict(columns)


def test_data_sets_of_transcripts_become_conversations():
    table = rows(chosen=[TURNS, "plain"], best=["yes", "no"])
    prompts = load_prompts(table, prompt_column="chosen", split="all", transcripts=True)
    assert prompts[0].text == f"{TURNS.strip().removesuffix('so')}"
    assert prompts[0].reference == "so"
    assert [message["role"] for message in prompts[0].messages] == ["user", "assistant", "user"]
    assert prompts[1] == Prompt("plain")
    given = load_prompts(
        table, prompt_column="chosen", reference_column="best", split="all", transcripts=True
    )
    assert [prompt.reference for prompt in given] == ["yes", "no"]
    untouched = load_prompts(table, prompt_column="chosen", split="all")
    assert untouched[0] == Prompt(TURNS)


def test_one_question_with_two_answers_is_in_one_split():
    texts = [f"Human: {x}\n\nAssistant: {y}" for x in "abcdefghij" for y in "uv"]
    table = rows(prompt=texts)
    train, test = (
        load_prompts(table, split=split, transcripts=True).texts for split in ("train", "test")
    )
    assert len(train) + len(test) == 20
    assert not set(train) & set(test)


def test_a_transcript_without_a_question_is_refused():
    with pytest.raises(DatasetError, match=r"row 0.*conversation must end"):
        load_prompts(rows(prompt=["Assistant: hello"]), split="all", transcripts=True)
