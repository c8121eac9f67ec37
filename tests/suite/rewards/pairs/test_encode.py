"""Pairs and responses as ids; rows that cannot be learned from are named, or left out."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import tokengym  # noqa: F401  (registers the environments)
from tests.support.agents.common import EOS
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents.offline.policies import encoding_for
from tokengym.base.errors import DatasetError, TokenizerError
from tokengym.envs import Episode
from tokengym.rewards.pairs.encode import EncodedTexts, TextEncoding, encode_pairs, encode_responses

TOKENIZER = make_tokenizer()  # a 3, b 4, c 5, d 6, e 7
SKIP = TextEncoding(on_error="skip")
IDS = {"prompt_ids": [4, 5], "chosen_ids": [3], "rejected_ids": [6, 7]}


def pairs_of(source: Any, encoding: TextEncoding | None = None, **limits: Any) -> EncodedTexts:
    return encode_pairs(source, TOKENIZER, encoding or TextEncoding(), **limits)


def responses_of(source: Any, encoding: TextEncoding | None = None) -> EncodedTexts:
    return encode_responses(source, TOKENIZER, encoding or TextEncoding())


def ids_of(encoded: EncodedTexts) -> list[tuple[Any, ...]]:
    return [(row.prompt, *row.responses) for row in encoded.rows]


# --- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [list, Dataset.from_list])
def test_texts_become_ids_with_eos(form):
    rows: list[dict[str, Any]] = [
        {"prompt": "b c", "chosen": "a", "rejected": "d e"},
        {"prompt": "d", "chosen": "a <eos>", "rejected": "b"},
    ]
    encoded = pairs_of(form(rows))
    assert ids_of(encoded) == [((4, 5), (3, EOS), (6, 7, EOS)), ((6,), (3, EOS), (4, EOS))]
    dataset = encoded.dataset()
    assert dataset.column_names == ["prompt_ids", "chosen_ids", "rejected_ids", "length"]
    assert dataset["length"] == [5, 3]


def test_ids_are_taken_as_they_are():
    row = {**IDS, "prompt": "not", "chosen": "looked", "rejected": "at"}
    assert ids_of(pairs_of([row])) == [((4, 5), (3,), (6, 7))]


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Letters, but "ab" is one token: it merges across the border of prompt and response."""
    vocabulary = {token: n for n, token in enumerate(("<eos>", "ab", "a", "b", "c"))}
    backend = Tokenizer(models.BPE(vocabulary, [("a", "b")]))
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


def test_the_prompt_keeps_its_tokens_where_they_would_merge_with_the_response():
    row = {"prompt": "ca", "chosen": "bc", "rejected": "c"}
    encoded = encode_pairs([row], merging_tokenizer(), TextEncoding())
    assert ids_of(encoded) == [((4, 2), (3, 4, 0), (4, 0))]  # what a policy sees when it plays


TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] + ' ' + m['content'] + ' <eos> ' }}{% endfor %}"
    "{% if add_generation_prompt %}a {% endif %}"
)


def test_messages_need_a_chat_template_and_stay_messages():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE  # "user" begins with "u", unknown: 2; "assistant" with "a"
    user, good, bad = (
        [{"role": role, "content": said}]
        for role, said in (("user", "b c"), ("assistant", "d"), ("assistant", "e e"))
    )
    row = {"prompt": user, "chosen": good, "rejected": bad}
    expected = ((2, 4, 5, EOS, 3), (6, EOS), (7, 7, EOS))
    assert ids_of(encode_pairs([row], tokenizer, TextEncoding())) == [expected]
    learned = {"prompt": user, "completion": good}
    assert ids_of(encode_responses([learned], tokenizer, TextEncoding())) == [expected[:2]]
    apart = {"chosen": user + good, "rejected": [{"role": "user", "content": "d"}, *bad]}
    with pytest.raises(DatasetError, match=r"row 0.*conversations share"):
        encode_pairs([apart], tokenizer, TextEncoding())
    with pytest.raises(DatasetError, match=r"row 1.*'chosen'.*messages"):
        encode_pairs([row, {**GOOD, "chosen": 3}], tokenizer, TextEncoding())
    with pytest.raises(DatasetError, match="no chat template"):
        pairs_of([row])


