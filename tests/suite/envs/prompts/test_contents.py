# mypy: no-check-untyped-defs
"""What contents say never becomes control tokens, and ids spell what they were made of."""

import pickle

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from tests.suite.envs.prompts.kinds import KINDS, byte_level, made
from tests.support.envs.contents import CHATML, EVERY, INST, controls
from tests.support.envs.contents import tokenizer as tokenizer
from tokengym.envs import Reply, TokenGenerationEnv, TokenizerError
from tokengym.envs.prompts.contents import MarkedText, content, control_tokens, filled, joined
from tokengym.envs.prompts.conversation import encode_chats, write_chat
from tokengym.envs.prompts.tokenization import (
    encode,
    encode_contents,
    encode_next,
    tokenize,
)

# --- what contents say ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [EVERY, "</s>", "\uff1c/s\uff1e é", "[sep]", "good", "\U000f0000\ue000</s>"]
)
def test_contents_are_characters(tokenizer, text):
    (ids,) = encode_contents(tokenizer, [text])
    assert controls(tokenizer, ids) == []
    if tokenizer is made("bytes"):  # which spell everything
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    beside = tokenize(tokenizer, [joined("</s> day ", content(text)), "</s>", content("good")])
    eos = tokenizer.eos_token
    assert [controls(tokenizer, one.ids) for one in beside] == [[eos], [eos], []]
    # What says nothing of control tokens has the ids that it always had.
    assert beside[2].ids == tokenizer("good", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("a </s> b", [(2, 6)]),
        ("\ufb01lm \u00e9 </s> b", [(6, 10)]),  # a letter for two, before
        ("\ufb01lm <\u0301/\u0301s> b", [(4, 10)]),  # accents of their own, within
        ("e\u0301 \uff1c/\uff33\uff1e<s>", [(3, 7), (7, 10)]),  # wide and large; then the next
        ("\ufb01lm \u00e9 / s", []),
    ],
)
def test_folded_control_tokens_are_found_where_they_stand(text, spans):
    assert control_tokens(made("bytes")).spans_in(text) == spans


def test_a_prompt_keeps_the_control_tokens_that_it_was_written_with(tokenizer):
    text = "the film </s> good"
    assert (
        tokenize(tokenizer, [text])[0].ids
        == (tokenizer(text, add_special_tokens=False)["input_ids"])
    )
    assert controls(tokenizer, encode(tokenizer, [text])[0])[-1] == "</s>"


def test_a_response_that_begins_or_ends_like_a_control_token_changes_no_frame():
    llama = made("llama")
    for text in ("<s> good", "good </s>"):
        (ids,) = encode(llama, [content(text)])
        assert controls(llama, ids) == ["<s>"]  # its own, once
    assert controls(llama, encode(llama, ["<s> good"])[0]) == ["<s>"]


@pytest.mark.parametrize("kind", KINDS)
def test_spans_are_of_the_text_as_it_was(kind):
    tokenizer = made(kind)
    text = joined("the </s> film ", content("is </s> good"))
    (tokens,) = tokenize(tokenizer, [text], spans=True)
    place = tokens.ids.index(tokenizer.eos_token_id)
    assert str(text)[slice(*tokens.spans[place])].strip() == "</s>"
    assert max(stop for _, stop in tokens.spans) == len(text)
    (pair,) = tokenize(tokenizer, ["the film"], [content("</s> day")], spans=True)
    assert controls(tokenizer, pair.ids) == []
    assert {part for part in pair.parts if part is not None} == {0, 1}
    (short,) = tokenize(tokenizer, [content("</s> good day in the sun")], max_length=3)
    assert len(short.ids) == 3


def test_contents_that_cannot_be_told_are_refused():
    with pytest.raises(TokenizerError, match="private use"):
        encode_contents(made("bytes"), ["</s>\ue000\U000f0000\U00100000"])
    with pytest.raises(TokenizerError, match="ByT5Tokenizer is no fast"):
        encode_contents(ByT5Tokenizer(), ["a film", "a </s> b"])


def test_merges_that_write_a_control_token_write_it_no_more():
    vocabulary = {text: n for n, text in enumerate(["</s>", "</", "s>", "<", "/", "s", ">"])}
    merges = [("<", "/"), ("s", ">"), ("</", "s>")]
    backend = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert tokenizer("</s>", split_special_tokens=True)["input_ids"] == [0]  # not enough
    assert encode_contents(tokenizer, ["</s>"]) == [[1, 2]]


def test_special_tokens_outside_the_vocabulary_control_nothing():
    tokenizer = byte_level()
    tokenizer.cls_token = "[CLS]"  # a name alone
    assert "[CLS]" not in control_tokens(tokenizer).ids
    assert encode_contents(tokenizer, ["[CLS] </s>"])[0].count(tokenizer.eos_token_id) == 0


