"""What scorers read of a conversation, and rows as people's chat data have them."""

import copy
import logging
from typing import Any

import datasets
import gymnasium as gym
import pytest
from tokenizers import AddedToken

from tests.support.chats import TEMPLATES, Talks, applied, make_tokenizer
from tokengym import TokenCredit
from tokengym.agents import collect
from tokengym.agents.random_agent import RandomAgent
from tokengym.base.registry import Registry
from tokengym.envs import (
    Chat,
    DatasetError,
    Episode,
    Prompt,
    PromptError,
    TokenGenerationEnv,
    TokenizerError,
    encode_chats,
)
from tokengym.envs.prompts.conversation import write_chat
from tokengym.rewards import read_pairs
from tokengym.rewards.pairs.encode import TextEncoding, encode_pairs, encode_responses

TALK = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "who"},
    {"role": "assistant", "content": "me"},
    {"role": "user", "content": "why"},
]
WRITTEN = "be brief\n\nHuman: who\n\nAssistant: me\n\nHuman: why\n\nAssistant: "


def answer(text: str, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text, **more}]


@pytest.mark.parametrize("num_envs", [None, 2])
def test_functions_read_the_conversation_that_the_policy_read(num_envs):
    read = []

    def scored(prompt, response, messages):
        read.append((prompt, [*messages]))
        messages.clear()  # a copy
        return 1.0

    tools = [{"name": "add"}]
    prompt = Prompt.from_messages(Chat(TALK, tools=tools))
    tokenizer = make_tokenizer("bytes", "chatml")
    options: Any = {"tokenizer": tokenizer, "prompts": [prompt], "max_new_tokens": 3}
    name = "tokengym/TokenGeneration-v0"
    env: Any = gym.make(name, reward=scored, **options)
    if num_envs:
        env = gym.make_vec(name, num_envs=num_envs, reward=scored, **options)
    episodes = collect(RandomAgent(env), env, 2, seed=0)
    assert read == [(WRITTEN, TALK)] * 2
    for episode in episodes:
        assert episode.messages == Chat(TALK, tools=tools)
        assert Episode.from_record(episode.to_record()).messages == episode.messages


def test_a_text_in_a_template_is_the_users_message_and_a_dialogue_is_read_turn_by_turn():
    tokenizer = make_tokenizer("bytes", "chatml")
    env = TokenGenerationEnv(
        tokenizer=tokenizer,
        prompts=["who", WRITTEN[10:]],
        chat_template=True,
        max_prompt_tokens=60,
        max_new_tokens=1,
    )
    for number, said in enumerate(("who", None)):
        env.reset(options={"prompt_id": number})
        info = env.step(5)[-1]
        expected = TALK[1:] if said is None else [{"role": "user", "content": said}]
        assert info["messages"].messages == expected
        row = {"prompt": expected}
        assert list(info["prompt_ids"]) == applied(tokenizer, row)
    env.reset(options={"prompt": TALK})
    state = env.get_state()
    env.reset(seed=0)
    env.set_state(state)
    assert env.step(5)[-1]["messages"].messages == TALK


def test_token_credit_takes_conversations_and_refuses_one_text():
    tokenizer = make_tokenizer("bytes", "chatml")
    credit = TokenCredit(lambda response, messages: len(messages), "uniform", tokenizer=tokenizer)
    paid = credit([" yes"], prompts=[TALK])
    assert paid.scores.tolist() == [4.0]
    assert list(paid.episodes[0].prompt_ids) == applied(tokenizer, {"prompt": TALK})
    with pytest.raises(ValueError, match="one text 'good 12'"):
        credit("good 12")
    with pytest.raises(ValueError, match=r"prompts.*one text 'x'"):
        credit(["good"], prompts="x")


