"""Ends, padding and size of a vocabulary, as an environment and all who share it have them."""

import json
import logging
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import tokengym  # noqa: F401
from tokengym.base.errors import SettingsError, TokenizerError
from tokengym.base.prompt import PromptSet
from tokengym.envs import (
    TokenGenerationEnv,
    TokenGenerationVectorEnv,
    Vocabulary,
    special_tokens,
    token_texts,
)
from tokengym.envs.batch import EpisodeBatch
from tokengym.envs.mdp import TokenMdp
from tokengym.envs.prompts import vocabulary
from tokengym.envs.prompts.contents import content
from tokengym.envs.prompts.conversation import turn_end
from tokengym.envs.prompts.tokenization import (
    decode,
    encode,
    encode_contents,
    load_tokenizer,
)
from tokengym.envs.settings import GenerationSettings
from tokengym.rewards.pairs.encode import TextEncoding, encode_pairs, encode_responses

WORDS = ("<pad>", "<eos>", "<unk>", "a", "b", "<turn>", "<end>", "\n", "user", "model")
PAD, EOS, UNK, A, B, TURN, END, LINE, *_ = range(len(WORDS))
GEMMA = (
    "{% for m in messages %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"


def make_tokenizer(template: str | None = None, **changes: Any) -> PreTrainedTokenizerFast:
    """Return whole words and the control tokens of a chat model, whose EOS ends no turn."""
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        extra_special_tokens=["<turn>", "<end>", "\n"],
        **{**special, **changes},
    )
    made.chat_template = template
    return made


def played(action: int, **options: Any) -> Any:
    """Return the info of the step with an action, the second of an episode."""
    env = TokenGenerationEnv(tokenizer=make_tokenizer(), prompts=["a"], max_new_tokens=4, **options)
    env.reset(seed=0)
    env.step(A)
    return env.step(action)[4]


@pytest.mark.parametrize("given", [["<eos>", "<end>"], [EOS, END], ("<end>", EOS), "<end>", END])
def test_each_of_several_ends_ends_a_text(given):
    info = played(END, eos_token=given)
    assert (info["finish_reason"], info["response"]) == ("eos", "a")
    ends_by_eos = not isinstance(given, str | int)
    assert ("finish_reason" in played(EOS, eos_token=given)) == ends_by_eos


def test_an_end_that_is_not_legal_yet_ends_nothing():
    options: Any = {"eos_token": ["<eos>", "<end>"], "min_new_tokens": 2}
    env = TokenGenerationEnv(tokenizer=make_tokenizer(), prompts=["a"], **options)
    _, info = env.reset(seed=0)
    assert info["action_mask"][[EOS, END]].tolist() == [0, 0]
    assert not env.step(END)[2]
    _, _, terminated, _, info = env.step(A)
    assert (terminated, info["action_mask"][[EOS, END]].tolist()) == (False, [1, 1])
    assert env.step(END)[2]
    assert "finish_reason" not in played(END, forbidden_token_ids=[END], **options)


def test_the_batch_knows_them_and_so_does_the_spec():
    make: Any = {
        "tokenizer": make_tokenizer(),
        "prompts": ["a"],
        "max_new_tokens": 4,
        "eos_token": ["<eos>", "<end>"],
    }
    envs = TokenGenerationVectorEnv(num_envs=3, **make)
    envs.reset(seed=0)
    assert envs.step(np.array([EOS, END, A]))[2].tolist() == [True, True, False]
    assert envs.vocabulary == Vocabulary(size=len(WORDS), end_ids=(EOS, END), pad_id=PAD)
    env = gym.make("tokengym/MovieReview-v0", eos_token=["<eos>", "."])
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    again: Any = gym.make(spec).unwrapped
    assert again.vocabulary == env.unwrapped.vocabulary  # type: ignore[attr-defined]
    assert len(again.vocabulary.end_ids) == 2
    assert json.loads(env.spec.to_json())["kwargs"]["eos_token"] == ["<eos>", "."]


