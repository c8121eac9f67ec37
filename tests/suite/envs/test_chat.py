"""Conversations as prompts, and plain prompts in a chat template."""

import copy
from collections.abc import Callable
from typing import Any

import datasets
import pytest

from tokengym.base.chat import Chat
from tokengym.envs import (
    DatasetError,
    Prompt,
    PromptError,
    PromptSet,
    SettingsError,
    TokenGenerationEnv,
    TokenGenerationVectorEnv,
    TokenizerError,
    load_prompts,
)
from tokengym.envs.tasks import TaskOptions, find_task
from tokengym.envs.tasks.task import task_arguments

# As chat models do it: each turn between marks, and the reply's mark last.
WORDS = ("<pad>", "<eos>", "<unk>", "<bos>", "system", "user", "assistant", "a", "b", "c")
TEMPLATE = (
    "<bos> {% for m in messages %}{{ m.role }} {{ m.content }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)
PAD, EOS, UNK, BOS, SYSTEM, USER, ASSISTANT, A, B, C = range(10)
CHAT: list[dict[str, str]] = [
    {"role": "system", "content": "c"},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "b a"},
]


def build(task: str, **options: Any) -> Any:
    """Return the arguments of an environment of a task."""
    name = "".join(part.capitalize() for part in task.split("_"))
    split = options.pop("split", "train")
    return task_arguments(find_task(name), TaskOptions(**options), split)


@pytest.fixture
def chatty(build_tokenizer: Callable[..., Any]) -> Any:
    tokenizer = build_tokenizer(WORDS)
    tokenizer.bos_token = "<bos>"
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_a_text_becomes_a_users_message(chatty):
    env = TokenGenerationEnv(tokenizer=chatty, prompts=["a", "b c"], chat_template=True)
    observation, info = env.reset(options={"prompt_id": 0})
    shown = observation["input_ids"][: env.max_prompt_tokens].tolist()
    assert shown == [PAD, BOS, USER, A, EOS, ASSISTANT]
    assert info["prompt"] == "a"  # the text itself: rewards read the query without role tags
    end = env.step(EOS)[4]
    assert end["prompt_ids"] == (BOS, USER, A, EOS, ASSISTANT)
    assert env.reset(options={"prompt": "c"})[0]["input_ids"][2:6].tolist() == [USER, C, EOS, 6]
    plain = TokenGenerationEnv(tokenizer=chatty, prompts=["a"])
    assert plain.reset()[0]["input_ids"][0] == A


def test_conversations_take_the_template_unasked(chatty):
    ids = (BOS, SYSTEM, C, EOS, USER, A, EOS, ASSISTANT, B, EOS, USER, B, A, EOS, ASSISTANT)
    prompts: list[Any] = [CHAT, "a"]
    for build in (TokenGenerationEnv, TokenGenerationVectorEnv):
        env = build(tokenizer=chatty, prompts=prompts, prompt_sampling="sequential")
        assert env.prompts[0] == Prompt.from_messages(CHAT)
        written = "c\n\nHuman: a\n\nAssistant: b\n\nHuman: b a\n\nAssistant: "
        assert env.prompts.texts == (written, "a")
        assert env.prompts[0].messages.messages == CHAT
        assert env.max_prompt_tokens == len(ids)
    single = TokenGenerationEnv(tokenizer=chatty, prompts=prompts)
    single.reset(options={"prompt_id": 0})
    assert single.step(EOS)[4]["prompt_ids"] == ids
    single.reset(options={"prompt": CHAT[1:2]})
    end = single.step(EOS)[4]
    assert end["prompt_ids"] == (BOS, USER, A, EOS, ASSISTANT)
    assert (end["prompt"], end["prompt_id"]) == ("a", -1)
    state = single.get_state()
    assert single.set_state(state)[1]["prompt"] == "a"


