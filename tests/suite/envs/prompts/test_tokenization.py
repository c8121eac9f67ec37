"""Encoding and decoding over the kinds of tokenizers that policies have."""

import copy
from typing import Any

import numpy as np
import pytest
from tokenizers import pre_tokenizers, processors
from transformers import GPT2Config

from tests.suite.envs.prompts.kinds import DECODED, GROWING, byte_level, llama_like, made
from tokengym.envs import PromptError, TokenGenerationEnv, TokenGenerationVectorEnv, TokenizerError
from tokengym.envs.prompts import tokenization
from tokengym.envs.prompts.contents import special_tokens
from tokengym.envs.prompts.tokenization import (
    ResponseDecoder,
    check_tokenizer,
    decode,
    encode,
    growth,
    load_tokenizer,
    response_texts,
    token_texts,
)
from tokengym.envs.prompts.vocabulary import Vocabulary


@pytest.fixture(params=[*DECODED, "stub"])
def kind(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    return tokenizer if request.param == "stub" else made(request.param)


def test_batched_decoding_equals_the_tokenizers_own(kind):
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 12, 40)
    flat = rng.integers(0, len(kind), lengths.sum())
    ends = np.cumsum(lengths)
    sequences = [flat[b - n : b].tolist() for b, n in zip(ends, lengths, strict=True)]
    expected = [kind.decode(ids, skip_special_tokens=True) for ids in sequences]
    assert ResponseDecoder(kind).decode(flat, lengths) == expected
    assert decode(kind, sequences) == expected


def test_pieces_join_to_the_response(kind):
    rng = np.random.default_rng(1)
    special = set(kind.all_special_ids)
    for text in ["a b c", "the cat sat", "naïve … 🙂"]:
        ids = [i for i in kind(text, add_special_tokens=False)["input_ids"] if i not in special]
        pieces = token_texts(kind, ids)
        assert len(pieces) == len(ids)
        assert "".join(pieces) == kind.decode(ids)
    ids = [*rng.integers(0, len(kind), 5).tolist(), kind.eos_token_id]
    assert len(token_texts(kind, ids)) == 6
    assert token_texts(kind, ids)[-1] == kind.eos_token


def test_a_character_of_several_tokens_shows_at_its_last():
    tokenizer = byte_level()
    ids: Any = tokenizer.convert_tokens_to_ids(list("ðŁĻĤ"))  # the four bytes of one emoji
    assert token_texts(tokenizer, ids) == ["", "", "", "🙂"]


def random_ids(kind: Any, rng: np.random.Generator) -> list[int]:
    """Return ids of a text, with control tokens in it or without, or of tokens drawn at random."""
    texts = [
        "the café 中文字 naïve … 🙂🙂 cats don't ' the ' end. ",
        "numbers 1 2 3 \n\n the film; ",
    ]
    text = "".join(texts[i] for i in rng.integers(0, 2, 8))
    natural = kind(text, add_special_tokens=False)["input_ids"][:250]
    drawn = rng.integers(0, len(kind), len(natural))
    few = rng.choice(drawn[:4], len(natural))
    with_control = np.where(rng.random(len(natural)) < 0.1, kind.eos_token_id, natural)
    silent = np.concatenate([drawn[:60], np.full(90, kind.eos_token_id), drawn[60:120]])
    choice = [natural, drawn, few, with_control, silent][rng.integers(5)]
    return [int(token_id) for token_id in choice]