def test_ends_are_stored_with_the_tokenizer_and_the_callers_own_is_left(tmp_path):
    given = make_tokenizer()
    chosen = load_tokenizer(given, eos_token=["<end>", "<eos>"])
    assert Vocabulary.of(given).end_ids == (EOS,)
    assert Vocabulary.of(load_tokenizer(chosen, pad_token="a")).end_ids == (END, EOS)
    assert Vocabulary.of(load_tokenizer(chosen, eos_token="<eos>")).end_ids == (EOS,)
    chosen.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert Vocabulary.of(loaded) == Vocabulary.of(chosen)


@pytest.mark.parametrize("given", ["<none>", 99, -1, ["<eos>", "x"], [], True])
def test_an_end_must_be_a_token_of_the_vocabulary(given):
    with pytest.raises(TokenizerError, match=r"eos_token.*(10 tokens|names no)"):
        load_tokenizer(make_tokenizer(), eos_token=given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<end>", r"eos_token=\['<eos>', '<end>'\]"),
        ("a <end>", "special token '<end>'"),
        ("<eos>", "ends the text"),
    ],
)
def test_a_stop_string_that_no_text_shows_is_refused(text, message):
    with pytest.raises(SettingsError, match=message):
        TokenGenerationEnv(tokenizer=make_tokenizer(), prompts=["a"], stop_strings=["b", text])


def flagged(*texts: str) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer whose file alone says that some tokens are special."""
    made = make_bytes()
    made.backend_tokenizer.add_special_tokens([AddedToken(one, special=True) for one in texts])
    assert not {*texts} & {*made.all_special_tokens}
    return made


def test_special_tokens_are_those_that_the_tokenizers_file_flags():
    tokenizer: Any = flagged("<|eom_id|>", "<|python_tag|>")
    end, tag = tokenizer.convert_tokens_to_ids(["<|eom_id|>", "<|python_tag|>"])
    assert special_tokens(tokenizer) == {"<eos>": 0, "<|eom_id|>": end, "<|python_tag|>": tag}
    said = tokenizer("so")["input_ids"]
    assert decode(tokenizer, [[*said, end]]) == ["so"]
    assert token_texts(tokenizer, [*said, end]) == ["s", "o", "<|eom_id|>"]
    with pytest.raises(
        SettingsError, match=r"'<\|eom_id\|>'.*eos_token=\['<eos>', '<\|eom_id\|>'\]"
    ):
        TokenGenerationEnv(tokenizer=tokenizer, prompts=["x"], stop_strings=["<|eom_id|>"])
    # A stop string is found behind more of them than its window has places.
    options: Any = {"max_new_tokens": 40, "stop_strings": ["so"]}
    env = TokenGenerationEnv(tokenizer=tokenizer, prompts=["x"], **options)
    env.reset(seed=0)
    assert [env.step(one)[2] for one in (said[0], *[tag] * 9, said[1])] == [False] * 10 + [True]


def test_a_stop_string_that_decodes_to_nothing_is_refused():
    make: Any = {"tokenizer": make_tokenizer(), "prompts": ["a"]}
    for text in (" ", "unknown"):  # spaces part words, and what is unknown is a special token
        with pytest.raises(SettingsError, match=rf"'{text}', which this tokenizer decodes to noth"):
            TokenGenerationEnv(**make, stop_strings=["b", text])
    TokenGenerationEnv(**{**make, "tokenizer": make_bytes()}, stop_strings=[" ", "\n", "é"])


def test_a_stop_string_that_the_tokenizer_writes_otherwise_is_refused():
    with pytest.raises(SettingsError, match=r"'a  b', which this tokenizer writes as 'a b'.*that$"):
        TokenGenerationEnv(tokenizer=make_tokenizer(), prompts=["a"], stop_strings=["a  b"])
    with pytest.raises(SettingsError, match=r"'a unknown', which .* writes as 'a'.*leave it out$"):
        TokenGenerationEnv(tokenizer=make_tokenizer(), prompts=["a"], stop_strings=["a unknown"])


def test_a_stop_string_ends_the_text_also_behind_one_that_it_overlaps():
    """The first stands where no end is legal yet."""
    env = TokenGenerationEnv(
        tokenizer=make_tokenizer(), prompts=["b"], stop_strings=["a a"], min_new_tokens=3
    )
    env.reset(seed=0)
    assert [env.step(A)[2] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize(("actions", "ends"), [((A, B), True), ((A, A), False), ((B, B), True)])
def test_a_token_completes_a_stop_string_where_it_is_legal(actions, ends, is_batch):
    """Its place allows "b" alone, the place before it "a" alone, the one behind it all."""
    kind: Any = TokenGenerationVectorEnv if is_batch else TokenGenerationEnv
    envs = kind(
        tokenizer=make_tokenizer(),
        prompts=["a"],
        max_new_tokens=4,
        stop_strings=["a a", "a b", "b b"],
        allowed_token_ids=[[A], [B], [A, B]],
        **({"num_envs": 1} if is_batch else {}),
    )
    envs.reset(seed=0)
    over = [bool(envs.step(np.array([a]) if is_batch else a)[2]) for a in actions]
    assert over == [False, ends]


@pytest.mark.parametrize(("second", "turns"), [((A, B), 4), ((A, A), 2)])
def test_so_it_does_in_a_later_turn(second, turns):
    """Masks count from a turn's first token: each turn has "a", then "b"."""
    env = TokenGenerationEnv(
        tokenizer=make_tokenizer(),
        prompts=["a"],
        partner=lambda *_: "user",
        max_turns=3,
        max_new_tokens=30,
        max_reply_tokens=4,
        stop_strings=["a a", "a b"],
        allowed_token_ids=[(A,), (B,)],
    )
    env.reset(seed=0)
    for token in (A, B, *second):
        env.step(token)
    inner: Any = env.unwrapped
    assert len(inner._conversation.turns) == turns