def test_overlong_conversations(chatty):
    short: Any = {"tokenizer": chatty, "prompts": [CHAT, "a"], "max_prompt_tokens": 6}
    with pytest.raises(PromptError, match=r"0.*15.*max_prompt_tokens=6"):
        TokenGenerationEnv(**short)
    assert TokenGenerationEnv(**short, overlong="drop").prompts.texts == ("a",)
    short["max_prompt_tokens"] = 9  # the system's message and the last one are left
    cut = TokenGenerationEnv(**short, overlong="left", prompt_sampling="sequential")
    assert cut.prompts[0].messages.messages == [CHAT[0], CHAT[-1]]
    _, info = cut.reset(seed=0)
    assert info["prompt"] == cut.prompts.texts[0]
    assert cut.step(EOS)[4]["prompt_ids"] == (BOS, SYSTEM, C, EOS, USER, B, A, EOS, ASSISTANT)


def test_templates_that_cannot_write(chatty, tokenizer):
    message = r"no chat template.*tokenizer\.chat_template"
    with pytest.raises(TokenizerError, match=message):
        TokenGenerationEnv(tokenizer=tokenizer, prompts=["a"], chat_template=True)
    with pytest.raises(TokenizerError, match=message):
        TokenGenerationEnv(tokenizer=tokenizer, prompts=["a"]).reset(options={"prompt": CHAT})
    picky = copy.deepcopy(chatty)
    picky.chat_template = "{{ raise_exception('no system messages') }}"
    with pytest.raises(TokenizerError, match=r"refuses.*\(no system messages\)"):
        TokenGenerationEnv(tokenizer=picky, prompts=[CHAT])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (CHAT[:3], r"got the.*\['system', 'user', 'assistant'\]"),
        ([{"role": "user"}], r"0.*got \{'role'"),
        ([CHAT[0], {"role": "user", "content": 3}], r"message 1 must be"),
        ([], r"assistant's turn.*roles \[\]"),
        ([{"role": "user", "content": " "}], "got ' '"),
    ],
)
def test_bad_conversations(messages, message):
    with pytest.raises(PromptError, match=message):
        Prompt.from_messages(messages)


def test_what_is_neither_text_nor_conversation(chatty):
    with pytest.raises(TypeError, match=r"prompt 1.*got list"):
        PromptSet(["a", ["b"]])  # type: ignore[list-item]
    with pytest.raises(SettingsError, match=r"got 'x'.*tokenizer\.chat_template"):
        TokenGenerationEnv(
            tokenizer=chatty,
            prompts=["a"],
            chat_template="x",  # type: ignore[arg-type]
        )


def test_conversations_of_a_data_set(chatty):
    rows = {"prompt": [CHAT, CHAT[1:2]], "answer": ["b", "c"]}
    table = datasets.Dataset.from_dict(rows)
    prompts = load_prompts(table, reference_column="answer", split="all")
    assert prompts == PromptSet(
        [Prompt.from_messages(CHAT, reference="b"), Prompt.from_messages(CHAT[1:2], reference="c")]
    )
    arguments = build("question_answer", tokenizer=chatty, dataset=table, split="all")
    assert TokenGenerationEnv(**arguments).max_prompt_tokens == 15
    with pytest.raises(SettingsError, match="prompt_tokens=2"):
        load_prompts(table, split="all", prompt_tokens=2, tokenizer=chatty)
    with pytest.raises(SettingsError, match=r"MovieReview.* first 2 to 7 .*TokenGeneration"):
        build("movie_review", tokenizer=chatty, dataset=table, split="all")
    with pytest.raises(SettingsError, match="prompt_tokens=2"):
        build("movie_review", tokenizer=chatty, dataset=table, split="all", prompt_tokens=2)
    cut = datasets.Dataset.from_dict({"prompt": [CHAT[:3]]})
    with pytest.raises(DatasetError, match=r"row 0.*conversation must end"):
        load_prompts(cut, split="all")


def test_a_text_that_ends_with_an_answer_loses_no_turn():
    text = "Human: Why?\n\nAssistant: Because of"
    assert Chat.of_text(text).messages == [{"role": "user", "content": text}]
    asked = Chat.of_text("Human: Why?\n\nAssistant: ")
    assert asked.messages == [{"role": "user", "content": "Why?"}]