@pytest.mark.parametrize("name", GROWING)
def test_the_text_as_it_grows_is_that_of_every_beginning(name):
    kind, rng = made(name), np.random.default_rng(2)
    for _ in range(40):
        ids = random_ids(kind, rng)
        given = int(rng.integers(0, len(ids)))
        beginnings = [ids[:end] for end in range(given, len(ids) + 1)]
        start, *texts = (text.rstrip("\ufffd") for text in decode(kind, beginnings))
        grown = growth(kind, ids, given=given)
        assert (grown.start, grown.whole) == (start, decode(kind, [ids])[0])
        longest = start
        for text, (place, part) in zip(texts, grown.parts, strict=True):
            shown = len(longest)
            assert grown.whole[shown:place] + part[max(shown - place, 0) :] == text[shown:]
            longest = max(longest, text, key=len)
        special = set(special_tokens(kind).values())
        ordinary = [token_id for token_id in ids if token_id not in special]
        added, longest = [], ""
        for end in range(len(ordinary)):
            text = decode(kind, [ordinary[: end + 1]])[0].rstrip("\ufffd")
            added.append(text[len(longest) :])
            longest = max(longest, text, key=len)
        pieces = zip(ids, token_texts(kind, ids), strict=True)
        assert [piece for token_id, piece in pieces if token_id not in special] == added


@pytest.mark.parametrize("name", ["bytes", "llama", "word pieces", "words", "tidied"])
def test_tokens_decoded_grow_with_the_text_and_not_with_its_square(name, monkeypatch):
    kind, decoded = made(name), list[int]()

    def counting(tokenizer, sequences):
        decoded.append(sum(map(len, sequences)))
        return decode(tokenizer, sequences)

    monkeypatch.setattr(tokenization, "decode", counting)
    text = kind("the café is good and bad. numbers 1 2 3 ", add_special_tokens=False)
    ids = (text["input_ids"] * 200)[:800]
    counts = []
    for size in (400, 800):
        decoded.clear()
        assert len(token_texts(kind, ids[:size])) == size
        counts.append(sum(decoded))
    assert counts[1] < 2.5 * counts[0]  # four times as many by the square
    decoded.clear()
    growth(kind, ids, given=700)
    assert sum(decoded) < 1500 + 40 * 100  # the prompt's tokens twice, and 100 further ones


def test_pieces_follow_the_prompt_as_the_tokenizer_joins_them(kind):
    special = set(kind.all_special_ids)
    found = kind("a b c naïve … 🙂 the cat", add_special_tokens=False)["input_ids"]
    ids = [i for i in found if i not in special]
    for cut in range(1, len(ids)):
        if not (before := kind.decode(ids[:cut])).endswith("\ufffd"):  # a part of a character
            whole = before + "".join(response_texts(kind, ids[:cut], ids[cut:]))
            assert whole == kind.decode(ids)


def test_the_response_to_a_special_token_begins_without_a_space(tokenizer):
    ids = tokenizer("a b", add_special_tokens=False)["input_ids"]
    assert response_texts(tokenizer, ids[:1], ids[1:]) == [" b"]
    assert response_texts(tokenizer, [tokenizer.eos_token_id], ids) == ["a", " b"]


def test_no_second_bos_and_no_eos_after_the_prompt():
    tokenizer = llama_like()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)],
    )
    plain, templated = encode(tokenizer, ["the film", "<s>the film"])
    assert plain[0] == templated[0] == tokenizer.bos_token_id
    assert plain.count(tokenizer.bos_token_id) == templated.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id not in plain
    # An EOS that the text itself ends with is the caller's.
    assert encode(tokenizer, ["the film</s>"])[0][-1] == tokenizer.eos_token_id


def test_any_tokenizer_plays(kind):
    env = TokenGenerationEnv(tokenizer=kind, prompts=["a", "the cat"], max_new_tokens=3)
    env.reset(seed=0)
    for action in (5, 6, kind.eos_token_id):
        info = env.step(action)[4]
    assert info["response"] == kind.decode([5, 6], skip_special_tokens=True)


def test_any_tokenizer_takes_a_chat_template(kind):
    chatty = copy.deepcopy(kind)
    chatty.chat_template = (
        "{% for m in messages %}{{ eos_token }}{{ m.role }}: {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ eos_token }}the{% endif %}"
    )
    messages = [{"role": "system", "content": "cat"}, {"role": "user", "content": "the mat"}]
    env = TokenGenerationEnv(tokenizer=chatty, prompts=["a", messages], chat_template=True)
    for prompt_id, chat in enumerate(([{"role": "user", "content": "a"}], messages)):
        env.reset(options={"prompt_id": prompt_id})
        own = chatty.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        assert own.count(chatty.eos_token_id) == len(chat) + 1
        assert list(env.step(chatty.eos_token_id)[4]["prompt_ids"]) == own


