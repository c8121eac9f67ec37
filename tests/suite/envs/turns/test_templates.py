"""Conversations in the chat templates of today's models, as TRL has them."""

from typing import Any

import gymnasium as gym
import pytest

import tokengym  # noqa: F401  # registers the environments
from tests.support.trl_chats import FOR_PICTURES, TEMPLATES, tokenizer_of
from tokengym.envs import Chat, Partner, Prompt, Reply, TokenizerError

OPTIONS: tuple[dict[str, Any], ...] = ({}, {"enable_thinking": False}, {"reasoning_effort": "low"})


class Asks(Partner):
    """Says one thing, whatever it hears."""

    def reply(self, *asked: Any) -> Reply:
        return Reply("and why", score=0.0)


def env_of(tokenizer: Any, chat: Chat, role: str = "user") -> Any:
    partner = Asks()
    partner.role = role
    return gym.make(
        "tokengym/TokenGeneration-v0",
        tokenizer=tokenizer,
        prompts=[Prompt.from_messages(chat)],
        partner=partner,
        max_turns=3,
        max_new_tokens=2000,
        max_reply_tokens=500,
        reward="uniform",
        scorer="partner",
    ).unwrapped


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_reply_is_what_the_template_writes_behind_an_answer(name):
    """Of every option, and where the answer has thoughts; what was sampled is never changed."""
    tokenizer, end = tokenizer_of(name)
    ask: Any = [{"role": "user", "content": "which film"}]
    if name.startswith(FOR_PICTURES):
        with pytest.raises(TokenizerError, match=r"no one form of a reply|refuses"):
            env_of(tokenizer, Chat(ask))
        return

    def encoded(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    for options in OPTIONS:
        written = {"tokenize": False, "add_generation_prompt": True, **options}
        start = tokenizer.apply_chat_template(ask, **written)
        talk = [*ask, {"role": "assistant", "content": "ANSWER"}]
        whole = tokenizer.apply_chat_template([*talk, {**ask[0], "content": "and why"}], **written)
        # What stands behind the answer, without the end of it: the policy writes that.
        _, _, behind = whole.rpartition("ANSWER")
        own_end = "<|end|>" if name.startswith("gptoss") else end
        reply = behind.partition(own_end)[2]
        thought = "" if start.rstrip().endswith("<think>") else "<think>\n"
        for said in ("good", f"{thought}so it is\n</think>\n\ngood"):
            env = env_of(tokenizer, Chat(ask, chat_template_kwargs=options))
            observation, _ = env.reset(seed=0)
            sampled = [*encoded(said), tokenizer.convert_tokens_to_ids(end)]
            for token in sampled * 2:
                observation = env.step(token)[0]
            shown = observation["input_ids"][observation["attention_mask"] > 0].tolist()
            assert shown == [*encoded(start), *(sampled + encoded(reply)) * 2]


@pytest.mark.parametrize("name", ["qwen3", "qwen3_8", "nemotron_3_nano", "glm4moe", "lfm2_2_5"])
def test_results_of_tools_follow_answers(name):
    tokenizer, end = tokenizer_of(name)
    ask: Any = [{"role": "user", "content": "which film"}]
    tools: Any = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    env = env_of(tokenizer, Chat(ask, tools=tools), role="tool")
    env.reset(seed=0)
    ids = tokenizer("good", add_special_tokens=False)["input_ids"]
    for token in (*ids, tokenizer.convert_tokens_to_ids(end)):
        observation = env.step(token)[0]
    talk = [*ask, {"role": "assistant", "content": "good"}, {"role": "tool", "content": "and why"}]
    whole = tokenizer.apply_chat_template(
        talk, tools=tools, tokenize=False, add_generation_prompt=True
    )
    shown = tokenizer.decode(observation["input_ids"][observation["attention_mask"] > 0])
    # GLM 4 ends an answer by the token of the next turn, whichever that is.
    behind = whole.rpartition("good")[2]
    assert shown.rpartition("good")[2] == (end + behind if name == "glm4moe" else behind)