def test_prompts_go_through_the_template_as_an_environments_do():
    envs: Any = gym.make_vec("tokengym/Dialogue-v0", num_envs=1)
    question, tokenizer = envs.unwrapped.prompts[0].text, envs.unwrapped.tokenizer
    asked = f"\n\nHuman: {question}\n\nAssistant:"
    rows = [
        {"prompt": question, "chosen": "gladly .", "rejected": "no ."},
        {"chosen": f"{asked} gladly .", "rejected": f"{asked} no ."},
    ]
    expected = np.array(envs.reset(options={"prompt": question})[0]["input_ids"][0])
    expected = expected[expected != tokenizer.pad_token_id]
    answers = [
        (*tokenizer(text)["input_ids"], tokenizer.eos_token_id) for text in ("gladly .", "no .")
    ]
    encoding = encoding_for(envs, None)
    for row in rows:
        (found,) = encode_pairs([row], tokenizer, encoding).rows
        assert (found.prompt, [*found.responses]) == (tuple(expected), answers)
    (plain,) = encode_pairs(rows[:1], tokenizer, TextEncoding()).rows
    assert plain.prompt != found.prompt


def test_prompts_stand_in_the_environments_frame(make_env):
    env = make_env(prompts=["b"], prompt_format="e {prompt} d", chat_template=False)
    env.reset()
    encoding = encoding_for(env, TextEncoding(on_error="skip"))
    assert (encoding.prompt_format, encoding.on_error) == ("e {prompt} d", "skip")
    row = {"prompt": "b", "chosen": "a", "rejected": "c"}
    (found,) = encode_pairs([row], TOKENIZER, encoding).rows
    assert list(found.prompt) == env.get_state()["prompt_ids"]
    (plain,) = pairs_of([row]).rows
    assert len(plain.prompt) == 1


def test_episodes_and_rows_are_responses_to_learn():
    episode = Episode(prompt="b", response="a", prompt_ids=[4], response_ids=[3, EOS])
    assert ids_of(responses_of([episode])) == [((4,), (3, EOS))]
    for name in ("completion", "response", "chosen"):
        assert ids_of(responses_of([{"prompt": "b", name: "a"}])) == [((4,), (3, EOS))]
        assert ids_of(responses_of([{"prompt_ids": [4], f"{name}_ids": [3]}])) == [((4,), (3,))]
    dataset = responses_of([episode]).dataset()
    assert dataset.column_names == ["prompt_ids", "response_ids", "length"]


def test_a_response_with_a_partners_replies_is_named_or_left_out():
    given: Any = {"response": "a c", "prompt_ids": [4], "response_ids": [3, 5, EOS]}
    talk = Episode(prompt="b", written=np.array([1, 0, 1], np.int8), **given)
    alone = replace(talk, written=np.ones(3, np.int8))
    for source in ([alone, talk], [one.to_record() for one in (alone, talk)]):
        kept = responses_of(source, SKIP)
        assert ids_of(kept) == [((4,), (3, 5, EOS))]
        assert [(row.row, row.kind) for row in kept.skipped] == [(1, "conversation")]
    texts = [{"prompt": "b", "response": "a", "written": [1, 0]}, {"prompt": "c", "response": "d"}]
    kept = responses_of(texts, SKIP)
    assert ids_of(kept) == [((5,), (6, EOS))]
    assert [kept.skipped[0].row, kept.rows[0].row] == [0, 1]


# --- what is refused ------------------------------------------------------------------------------