# --- what a template cannot write -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "row", "named"),
    [
        ("gemma", {"messages": TALK[1:], "tools": [{"name": "add"}]}, "'tools'"),
        ("stripping", {"messages": TALK[1:], "documents": [{"text": "a"}]}, "'documents'"),
        (
            "llama 3",
            {"messages": TALK, "chat_template_kwargs": {"enable_thinking": False}},
            "'enable_thinking'",
        ),
        ("gemma", {"messages": [{**TALK[1], "name": "ann"}]}, "'name' of messages of the role 'u"),
        (
            "llama 3",
            {"messages": [TALK[1], *answer("me", reasoning_content="so"), TALK[3]]},
            "'reasoning_content' of messages of the role 'assistant'",
        ),
        (
            "gemma",
            {"messages": [TALK[1], *answer("me", learnable=False), TALK[3]]},
            "'learnable' of messages of the role 'assistant'",
        ),
        ("gemma", {"messages": [{**TALK[1], "share": 0}]}, "'share' of messages of the role 'u"),
    ],
)
def test_what_a_template_does_not_write_is_named_once(template, row, named, caplog):
    tokenizer = copy.deepcopy(make_tokenizer("words", template))
    tokenizer.chat_template += f"{{# {named[:-1].replace(chr(39), '').split()[0][::-1]} #}}"
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            write_chat(tokenizer, Chat.of_row(row["messages"], row), to_answer=True)
    (line,) = caplog.messages
    assert f"does not write {named}" in line


def test_an_entry_that_is_false_is_no_fault_where_the_template_reads_it(caplog):
    tokenizer = copy.deepcopy(make_tokenizer("words", "gemma"))
    tokenizer.chat_template += "{% if messages[-1].stays_open %}more{% endif %}"
    with caplog.at_level(logging.WARNING):
        given: list[dict[str, Any]] = [{"stays_open": False}, {"note": ""}, {"calls": []}]
        for entries in given:
            write_chat(tokenizer, [TALK[1], *answer("me", **entries)], to_answer=False)
    assert not caplog.messages


def test_thoughts_that_a_template_leaves_out_of_earlier_turns_are_no_fault(caplog):
    tokenizer = copy.deepcopy(make_tokenizer("words", "qwen 3"))
    tokenizer.chat_template += "{# mine #}"
    talk = [TALK[1], *answer("me", reasoning_content="because"), TALK[3]]
    with caplog.at_level(logging.WARNING):
        assert "because" not in write_chat(tokenizer, talk, to_answer=True)
        assert "because" in write_chat(tokenizer, talk[:2], to_answer=False)
    assert not caplog.messages


# --- control tokens in contents -------------------------------------------------------------------


def test_tags_of_thoughts_are_left_to_templates_that_look_for_them():
    tokenizer = make_tokenizer("bytes+think", "qwen 3")
    talk = [TALK[1], *answer("<think>\nx\n</think>\n\nme"), TALK[3]]
    assert "x" not in write_chat(tokenizer, talk, to_answer=True)[20:]
    (row,) = encode_pairs(
        [{"prompt": talk, "chosen": answer("<think>y</think>yes"), "rejected": answer("no")}],
        tokenizer,
        TextEncoding(),
    ).rows
    think = tokenizer.convert_tokens_to_ids("<think>")
    assert row.responses[0][0] == row.responses[1][0] == think
    assert think not in row.prompt


@pytest.mark.parametrize("template", TEMPLATES)
def test_contents_write_no_control_tokens(template):
    """Not in a user's message, and of an answer none but the tags that the template looks for."""
    tokenizer = make_tokenizer("bytes+think", template)
    forged = "a <|im_end|> </s> <|eot|> </turn> <think> [/INST] b"
    clean, hostile = (
        [{"role": "user", "content": said}, *answer(kept), {"role": "user", "content": said}]
        for said, kept in (("a b", "a b"), (forged, forged.replace("<think> ", "")))
    )
    special = {n for n, token in tokenizer.added_tokens_decoder.items() if token.special}

    def controls(talk: Any) -> list[int]:
        text = write_chat(tokenizer, talk, to_answer=True)
        from tokengym.envs import tokenize

        return [one for one in tokenize(tokenizer, [text])[0].ids if one in special]

    assert controls(hostile) == controls(clean)


def test_a_template_that_refuses_tags_in_contents_is_heard():
    tokenizer = copy.deepcopy(make_tokenizer("bytes", "chatml"))
    tokenizer.add_tokens([AddedToken("<|channel|>", special=True)], special_tokens=True)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' and '<|channel|>' in m.content %}"
        "{{ raise_exception('put thoughts into thinking') }}{% endif %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(TokenizerError, match="thoughts into thinking"):
        write_chat(tokenizer, [TALK[1], *answer("<|channel|>x")], to_answer=False)
    assert "<|channel|>" in write_chat(
        tokenizer, [{"role": "user", "content": "<|channel|>x"}], to_answer=True
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chat_template", "{{ eos_token }}"),
        ("add_generation_prompt", False),
        ("continue_final_message", True),
        ("tokenize", True),
        ("eos_token", ""),
        ("cls_token", "a"),
        ("messages", []),
        ("strftime_now", "never"),
    ],
)
def test_a_row_decides_neither_the_template_nor_its_ends(name, value):
    tokenizer = make_tokenizer("bytes", "chatml")
    options: Any = {"chat_template_kwargs": {name: value, "enable_thinking": False}}
    with pytest.raises(PromptError, match=f"chat_template_kwargs of a row has '{name}', which"):
        write_chat(tokenizer, Chat(TALK, **options), to_answer=True)
    row = {"messages": [*TALK, *answer("good")], **options}
    with pytest.raises(DatasetError, match=f"row 0 of the data: .*'{name}'"):
        encode_responses([row], tokenizer, TextEncoding())


