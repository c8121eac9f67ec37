"""Chat templates that ask for today's date are given a fixed one, so that runs can be continued."""

import copy
import datetime
from typing import Any

import gymnasium as gym
import pytest
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from tests.support.chats import make_tokenizer
from tokengym.envs import SettingsError, StateError, TokenGenerationEnv
from tokengym.envs.prompts.conversation import write_chat

ASK = [{"role": "user", "content": "who"}]
ASKS_DATE = (  # in every place that templates ask in, with all that they have asked for
    "{% macro year() %}{{ strftime_now('%Y') }}{% endmacro %}"
    "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y, %A %-d %B %y %e %F %j %H:%M %%') }}"
    "{% endif %} {{ year() }} "
)


def clock(year: int, month: int, day: int) -> Any:
    """Return a stand-in of `datetime.datetime` whose clock shows a day's first second."""

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(year, month, day)

    return Clock


@pytest.fixture
def dated(monkeypatch):
    """Return a tokenizer whose template asks for the date, and a setter of the clock."""
    tokenizer = copy.deepcopy(make_tokenizer("bytes", "chatml"))
    tokenizer.chat_template = "\n " + ASKS_DATE + tokenizer.chat_template

    def set_clock(*day: int) -> None:
        monkeypatch.setattr(chat_template_utils, "datetime", clock(*day))

    return tokenizer, set_clock


@pytest.mark.parametrize("day", [(2026, 1, 1), (2024, 12, 31), (2027, 3, 9)])
def test_a_template_writes_what_it_would_on_that_day(dated, day):
    tokenizer, set_clock = dated
    set_clock(*day)
    if day != (2026, 1, 1):
        tokenizer.init_kwargs["template_date"] = datetime.date(*day).isoformat()
    expected = tokenizer.apply_chat_template(ASK, tokenize=False, add_generation_prompt=True)
    set_clock(2030, 5, 5)
    assert write_chat(tokenizer, ASK, to_answer=True) == expected


def env_of(tokenizer: Any, **settings: Any) -> TokenGenerationEnv:
    return TokenGenerationEnv(tokenizer=tokenizer, prompts=[ASK], max_new_tokens=4, **settings)


def test_an_episode_goes_on_on_another_day(dated, caplog):
    tokenizer, set_clock = dated
    tokenizer.chat_template += "{# told once for each template #}"
    set_clock(2026, 11, 29)
    with caplog.at_level("WARNING"):
        first = env_of(tokenizer)
        first.reset(seed=0)
        state = first.get_state()
        set_clock(2026, 11, 30)
        second = env_of(tokenizer)
        second.set_state(state)
    assert second.encoded_prompt(0).ids == first.encoded_prompt(0).ids
    lines = [text for text in caplog.messages if "asks for today's date" in text]
    assert all("is given 2026-01-01 on any day" in line for line in lines)
    assert len(lines) == 1
    with pytest.raises(StateError, match="same prompts, chat template and template_date"):
        env_of(tokenizer, template_date="2026-11-30").set_state(state)


def test_a_date_that_is_given_is_stored_with_the_tokenizer(dated, tmp_path):
    """As a saved agent keeps it; the caller's own tokenizer stays as it is."""
    tokenizer, set_clock = dated
    env = env_of(tokenizer, template_date="2026-11-30")
    set_clock(2026, 11, 30)
    expected = tokenizer.apply_chat_template(ASK, tokenize=False, add_generation_prompt=True)
    ids = tuple(tokenizer(expected, add_special_tokens=False)["input_ids"])
    assert env.encoded_prompt(0).ids == ids
    env.tokenizer.save_pretrained(tmp_path)
    set_clock(2027, 1, 1)
    assert env_of(AutoTokenizer.from_pretrained(tmp_path)).encoded_prompt(0).ids == ids
    assert env_of(tokenizer).encoded_prompt(0).ids != ids


def test_a_reply_is_dated_like_its_prompt(dated):
    tokenizer, _ = dated
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ m.content }}", "{{ m.content }} {{ strftime_now('%Y') }}", 1
    )
    env: Any = gym.make(
        "tokengym/TokenGeneration-v0",
        tokenizer=tokenizer,
        prompts=[ASK],
        template_date="2031-02-03",
        partner=lambda *asked: "why",
        max_turns=2,
        max_new_tokens=60,
        reward="uniform",
        scorer=lambda response: 0.0,
    ).unwrapped
    env.reset(seed=0)
    observation = env.step(env.vocabulary.end_ids[0])[0]
    shown = tokenizer.decode(observation["input_ids"][observation["attention_mask"] > 0])
    assert "why 2031" in shown


@pytest.mark.parametrize("date", ["29.11.2026", "", "2026-02-30", 20261129])
def test_what_is_no_date_is_refused(dated, date):
    with pytest.raises(SettingsError, match="template_date must be a date"):
        env_of(dated[0], template_date=date)


def test_a_date_that_no_template_asks_for_is_refused(dated):
    tokenizer, _ = dated
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(SettingsError, match="template_date='2031-02-03' has no effect"):
        env_of(tokenizer, template_date="2031-02-03")