def test_eos_pads_where_nothing_else_does_and_still_counts(caplog):
    vocabulary._say_padded.cache_clear()
    tokenizer = make_tokenizer(pad_token=None)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            envs = TokenGenerationVectorEnv(
                num_envs=2, tokenizer=tokenizer, prompts=["a", "b a"], prompt_sampling="sequential"
            )
    (notice,) = [one.getMessage() for one in caplog.records]
    assert "'<eos>' pads" in notice
    assert (tokenizer.pad_token, envs.vocabulary.pad_id) == (None, EOS)
    observation, _ = envs.reset(seed=0)
    assert observation["attention_mask"][:, :2].tolist() == [[0, 1], [1, 1]]
    observation, _, terminated, *_ = envs.step(np.array([EOS, A]))
    assert terminated.tolist() == [True, False]
    assert observation["attention_mask"][:, 2].tolist() == [1, 1]  # the EOS that was written
    assert Vocabulary.of(envs.tokenizer).filler not in (EOS,)


# --- ends that are ordinary tokens ----------------------------------------------------------------


def make_bytes() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with an EOS."""
    letters = ["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")


@pytest.mark.parametrize("text", [".", "so.", "a good film"])
def test_a_stop_string_may_take_many_tokens(text):
    tokenizer = make_bytes()
    env = TokenGenerationEnv(tokenizer=tokenizer, prompts=["x"], stop_strings=[text])
    env.reset(seed=0)
    *before, last = tokenizer(f"no, {text}")["input_ids"]
    assert len(before) == len("no, ") + len(text) - 1
    assert not any(env.step(token)[2] for token in before)
    _, _, terminated, _, info = env.step(last)
    assert (terminated, info["finish_reason"], info["response"]) == (True, "stop", f"no, {text}")


@pytest.mark.parametrize("given", [["<eos>", "."], [".", "<eos>"], "."])
@pytest.mark.parametrize("is_stored", [False, True])
def test_contents_keep_ordinary_ends(given, is_stored, tmp_path):
    tokenizer, said = make_bytes(), "a good film. so."
    chosen = load_tokenizer(tokenizer, eos_token=given, pad_token=".")
    if is_stored:
        chosen.save_pretrained(tmp_path)
        chosen = AutoTokenizer.from_pretrained(tmp_path)
    expected = tokenizer(said)["input_ids"]
    assert encode_contents(chosen, [said]) == encode(chosen, [content(said)]) == [expected]
    assert decode(chosen, [expected]) == [said]
    vocabulary, ids = Vocabulary.of(chosen), {"<eos>": EOS - 1, ".": expected[-1]}
    ends = [given] if isinstance(given, str) else given
    assert vocabulary.end_ids == tuple(ids[end] for end in ends)
    assert (vocabulary.ordinary_ids, vocabulary.pad_id) == ((ids["."],), ids["."])


@pytest.mark.parametrize("given", [["<eos>", "b"], "b"])
@pytest.mark.parametrize("kind", [TokenGenerationEnv, TokenGenerationVectorEnv])
def test_a_response_shows_ordinary_ends(given, kind):
    rows = {"num_envs": 1} if kind is TokenGenerationVectorEnv else {}
    options: Any = {"eos_token": given, "min_new_tokens": 2, "max_new_tokens": 4, **rows}
    envs = kind(tokenizer=make_tokenizer(), prompts=["b"], **options)
    _, info = envs.reset(seed=0)
    mask = np.array(info["action_mask"]).reshape(-1)
    assert (mask[B], mask[A]) == (0, 1)  # an end like another: not legal yet, and scored if written
    for action in (B, A, B):
        step = envs.step(np.array([action]) if rows else action)
    info = {name: np.array(step[4][name]).reshape(-1)[0] for name in ("finish_reason", "response")}
    assert info == {"finish_reason": "eos", "response": "b a b"}


@pytest.mark.parametrize("template", [None, PLAIN])
@pytest.mark.parametrize(
    ("given", "said", "ids"),
    [
        (["<eos>", "b"], "b a b", (B, A, B)),
        (["<eos>", "b"], "b a", (B, A, EOS)),
        ("b", "b a b", (B, A, B)),
        ("b", "b a", (B, A, B)),
    ],
)
def test_targets_keep_ordinary_ends_and_end_once(given, said, ids, template):
    tokenizer = load_tokenizer(make_tokenizer(template), eos_token=given)
    encoding = TextEncoding(chat_template=template is not None)
    rows = [{"prompt": "a", "completion": said}]
    assert encode_responses(rows, tokenizer, encoding).rows[0].responses == (ids,)
    if template is None:
        return
    messages = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": said}]
    talk: Any = [dict(zip(("prompt", "completion"), messages, strict=True))]
    (response,) = encode_responses(talk, tokenizer, encoding).rows[0].responses
    assert response[-len(ids) :] == ids


@pytest.mark.parametrize(("end", "written"), [(END, []), (B, [END])])
def test_a_reply_follows_the_templates_end_of_a_turn(end, written):
    env = TokenGenerationEnv(
        tokenizer=make_tokenizer(GEMMA),
        prompts=["a"],
        eos_token=["<end>", "b"],
        partner=lambda *_: "a",
        chat_template=True,
        max_turns=2,
        max_new_tokens=40,
        max_reply_tokens=20,
    )
    observation, _ = env.reset(seed=0)
    before = int(observation["attention_mask"].sum())
    observation = env.step(end)[0]
    ids = observation["input_ids"][observation["attention_mask"] == 1].tolist()
    assert ids[before : before + 1 + len(written)] == [end, *written]
    rest = ids[before + 1 + len(written) :]
    assert (rest[0], rest.count(END), rest.count(TURN)) == (LINE, 1, 2)


# --- the template's own end -----------------------------------------------------------------------


@pytest.mark.parametrize(("template", "end"), [(None, EOS), (GEMMA, END), (PLAIN, EOS)])
def test_the_end_of_a_turn_is_the_templates(template, end):
    assert turn_end(make_tokenizer(template)) == end


@pytest.mark.parametrize("said", ["b", "b<end>", "b<eos>"])
def test_targets_in_a_template_end_as_the_model_ends_a_turn(said):
    tokenizer = make_tokenizer(GEMMA)
    rows = [{"prompt": "a", "chosen": said, "rejected": "a"}]
    encoded = encode_pairs(rows, tokenizer, TextEncoding(chat_template=True))
    assert encoded.rows[0].responses == ((B, END), (A, END))
    plain = encode_pairs(rows, tokenizer, TextEncoding(chat_template=False))
    assert plain.rows[0].responses == ((B, EOS), (A, EOS))


def test_messages_end_by_the_end_and_not_by_what_is_written_behind_it():
    tokenizer = make_tokenizer(GEMMA)
    messages = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]
    rows = [dict(zip(("prompt", "completion"), messages, strict=True))]
    encoded = encode_responses(rows, tokenizer, TextEncoding())
    assert encoded.rows[0].responses == ((B, END),)


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("max_turns", [1, 2])
def test_a_step_reads_the_last_tokens_alone(is_batch, max_turns, monkeypatch):
    """What is looked for ends at the last token, so that a step costs the same at every length."""
    kind: Any = TokenGenerationVectorEnv if is_batch else TokenGenerationEnv
    talk: Any = {"partner": lambda *_: "user", "max_turns": 2} if max_turns > 1 else {}
    envs = kind(
        tokenizer=make_bytes(),
        prompts=["x"],
        max_new_tokens=200,
        stop_strings=["so."],
        **talk,
        **({"num_envs": 2} if is_batch else {}),
    )
    envs.reset(seed=0)
    a = envs.tokenizer.convert_tokens_to_ids("a")
    read = list[int]()
    stops = TokenMdp.stops

    def counting(mdp: TokenMdp, lengths: Any, tails: Any) -> Any:
        read.append(max(map(len, tails)))
        assert all(len(tail) == min(n, 14) for n, tail in zip(lengths, tails, strict=True))
        return stops(mdp, lengths, tails)

    def never(*_: Any) -> None:
        raise AssertionError("the whole response was listed")

    monkeypatch.setattr(TokenMdp, "stops", counting)
    monkeypatch.setattr(EpisodeBatch, "response", never)
    monkeypatch.setattr(TokenGenerationEnv, "_response_ids", never)
    for _ in range(60):
        envs.step(np.array([a, a]) if is_batch else a)
    assert read == [*range(1, 14), *[14] * 47]


def test_a_given_response_is_looked_through_once_where_no_stop_string_is_in_it(monkeypatch):
    env = TokenGenerationEnv(
        tokenizer=make_bytes(), prompts=["x"], max_new_tokens=2000, stop_strings=["so.", " é"]
    )
    decoded = list[int]()
    decode_all = TokenMdp.decode

    def counting(mdp: TokenMdp, responses: Any) -> list[str]:
        decoded.append(sum(map(len, responses)))
        return decode_all(mdp, responses)

    monkeypatch.setattr(TokenMdp, "decode", counting)
    for size in (400, 800):
        decoded.clear()
        env.reset(options={"response": env.tokenizer("ab so " * size)["input_ids"][:size]})
        assert sum(decoded) == size


@pytest.mark.parametrize("clean", [False, True])
def test_a_given_response_is_refused_where_a_beginning_of_it_stops(clean):
    tokenizer = make_bytes()
    tokenizer.clean_up_tokenization_spaces = clean
    settings = GenerationSettings(
        max_new_tokens=40, min_new_tokens=3, stop_strings=("a.", "é", "a '")
    )
    mdp = TokenMdp(tokenizer, PromptSet(["x"]), settings)
    rng, firsts = np.random.default_rng(0), list[int]()
    letters = tokenizer("aaaaéb. '")["input_ids"]  # parts of a character among them
    for _ in range(300):
        ids = [int(i) for i in rng.choice(letters, rng.integers(1, 12))]
        ends = range(1, len(ids) + 1)
        first = next((end for end in ends if mdp.stops([end], [ids[:end]])[0]), 0)
        firsts.append(first)
        if not first:
            assert mdp.begun(ids, "response") == (tuple(ids), ())
            continue
        with pytest.raises(SettingsError, match=rf"its first {first} tokens complete a stop"):
            mdp.begun(ids, "response")
    assert 30 < np.count_nonzero(firsts) < 270