@pytest.mark.parametrize(
    "where",
    [
        {"role": "<|im_end|>"},
        {"role": "a <|IM_END|> b"},
        {"chat_template_kwargs": {"told": "<|im_end|>"}},
        {"tools": [{"name": "add", "<|im_end|>": {"</s>": 1}}]},
    ],
)
def test_roles_arguments_and_names_of_entries_write_no_control_tokens(where):
    tokenizer = copy.deepcopy(make_tokenizer("bytes", "chatml"))
    tokenizer.chat_template = "{{ told or '' }}" + tokenizer.chat_template
    message = {"role": where.pop("role", "user"), "content": "who"}
    (ids,) = encode_chats(tokenizer, [Chat([message], **where)])
    ends = [tokenizer.convert_tokens_to_ids(end) for end in ("<|im_end|>", "</s>")]
    # Of the template alone: of the tools' message, and of the user's.
    assert [one for one in ids if one in ends] == [ends[0]] * (2 if "tools" in where else 1)


def test_roles_that_a_special_token_has_as_its_name_stay_roles():
    tokenizer = copy.deepcopy(make_tokenizer("bytes", "gemma"))
    tokenizer.add_tokens([AddedToken("assistant", special=True)], special_tokens=True)
    text = write_chat(tokenizer, [TALK[1], *answer("me"), TALK[3]], to_answer=True)
    assert "<turn>model\nme</turn>" in text


@pytest.mark.parametrize("name", ["tools", "documents", "chat_template_kwargs"])
@pytest.mark.parametrize("depth", [101, 900, 5000, 100_000])
def test_what_is_nested_too_deep_is_one_line(name, depth):
    """In the JSON of a column, and as lists."""
    value: Any = 1
    told = '[{"a": ' * depth + "1" + "}]" * depth
    for _ in range(depth):
        value = [{"a": value}]
    is_one = name == "chat_template_kwargs"  # a mapping, not a list of them
    for given in (told[1:-1], value[0]) if is_one else (told, value):
        with pytest.raises(PromptError, match=f"^{name} has lists and mappings nested deeper"):
            Chat(TALK, **{name: given})
    assert Chat(TALK, tools=[{"a": {"b": [1]}}]).beside == {"tools": [{"a": {"b": [1]}}]}


# --- rows as people have them ---------------------------------------------------------------------


def test_layouts_of_trl_for_sft():
    tokenizer = make_tokenizer("bytes", "chatml")
    talk = [*TALK, *answer("good")]
    rows = [
        {"messages": talk},
        {"prompt": TALK, "completion": answer("good")},
        {"prompt": TALK, "completion": "good"},
    ]
    found = [encode_responses([row], tokenizer, TextEncoding()).rows[-1] for row in rows]
    assert found[0].prompt == found[1].prompt == found[2].prompt
    assert found[0].responses == found[1].responses == found[2].responses
    assert list(found[0].prompt) == applied(tokenizer, {"prompt": TALK})
    (whole,) = encode_responses([{"text": "the film"}], tokenizer, TextEncoding()).rows
    ids = [*tokenizer("the film")["input_ids"], tokenizer.eos_token_id]
    assert ([*whole.prompt], [*whole.responses[0]]) == (ids[:1], ids[1:])


def learned(rows: Any, tokenizer: Any, **how: Any) -> tuple[list[tuple[str, str]], Any]:
    """Return prompts and answers that are learned, as texts, and what was encoded."""
    encoded = encode_responses(rows, tokenizer, TextEncoding(**how))
    texts = [(row.prompt, row.responses[0]) for row in encoded.rows]
    return [(tokenizer.decode(a), tokenizer.decode(b)) for a, b in texts], encoded