GOOD = {"prompt": "b", "chosen": "a", "rejected": "c"}
BAD_TEXTS = [
    ({"prompt": "b", "chosen": "", "rejected": "c"}, "empty", "'chosen' is empty, got ''"),
    ({"prompt": "", "chosen": "a", "rejected": "c"}, "no prompt", "the prompt has no tokens"),
]
BAD_IDS = [
    ({**IDS, "chosen_ids": []}, "empty", "a response has no tokens"),
    ({**IDS, "rejected_ids": [3]}, "equal", "the same 1 tokens"),
    ({**IDS, "chosen_ids": [8]}, "unknown id", r"token id 8 .*from 0 to 7"),
    ({**IDS, "chosen_ids": [-1]}, "unknown id", "token id -1"),
    ({**IDS, "chosen_ids": "a"}, "not ids", r"'chosen_ids'.*got 'a'"),
    ({**IDS, "prompt_ids": None}, "empty", "no 'prompt_ids'"),
]


@pytest.mark.parametrize(
    ("good", "bad", "kind", "message"),
    [(GOOD, *case) for case in BAD_TEXTS] + [(IDS, *case) for case in BAD_IDS],
)
def test_a_bad_row_is_named_or_left_out(good, bad, kind, message):
    with pytest.raises(DatasetError, match=f"row 1 .*{message}"):
        pairs_of([good, bad, good])
    encoded = pairs_of([good, bad, good], SKIP)
    assert [row.row for row in encoded.rows] == [0, 2]
    assert [(row.row, row.kind) for row in encoded.skipped] == [(1, kind)]
    assert encoded.report() == f"3 rows, 2 kept, 1 skipped (1 {kind})"


def test_where_every_row_is_bad_nothing_is_left():
    for row in (BAD_TEXTS[0][0], BAD_IDS[0][0]):
        with pytest.raises(DatasetError, match=r"left.*: 2 rows, 0.*row 0"):
            pairs_of([row, row], SKIP)


def test_overlong_rows_stop_or_are_cut_or_dropped():
    rows = [IDS, {**IDS, "prompt_ids": [4, 5, 6]}]
    limits: Any = {"max_positions": 4}
    message = r"row 1 .*5 tokens \(3.*4; .*overlong='left' or 'drop'"
    with pytest.raises(DatasetError, match=message):
        pairs_of(rows, **limits)
    cut = pairs_of(rows, TextEncoding(overlong="left"), **limits)
    assert ids_of(cut)[1] == ((5, 6), (3,), (6, 7))  # both responses keep the one prompt
    dropped = pairs_of(rows, TextEncoding(overlong="drop"), **limits)
    assert [row.kind for row in dropped.skipped] == ["overlong"]
    assert len(ids_of(dropped)) == 1
    assert len(ids_of(pairs_of(rows, TextEncoding(max_length=5)))) == 2
    with pytest.raises(DatasetError, match=r"row 0.*4 tokens \(2.*2"):
        pairs_of(rows, TextEncoding(overlong="left", max_length=2))  # no prompt would be left
    both = TextEncoding(overlong="left", max_length=3, on_error="skip")
    long = {**IDS, "rejected_ids": [3] * 3}
    assert [row.row for row in pairs_of([IDS, long], both).skipped] == [1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "b", "completion": " "}, "0.*'completion'.*got ' '"),
        ({"prompt": None, "completion": "a"}, "0 .*'prompt'.*got None"),
        ({"said": "b"}, r"'prompt'.*'completion'.*got 'said'"),
    ],
)
def test_a_bad_response_is_named(row, message):
    with pytest.raises(DatasetError, match=message):
        responses_of([row])


def test_nothing_to_encode_is_named_in_a_template_too():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    encoding = TextEncoding(chat_template=True, on_error="skip")
    for row in ({"prompt": "b", "completion": " "}, {"prompt": "", "completion": "a"}):
        with pytest.raises(DatasetError, match=r"\(1 empty\); row 0"):
            encode_responses([row], tokenizer, encoding)
    with pytest.raises(TokenizerError, match="no chat template"):  # no row is to blame
        pairs_of([GOOD], TextEncoding(chat_template=True, on_error="skip"))


@pytest.mark.parametrize("given", [{"overlong": "cut"}, {"on_error": "stop"}, {"max_length": 1}])
def test_settings_out_of_range_are_named(given):
    ((name, value),) = given.items()
    with pytest.raises(ValueError, match=rf"{name}.*got {value!r}"):
        TextEncoding(**given)
