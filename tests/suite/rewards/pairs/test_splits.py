"""Where prompt and answer part in the chat templates of today's models."""

import copy
from itertools import product
from typing import Any

import pytest

from tests.support.chats import make_tokenizer
from tests.support.trl_chats import FOR_PICTURES, TEMPLATES, tokenizer_of
from tokengym.base.errors import DatasetError
from tokengym.rewards.pairs.encode import TextEncoding, encode_pairs, encode_responses

ASK: list[dict[str, Any]] = [{"role": "user", "content": "who"}]
THOUGHT = "<think>\nhm\n</think>\n\n"
TALK = [*ASK, {"role": "assistant", "content": f"{THOUGHT}me"}, {"role": "user", "content": "why"}]


def answer(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def common(one: list[int], other: list[int]) -> int:
    size = 0
    while size < min(len(one), len(other)) and one[size] == other[size]:
        size += 1
    return size


@pytest.mark.parametrize("name", sorted(n for n in TEMPLATES if not n.startswith(FOR_PICTURES)))
def test_pairs_are_split_as_trl_splits_them(name):
    """At the longest common prefix of the prompt alone and with either answer, of all tokens.

    Answers end by the template's end and without the blanks behind it, or by EOS where it has none.
    """
    tokenizer, end = tokenizer_of(name)
    end_id = tokenizer.convert_tokens_to_ids(end)
    said = [("good", "bad"), (f"{THOUGHT}good", f"{THOUGHT}bad"), (f"{THOUGHT}good", "bad")]
    for options, talk, (good, bad) in product(({}, {"enable_thinking": False}), (ASK, TALK), said):

        def encoded(messages: Any, options: Any = options, **more: Any) -> list[int]:
            text = tokenizer.apply_chat_template(messages, tokenize=False, **more, **options)
            ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
            return ids

        start = encoded(talk, add_generation_prompt=True)
        wholes = [encoded([*talk, *answer(text)]) for text in (good, bad)]
        size = min(common(start, whole) for whole in wholes)
        row = {"prompt": talk, "chosen": answer(good), "rejected": answer(bad)}
        row["chat_template_kwargs"] = options
        (pair,) = encode_pairs([row], tokenizer, TextEncoding()).rows
        assert list(pair.prompt) == start[:size]
        for found, whole in zip(pair.responses, wholes, strict=True):
            ended = whole[size:]
            while ended[-1] != end_id and not tokenizer.decode(ended[-1:]).strip():
                ended = ended[:-1]
            assert list(found) == (ended if ended[-1] == end_id else [*ended, end_id])


STARTS = (  # a thought is begun for the policy, and left out where there is an answer
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
)


def test_a_split_is_told_once_and_never_lies_inside_the_question(caplog):
    made = copy.deepcopy(make_tokenizer("bytes", "chatml"))
    made.chat_template = STARTS
    rows = [{"prompt": ASK, "chosen": answer("good"), "rejected": answer(bad)} for bad in "ab"]
    with caplog.at_level("WARNING"):
        pairs = encode_pairs(rows, made, TextEncoding()).rows
        encode_pairs(rows, made, TextEncoding())
    (line,) = [text for text in caplog.messages if "split where the two part" in text]
    assert "learns without '<think>'" in line
    assert made.decode(pairs[0].prompt).endswith("<|im_start|>assistant\n")
    assert made.decode(pairs[0].responses[0]) == "good<|im_end|>"
    made.chat_template = "{{ messages | length }} " + STARTS
    with pytest.raises(DatasetError, match="writes the prompt another way"):
        encode_responses([{"prompt": ASK, "completion": answer("good")}], made, TextEncoding())