def test_marks_follow_what_is_done_to_a_text():
    text = joined("ab", content("cd"), "e", content("f"))
    assert (text, text.contents) == ("abcdef", ((2, 4), (5, 6)))
    assert text[3:].contents == ((0, 1), (2, 3))
    assert pickle.loads(pickle.dumps(text)).contents == text.contents
    made = filled("{a!r}: {b:>4}", {"b": "cd"}, a="x")
    assert (made, made.contents) == ("'x':   cd", ((5, 9),))


# --- messages -------------------------------------------------------------------------------------

SPLITTING = (  # of reasoning, as Qwen 3's and R1's cut it out of earlier turns
    "{% for m in messages %}<|im_start|>{{ m['content'].split('</think>')[-1][:40] }}<|im_end|>"
    "{% endfor %}<|im_start|>"
)
TEMPLATES = {"chatml": CHATML, "inst": INST, "splitting": SPLITTING}


@pytest.fixture(params=TEMPLATES)
def chatty(request, tokenizer):
    before = tokenizer.chat_template
    tokenizer.chat_template = TEMPLATES[request.param]
    yield tokenizer
    tokenizer.chat_template = before


def test_messages_write_no_control_tokens_of_the_template(chatty):
    spoken = [("user", "the film"), ("assistant", "good"), ("user", "a day")]
    plain = [{"role": role, "content": said} for role, said in spoken]
    (ids,) = encode_chats(chatty, [plain])
    own = chatty.apply_chat_template(plain, add_generation_prompt=True, return_dict=False)
    assert ids == own
    hostile = [{**plain[0], "content": f"the film {EVERY}"}, *plain[1:]]
    (forged,) = encode_chats(chatty, [hostile])
    assert controls(chatty, forged) == controls(chatty, ids)
    shown = write_chat(chatty, [{"role": "user", "content": EVERY}], to_answer=True)
    assert EVERY[:30].strip() in shown  # nothing was taken out
    assert any("</s>" in shown[a:b] for a, b in shown.contents)


@pytest.mark.parametrize("template", [None, CHATML, INST])
def test_a_partners_reply_writes_no_control_tokens(template):
    class Hostile:
        role = "user"

        def reply(self, conversation, metadata, rng):
            del conversation, metadata, rng
            return Reply(EVERY)

    tokenizer = byte_level()
    tokenizer.chat_template = template
    env = TokenGenerationEnv(
        tokenizer=tokenizer,
        prompts=["the film"] if template is None else [[{"role": "user", "content": "the"}]],
        partner=Hostile(),
        max_turns=2,
        max_new_tokens=120,
        max_reply_tokens=100,
    )
    env.reset(seed=0)
    before = env.get_state()["prompt_ids"]
    observation, *_ = env.step(tokenizer.eos_token_id)
    seen = observation["input_ids"][observation["attention_mask"] > 0]
    appended = seen[len(before) + 1 :].tolist()
    text = tokenizer.decode(appended, skip_special_tokens=True)
    assert EVERY.strip() in text
    frame = ["<|im_end|>", "<|im_start|>"] * 2  # of the policy's turn, and of the reply's
    assert controls(tokenizer, appended) == (frame if template == CHATML else [])


# --- borders --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "text"),
    [
        ("the film ", "is"),
        ("the film", " is"),
        ("the fi", "lm"),
        ("numbers 1", " 2 3"),
        ("cafe", "\u0301"),
        ("the film", "\nis"),
        ("a", "re </s>"),
    ],
)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "words"])
def test_what_follows_is_spelled_as_it_was_written(kind, before, text):
    tokenizer = made(kind)
    start = tokenize(tokenizer, [before])[0].ids
    (ids,) = encode_next(tokenizer, [text], [start])
    whole = tokenizer.decode([*start, *ids], skip_special_tokens=True)
    alone = tokenizer.decode(start, skip_special_tokens=True) + text
    lossy = tokenizer.unk_token_id in (*start, *ids) if tokenizer.unk_token else False
    assert whole == alone or lossy or kind == "word pieces"


def test_word_pieces_continue_a_word():
    tokenizer = made("word pieces")
    start = tokenize(tokenizer, ["the fi"])[0].ids
    (ids,) = encode_next(tokenizer, ["lm"], [start])
    assert tokenizer.decode([*start, *ids]) == "the film"


def test_batches_are_encoded_as_their_texts_are():
    tokenizer = made("llama")
    rows = np.random.default_rng(0).choice(["the film", "</s> day", "a [SEP] b"], 40).tolist()
    assert encode_contents(tokenizer, rows) == [encode_contents(tokenizer, [r])[0] for r in rows]
    assert isinstance(content("a"), MarkedText)