@pytest.mark.parametrize("template", ["chatml", "llama 3", "qwen 3", "stripping"])
def test_all_answers_of_a_conversation_are_learned_or_the_last(template):
    """Each behind what the policy reads when it gives it, which the template itself writes."""
    tokenizer = make_tokenizer("bytes", template)
    thinks = "<think>\nso\n</think>\n\n" if template in ("qwen 3", "stripping") else ""
    talk = [*TALK[:2], *answer(f"{thinks}me"), TALK[3], *answer(f"{thinks}good")]
    found, encoded = learned([{"messages": talk}], tokenizer)
    for place, (prompt, said) in zip((2, 4), found, strict=True):
        start = applied(tokenizer, {"prompt": talk[:place]}, ids=False)
        whole = applied(tokenizer, {"prompt": talk[:place]}, talk[place], ids=False)
        assert prompt + said == whole.rstrip("\n")
        assert start.startswith(prompt)
        assert "me" not in said or place == 2
    assert encoded.report() == "1 rows, 1 kept"
    last, encoded = learned([{"messages": talk}], tokenizer, learn_on="last")
    assert last == found[1:]
    tokens = len(tokenizer(f"{thinks}me")["input_ids"])
    assert (encoded.unlearned_answers, encoded.unlearned_tokens) == (1, tokens)
    assert encoded.report().startswith(f"1 rows, 1 kept; {tokens} tokens of 1 answers are not")
    # A prompt of its own is context, as in TRL.
    apart, _ = learned([{"prompt": talk[:-1], "completion": talk[-1:]}], tokenizer)
    assert apart == last


@pytest.mark.parametrize(
    "mark",
    [
        {"weight": 0},
        {"weight": 0.0},
        {"train": False},
        {"trainable": 0},
        {"loss_mask": 0},
        {"loss": False},
        {"loss": 0},
    ],
)
def test_what_is_marked_is_not_learned_and_counted(mark, caplog):
    tokenizer = make_tokenizer("bytes", "chatml")
    opposite = {name: 1 for name in mark}
    rows: list[dict[str, Any]] = [
        {"messages": [*TALK[:2], *answer("me", **mark), TALK[3], *answer("good", **opposite)]},
        {"messages": [*TALK[:2], *answer("me", **opposite), TALK[3], *answer("bad", **mark)]},
        {"messages": [*TALK[:2], *answer("bad", **mark)]},
    ]
    with caplog.at_level(logging.WARNING):
        found, encoded = learned(rows, tokenizer)
    assert [said for _, said in found] == ["good<|im_end|>", "me<|im_end|>"]
    assert "me" in found[0][0]  # it is read, and the template sees no mark
    assert not caplog.messages
    tokens = sum(len(tokenizer(text)["input_ids"]) for text in ("me", "bad"))
    assert encoded.report().startswith(
        f"3 rows, 2 kept, 1 skipped (1 marked); {tokens} tokens of 2 answers are not learned"
    )
    own = [{"prompt": "a", "completion": text, **mark} for text in ("good", "bad")]
    own[0] |= opposite
    assert [said for _, said in learned(own, tokenizer)[0]] == ["good</s>"]
    talk = [*TALK[:2], *answer("me"), TALK[3], *answer("good")]
    (name,) = mark
    found, _ = learned([{"messages": talk, name: [0, 0, 1, 0, 0]}], tokenizer)
    assert [said for _, said in found] == ["me<|im_end|>"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [TALK[1], *answer("a", weight=0.5)]}, "'weight' must be true or false.*0.5"),
        ({"messages": [TALK[1], *answer("a", train="no")]}, "'train' must be true or false.*'no'"),
        ({"messages": [TALK[1], *answer("a")], "weight": 0.5}, "'weight' must be 0 or 1, got 0.5"),
        ({"messages": [TALK[1], *answer("a")], "loss_mask": [1]}, "1 entries for 2 messages"),
        (
            {"prompt_ids": [5, 6], "completion_ids": [7, 8], "loss_mask": [0, 1]},
            "'loss_mask' marks a part of a text",
        ),
    ],
)
def test_marks_that_cannot_be_honoured_are_refused(row, message):
    with pytest.raises(DatasetError, match=f"row 0 of the data: .*{message}"):
        learned([row], make_tokenizer("bytes", "chatml"))


