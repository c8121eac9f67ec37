"""Rows as people's data sets have them: columns, conversations, borders."""

import logging
from typing import Any

import pytest

from tests.suite.envs.prompts.kinds import made
from tests.support.envs.contents import INST
from tokengym.base.chat import Chat
from tokengym.base.errors import DatasetError
from tokengym.rewards import read_labels, read_pairs
from tokengym.rewards.pairs.encode import (
    TextEncoding,
    encode_pairs,
    encode_responses,
    response_rows,
)


def said(content: Any, role: str = "assistant") -> dict[str, Any]:
    return {"role": role, "content": content}


USER, SYSTEM, GOOD, BAD = said("the film", "user"), said("be", "system"), said("good"), said("bad")
TALK = [USER, said("yes"), said("and", "user")]
PARTS = [{"type": "text", "text": "the "}, {"type": "text", "text": "film"}]
CALL = {**said(None), "tool_calls": [{"name": "f"}]}


@pytest.mark.parametrize(
    ("prompt", "start"),
    [
        ("the film", [USER]),
        (" the film\n", [USER]),
        ([USER], [USER]),
        ([said(PARTS, "user")], [USER]),
        (None, [USER]),
        ("the film", [SYSTEM, USER]),  # only the conversations have the system's message
        ([USER], [SYSTEM, USER]),
        ("the film", TALK),  # the prompt is the first of several requests
        (TALK, TALK),
        ([USER, CALL, said("3", "tool"), said("and", "user")], None),
    ],
)
def test_a_prompt_may_stand_before_whole_conversations(prompt, start):
    begun = start or []
    row = {"prompt": prompt, "chosen": [*begun, GOOD], "rejected": [*begun, BAD]}
    (pair,) = read_pairs([{name: value for name, value in row.items() if value is not None}])
    assert pair.messages == Chat(start or prompt)
    assert (pair.chosen, pair.rejected) == ("good", "bad")


@pytest.mark.parametrize(
    ("chosen", "kind", "message"),
    [
        ([said(None)], "empty", "response of 'chosen' is empty"),
        ([said("")], "empty", "response of 'chosen' is empty"),
        ([said([])], "not messages", "message 0 must be"),
        ([{"from": "gpt", "value": "good"}], "not messages", "message 0 must be"),
        ([GOOD, said("bye", "user")], "conversation", "of the role 'user', which would"),
        ([said("3", "tool"), GOOD], "conversation", "of the role 'tool'"),
        ([BAD], "equal", "are both 'bad'"),
    ],
)
def test_messages_that_are_no_reply_are_named_or_left_out(chosen, kind, message):
    row = {"prompt": [USER], "chosen": chosen, "rejected": [BAD]}
    kept = read_pairs([{**row, "chosen": [GOOD]}, row], on_error="skip")
    (left_out,) = kept.skipped
    assert (kept.rows, left_out.row, left_out.kind) == ((0,), 1, kind)
    assert message in left_out.reason


@pytest.mark.parametrize(
    "prompt", [[USER, GOOD], [said(" ", "user")], [said(None, "user")], [CALL]]
)
def test_a_prompt_that_asks_nothing_is_named(prompt):
    row = {"prompt": prompt, "chosen": [GOOD], "rejected": [BAD]}
    with pytest.raises(DatasetError, match=r"row 0.*(ends with|message 0)"):
        read_pairs([row])


# --- columns --------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["question", "Prompt"])
def test_a_prompt_column_of_another_name_is_named(column):
    rows = [{"id": 3, column: "the film", "chosen": " good", "rejected": " bad"}]
    for read in (read_pairs, lambda rows: encode_pairs(rows, made("llama"), TextEncoding())):
        with pytest.raises(DatasetError, match=f"'id', '{column}', 'chosen'.*by prompt_column="):
            read(rows)
    assert read_pairs(rows, prompt_column=column)[0].prompt == "the film"
    found = encode_pairs(rows, made("llama"), TextEncoding(prompt_column=column)).rows[0]
    assert made("llama").decode(found.prompt) == "<s> the film"


def test_texts_that_have_no_prompts_stand_for_themselves():
    rows: list[Any] = [{"id": 3, "chosen": "good", "rejected": "bad"}]
    assert read_pairs(rows)[0].prompt == ""
    dialogue = {"source": "web", "chosen": "Human: a\n\nAssistant: b"}
    assert read_pairs([{**dialogue, "rejected": "Human: a\n\nAssistant: c"}])[0].prompt
    for prompt in ({}, {"prompt": ""}, {"prompt": " "}):  # a BOS is no prompt
        with pytest.raises(DatasetError, match=r"row 0.*prompt has no"):
            encode_pairs([{**rows[0], **prompt}], made("llama"), TextEncoding())


def test_responses_that_begin_with_their_prompts_are_refused(caplog):
    row = {"prompt": "the film", "chosen": "the film is good", "rejected": "the film is bad"}
    message = r"begins with its prompt.*'prompt' out of "
    tokenizer = made("bytes")
    with pytest.raises(DatasetError, match=f"{message}'chosen' and 'rejected'"):
        read_pairs([row])
    with pytest.raises(DatasetError, match=f"{message}'text'"):
        read_labels([{"prompt": "the film", "text": "the film is good", "label": 1}])
    one = {"prompt": row["prompt"], "completion": row["chosen"]}
    with pytest.raises(DatasetError, match=f"{message}'completion'"):
        encode_responses([one] * 3, tokenizer, TextEncoding())
    apart = {**one, "completion": " is good"}
    with caplog.at_level(logging.WARNING):
        assert len(encode_responses([one, one, apart], tokenizer, TextEncoding()).rows) == 3
    assert "2 of 3 rows of 'completion'" in caplog.text


# --- borders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "bytes with a prefix", "llama", "metaspace"])
@pytest.mark.parametrize("template", [None, "chat", INST])
def test_ids_spell_the_text_that_was_given(kind, template):
    tokenizer = made(kind)
    tokenizer.chat_template = "{{ messages[0]['content'] }}\nso: " if template == "chat" else INST
    encoding = TextEncoding(chat_template=template is not None)
    for prompt, text in (
        ("the film ", "is"),
        ("the film", " is"),
        ("the fi", "lm"),
        ("in", "</s>s"),
    ):
        row = {"prompt": prompt, "chosen": text, "rejected": " bad"}
        found = encode_pairs([row], tokenizer, encoding).rows[0]
        asked, whole = (
            tokenizer.decode(ids, skip_special_tokens=True)
            for ids in (found.prompt, [*found.prompt, *found.responses[0]])
        )
        said = text if template is None else text.strip()
        assert whole == asked + said or tokenizer.unk_token_id in found.responses[0]
        assert found.responses[0].count(tokenizer.eos_token_id) == 1
    tokenizer.chat_template = None


@pytest.mark.parametrize("value", ["2020-01-01", 5, 0.0, {"by": "me"}, [1, 1]])
def test_a_column_written_of_the_users_own_is_no_mask_of_replies(value):
    rows = [{"prompt": "a", "completion": " b", "written": value}]
    examples, skipped = response_rows(rows, TextEncoding())
    assert [example.responses for example in examples] == [(" b",)]
    assert not skipped
