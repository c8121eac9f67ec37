"""Encoding and decoding over the kinds of tokenizers that policies have."""

import copy
import io
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, PreTrainedTokenizerFast

from tokengym.envs import PromptError, TokenGenerationEnv, TokenGenerationVectorEnv, TokenizerError
from tokengym.envs.prompts.tokenization import (
    ResponseDecoder,
    check_tokenizer,
    decode,
    encode,
    in_parts,
    load_tokenizer,
    response_texts,
    token_texts,
)
from tokengym.envs.prompts.vocabulary import Vocabulary

CORPUS = ["the cat sat on the mat, naïve cats!", "héllo wörld … the end 🙂"]


def byte_level() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<eos>", "<bos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    )


def sentence_piece_like() -> PreTrainedTokenizerFast:
    """Metaspace pieces with byte fallback, a BOS before and an EOS after every text."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=special)
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
    )


def plain_bpe() -> PreTrainedTokenizerFast:
    """BPE over characters, words split at spaces, ends of words marked."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=90, special_tokens=["<pad>", "<eos>", "<unk>"], end_of_word_suffix="</w>"
    )
    backend.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def unigram() -> PreTrainedTokenizerFast:
    """SentencePiece's own model: Unigram pieces with metaspace."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<pad>", "<eos>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=70, special_tokens=special, unk_token="<unk>")
    backend.train_from_iterator(CORPUS * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


BUILDERS = {
    "bpe": plain_bpe,
    "byte": byte_level,
    "sentencepiece": sentence_piece_like,
    "unigram": unigram,
}


@pytest.fixture(scope="module", params=[*BUILDERS, "word"])
def kind(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    return tokenizer if request.param == "word" else BUILDERS[request.param]()


def test_batched_decoding_equals_the_tokenizers_own(kind):
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 12, 40)
    flat = rng.integers(0, len(kind), lengths.sum())
    ends = np.cumsum(lengths)
    sequences = [flat[b - n : b].tolist() for b, n in zip(ends, lengths, strict=True)]
    expected = [kind.decode(ids, skip_special_tokens=True) for ids in sequences]
    assert ResponseDecoder(kind).decode(flat, lengths) == expected
    assert decode(kind, sequences) == expected


def test_only_plain_words_take_the_table(tokenizer):
    assert ResponseDecoder(tokenizer)._words is not None
    assert ResponseDecoder(byte_level())._words is None


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
    assert token_texts(kind, ids)[-1] == "<eos>"


def test_a_character_of_several_tokens_shows_at_its_last():
    tokenizer = byte_level()
    ids: Any = tokenizer.convert_tokens_to_ids(list("ðŁĻĤ"))  # the four bytes of one emoji
    assert token_texts(tokenizer, ids) == ["", "", "", "🙂"]


def test_pieces_follow_the_prompt_as_the_tokenizer_joins_them(kind):
    special = set(kind.all_special_ids)
    found = kind("a b c naïve … 🙂 the cat", add_special_tokens=False)["input_ids"]
    ids = [i for i in found if i not in special]
    for cut in range(1, len(ids)):
        whole = kind.decode(ids[:cut]) + "".join(response_texts(kind, ids[:cut], ids[cut:]))
        assert whole == kind.decode(ids)


def test_the_response_to_a_special_token_begins_without_a_space(tokenizer):
    ids = tokenizer("a b", add_special_tokens=False)["input_ids"]
    assert response_texts(tokenizer, ids[:1], ids[1:]) == [" b"]
    assert response_texts(tokenizer, [tokenizer.eos_token_id], ids) == ["a", " b"]


def test_no_second_bos_and_no_eos_after_the_prompt():
    tokenizer = sentence_piece_like()
    plain, templated = encode(tokenizer, ["the cat", "<bos>the cat"])
    assert plain[0] == templated[0] == tokenizer.bos_token_id
    assert plain.count(tokenizer.bos_token_id) == templated.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id not in plain
    # An EOS that the text itself ends with is the caller's.
    assert encode(tokenizer, ["the cat<eos>"])[0][-1] == tokenizer.eos_token_id


def test_any_tokenizer_plays(kind):
    env = TokenGenerationEnv(tokenizer=kind, prompts=["a", "the cat"], max_new_tokens=3)
    env.reset(seed=0)
    for action in (5, 6, kind.eos_token_id):
        info = env.step(action)[4]
    assert info["response"] == kind.decode([5, 6], skip_special_tokens=True)


def test_any_tokenizer_takes_a_chat_template(kind):
    chatty = copy.deepcopy(kind)
    chatty.chat_template = (
        "{% for m in messages %}<eos>{{ m.role }}: {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<eos>the{% endif %}"
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


def test_a_tokenizer_without_an_end_is_refused():
    tokenizer = byte_level()
    tokenizer.eos_token = None
    message = r"has no eos token \(None\); pass eos_token= with the token of its vocabulary"
    with pytest.raises(TokenizerError, match=message):
        TokenGenerationEnv(tokenizer=tokenizer, prompts=["a"])


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


def test_a_mending_token_must_be_in_the_vocabulary(kind):
    message = rf"pad_token='<none>' is not among the {len(kind)} tokens of the vocabulary; name one"
    with pytest.raises(TokenizerError, match=message):
        TokenGenerationEnv(tokenizer=kind, pad_token="<none>", prompts=["a"])
    with pytest.raises(TypeError, match="tokenizer, got int"):
        load_tokenizer(3, pad_token="x")  # type: ignore[arg-type]


def test_what_is_no_tokenizer(tmp_path):
    with pytest.raises(TypeError, match="tokenizer, got int"):
        check_tokenizer(3)
    with pytest.raises(TokenizerError, match=r"cannot load.*tokenizer.*folder"):
        load_tokenizer(str(tmp_path))


def test_tokenizers_load_from_a_folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    env = TokenGenerationEnv(tokenizer=str(tmp_path), prompts=["a b"])
    assert env.reset()[1]["prompt"] == "a b"


def test_a_folder_without_the_tokenizer_s_files(tmp_path):
    """Of the configuration of a model alone transformers makes a tokenizer without words."""
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match=r"has 1 tokens and none of a text.*pass tokenizer="):
        load_tokenizer(str(tmp_path))


def test_special_ids_outside_the_vocabulary():
    class Damaged:
        eos_token_id, pad_token_id = 9, 0

        def __len__(self) -> int:
            return 5

        def __call__(self) -> None: ...

    with pytest.raises(TokenizerError, match=r"eos token id 9.*5"):
        check_tokenizer(Damaged())


def test_prompts_without_tokens(make_env):
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split("x", "removed")
    with pytest.raises(PromptError, match=r"prompt 1 \('xx'\) has no"):
        TokenGenerationEnv(tokenizer=tokenizer, prompts=["a", "xx"])


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_parts_cover_the_prompts_with_progress_on_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr", shown := _Terminal())
    assert [list(part) for part in in_parts(range(5), size=2)] == [[0, 1], [2, 3], [4]]
    assert "encoding prompts" in shown.getvalue()
    monkeypatch.setattr("sys.stderr", shown := _Terminal())
    assert [list(part) for part in in_parts(range(2), size=2)] == [[0, 1]]
    assert list(in_parts([])) == []
    monkeypatch.setattr("sys.stderr", piped := io.StringIO())
    assert len(list(in_parts(range(5), size=2))) == 3
    assert shown.getvalue() == piped.getvalue() == ""


def test_encoding_in_parts_equals_encoding_alone(tokenizer):
    texts = [" ".join("abcd"[i % 4] for i in range(n % 7 + 1)) for n in range(12_000)]
    for n, ids in enumerate(encode(tokenizer, texts)[::997]):
        assert ids == encode(tokenizer, [texts[997 * n]])[0]