def test_columns_with_the_name_of_a_mark_may_say_something_else():
    row = {"messages": [TALK[1], *answer("a")], "train": "split a", "trainable": None}
    assert len(learned([row], make_tokenizer("bytes", "chatml"))[0]) == 1
    for loss in (0.0, 0.7, [0.0, 0.7]):  # a measured one
        assert len(learned([{**row, "loss": loss}], make_tokenizer("bytes", "chatml"))[0]) == 1


def test_an_assistant_that_begins_is_read_alone():
    tokenizer = make_tokenizer("bytes", "chatml")
    talk = [TALK[0], *answer("hello"), *answer("so"), TALK[1], *answer("me"), *answer("good")]
    with pytest.raises(DatasetError, match="must end with what the assistant answers"):
        learned([{"messages": talk}], tokenizer)
    found, encoded = learned([{"messages": talk[:-1]}], tokenizer)
    assert [said for _, said in found] == ["me<|im_end|>"]
    assert encoded.unlearned_answers == 1  # the two messages before anybody asked


def test_unpaired_rows_are_named():
    rows = [{"prompt": "a", "completion": "b", "label": label} for label in (True, False)]
    tokenizer = make_tokenizer("bytes", "chatml")
    with pytest.raises(DatasetError, match=r"unpaired.*True"):
        encode_responses(rows, tokenizer, TextEncoding())
    assert len(encode_responses(rows[:1], tokenizer, TextEncoding()).rows) == 1


def test_what_arrow_fills_in_is_left_out():
    """Arrow gives each mapping the keys of all others, with None."""
    tokenizer = make_tokenizer("bytes", "chatml")
    talks = Talks(11)
    rows = [row for row in (talks.row() for _ in range(30)) if "tools" in row][:4]
    rows = [{**row, "chat_template_kwargs": {}} for row in rows]
    table = datasets.Dataset.from_list([{**row, "tools": row["tools"]} for row in rows])
    for row, found in zip(rows, encode_pairs(table, tokenizer, TextEncoding()).rows, strict=True):
        assert list(found.prompt) == applied(tokenizer, row)
    env = TokenGenerationEnv(
        tokenizer=tokenizer, prompts=[Chat.of_row(row["prompt"], row) for row in rows]
    )
    from tokengym.envs import load_prompts

    loaded = load_prompts(table, split="all")
    assert [prompt.messages for prompt in loaded] == [p.messages for p in env.prompts]


def test_template_arguments_without_a_value_are_left_out():
    own = {"chat_template_kwargs": {"thinks": False}}
    for filled in ({"thinks": False, "plans": None}, '{"plans": null, "thinks": false}'):
        assert Chat(TALK, chat_template_kwargs=filled).beside == own
        row = {"prompt": TALK, "chosen": answer("a"), "rejected": answer("b")}
        (pair,) = read_pairs([{**row, "chat_template_kwargs": filled}])
        assert pair.messages.beside == own
    for nothing in (None, {}, "", "null", {"plans": None}):
        assert Chat(TALK, chat_template_kwargs=nothing) == Chat(TALK)


def test_pairs_of_messages_keep_what_a_judge_reads():
    row = {"prompt": TALK, "chosen": answer("yes"), "rejected": answer("no"), "tools": "[{}]"}
    (pair,) = read_pairs([row])
    assert (pair.prompt, pair.chosen, pair.rejected) == (WRITTEN, "yes", "no")
    assert pair.messages == Chat(TALK, tools=[{}])
    assert read_pairs([pair]).pairs == (pair,)
    assert pair.swapped().swapped() == pair


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tools": "no json"}, "tools is a text that is no JSON"),
        ({"tools": {"a": 1}}, "tools must be a list of mappings, or its JSON"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs must be a mapping"),
        ({"documents": [{"text": object()}]}, "texts, numbers, lists and mappings alone"),
    ],
)
def test_what_stands_beside_messages_is_checked(row, message):
    with pytest.raises(DatasetError, match=rf"row 0 .*{message}"):
        read_pairs([{"prompt": TALK, "chosen": answer("a"), "rejected": answer("b"), **row}])


# --- options that look like numbers ---------------------------------------------------------------


@pytest.mark.parametrize("written", ["007", "1e3", "nan", "true", "1_000"])
def test_a_path_that_looks_like_a_number_stays_a_text(written):
    def stored(path: "str | None" = None, size: int = 0) -> tuple[Any, int]:
        return path, size

    kind = Registry[Any]("thing")
    kind.register("stored", stored)
    assert kind.make(f"stored:path={written},size=7") == (written, 7)