def test_stop_strings_across_tokens_and_bytes():
    tokenizer = byte_level()
    text = "a" * 30 + "the 🙂 end"
    ids = tokenizer(text)["input_ids"]
    env = TokenGenerationEnv(
        tokenizer=tokenizer, prompts=["a"], max_new_tokens=64, stop_strings=["the 🙂"]
    )
    env.reset()
    for action in ids:
        *_, terminated, _, info = env.step(action)
        if terminated:
            break
    assert info["finish_reason"] == "stop"
    assert info["response"] == "a" * 30 + "the 🙂"
    assert len(info["response_ids"]) < len(ids)


def test_the_arguments_that_mend_them(kind):
    lacking = copy.deepcopy(kind)
    lacking.eos_token = lacking.pad_token = None
    word = lacking.convert_ids_to_tokens(9 if len(lacking) > 9 else 7)
    for build in (TokenGenerationEnv, TokenGenerationVectorEnv):
        env = build(tokenizer=lacking, eos_token=word, pad_token="<pad>", prompts=["a"])
        assert env.vocabulary.end_ids == (lacking.convert_tokens_to_ids(word),)
        assert len(env.tokenizer) == len(lacking)
    assert Vocabulary.of(lacking).end_ids == ()  # the caller's own is left as it was
    env = TokenGenerationEnv(tokenizer=lacking, eos_token=word, pad_token=word, prompts=["a"])
    env.reset()
    env.step(5)
    (end,) = env.vocabulary.end_ids
    info = env.step(end)[4]
    assert (info["finish_reason"], env.vocabulary.pad_id) == ("eos", end)
    assert info["response"] == kind.decode([5, end], skip_special_tokens=True)


def test_another_eos_than_the_tokenizers_own(tokenizer):
    env = TokenGenerationEnv(tokenizer=tokenizer, eos_token="e", prompts=["a"], max_new_tokens=4)
    env.reset()
    assert not env.step(tokenizer.eos_token_id)[2]
    assert env.step(tokenizer.convert_tokens_to_ids("e"))[4]["finish_reason"] == "eos"


def test_tokenizers_load_from_a_folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    env = TokenGenerationEnv(tokenizer=str(tmp_path), prompts=["a b"])
    assert env.reset()[1]["prompt"] == "a b"


class Damaged:
    eos_token_id, pad_token_id = 9, 0

    def __len__(self) -> int:
        return 5

    def __call__(self) -> None: ...


def test_tokenizers_that_cannot_play(tmp_path):
    endless, configured = byte_level(), tmp_path / "model"
    endless.eos_token = None
    GPT2Config().save_pretrained(configured)  # of which transformers makes one without words
    refused: list[tuple[Any, str | None, str]] = [
        (endless, None, r"has no eos token \(None\); pass eos_token="),
        (byte_level(), "<none>", r"pad_token='<none>' is not among the \d+ tokens"),
        (str(tmp_path), None, r"cannot load.*tokenizer.*folder"),
        (str(configured), None, r"has 1 tokens and none of a text.*pass tokenizer="),
    ]
    for tokenizer, pad_token, message in refused:
        with pytest.raises(TokenizerError, match=message):
            load_tokenizer(tokenizer, pad_token=pad_token)
    with pytest.raises(TokenizerError, match=r"eos token id 9.*5"):
        check_tokenizer(Damaged())
    with pytest.raises(TypeError, match="tokenizer, got int"):
        load_tokenizer(3)  # type: ignore[arg-type]


def test_prompts_without_tokens():
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split("x", "removed")
    with pytest.raises(PromptError, match=r"prompt 1 \('xx'\) has no"):
        TokenGenerationEnv(tokenizer=tokenizer, prompts=["a", "xx"])
