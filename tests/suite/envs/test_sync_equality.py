"""The batch against ``SyncVectorEnv`` over copies of the single environment, step by step."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.support.partners import Several, failing, sleeper, teacher
from tokengym.base.settings import names_of
from tokengym.envs import (
    GenerationSettings,
    PartnerError,
    Prompt,
    PromptError,
    SettingsError,
    episodes_from_infos,
)
from tokengym.envs.episode import Info

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "legality": {"min_new_tokens": 2, "forbidden_token_ids": (4,)},
    "truncated": {"horizon": "truncated", "min_new_tokens": 1},
    "stops": {"stop_strings": ("a b", "c"), "min_new_tokens": 1},
    "ends": {"eos_token": ("<eos>", "e", "d"), "min_new_tokens": 1, "forbidden_token_ids": (6,)},
    "epoch": {"prompt_sampling": "epoch"},
    "sequential": {"prompt_sampling": "sequential"},
    "left": {"max_prompt_tokens": 2, "overlong": "left"},
    "drop": {"max_prompt_tokens": 2, "overlong": "drop"},
    "eos_forbidden": {"forbidden_token_ids": (1,)},
    "one_token": {"max_new_tokens": 1},
    "positions": {"allowed_token_ids": ((3,), (4, 5), (3,)), "min_new_tokens": 1},
    "chat": {"chat_template": True},
    "dated_chat": {"chat_template": True, "template_date": "2031-01-31"},
    "frame": {"prompt_format": "e {prompt} d"},
    "one_turn": {"partner": teacher},
    "turns": {
        "partner": teacher,
        "max_turns": 3,
        "max_turn_tokens": 2,
        "max_new_tokens": 7,
        "horizon": "truncated",
    },
    "turn_legality": {
        "partner": Several(),
        "max_turns": 2,
        "min_new_tokens": 1,
        "stop_strings": ("a b", "c"),
        "allowed_token_ids": ((3, 4, 5), (4, 5)),
        "max_new_tokens": 12,
    },
    "turn_chat": {
        "partner": teacher,
        "max_turns": 2,
        "chat_template": True,
        "max_new_tokens": 9,
        "prompt_sampling": "epoch",
    },
    "long_replies": {
        "partner": teacher,
        "max_turns": 2,
        "max_new_tokens": 9,
        "max_reply_tokens": 2,
        "on_partner_error": "skip",
    },
    "slow_partner": {
        "partner": sleeper,
        "max_turns": 2,
        "partner_timeout": 0.5,
        "on_partner_error": "skip",
    },
    "failing_partner": {"partner": failing, "max_turns": 2, "on_partner_error": "skip"},
}
"""One case or more for each option of the environment: a new one needs its own here."""
CHAT_TEMPLATE = (
    "{{ 'a' if strftime_now('%Y') == '2031' else 'e' }}"
    "{% for m in messages %} {{ m.content }} d{% endfor %} "
)
ROWS = 5


def assert_same(left: Any, right: Any, path: str = "") -> None:
    """Fail unless two nested structures have equal values, types, shapes and dtypes."""
    # The batch's infos are a dict of our own type; Gymnasium makes plain ones of the copies' infos.
    assert (type(left), type(right)) == (Info, dict) or type(left) is type(right), path
    if isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            assert_same(left[key], right[key], f"{path}/{key}")
    elif isinstance(left, tuple):
        assert len(left) == len(right), path
        for place, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{path}[{place}]")
    elif isinstance(left, np.ndarray):
        assert (left.shape, left.dtype) == (right.shape, right.dtype), path
        if left.dtype == object:
            for place, pair in enumerate(zip(left, right, strict=True)):
                assert_same(*pair, f"{path}[{place}]")
        else:
            np.testing.assert_array_equal(left, right, err_msg=path)
    else:
        assert left == right, path


def assert_same_episodes(left: dict[int, Any], right: dict[int, Any]) -> None:
    assert left == right
    for row, episode in left.items():
        np.testing.assert_array_equal(episode.token_rewards, right[row].token_rewards)


@pytest.fixture
def make_pair(
    make_env: Callable[..., Any], make_envs: Callable[..., Any], build_tokenizer: Callable[..., Any]
) -> Callable[..., Any]:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE

    def build(mode: AutoresetMode, **settings: Any) -> tuple[Any, SyncVectorEnv]:
        settings["tokenizer"] = tokenizer
        native = make_envs(num_envs=ROWS, autoreset_mode=mode, **settings)
        copies = [
            lambda row=row: make_env(prompt_shard=(row, ROWS), **settings) for row in range(ROWS)
        ]
        return native, SyncVectorEnv(copies, autoreset_mode=mode)

    return build


@pytest.mark.parametrize("option", names_of(GenerationSettings))
def test_every_option_has_a_case_in_which_it_matters(option, make_pair):
    """Without the option the batch does something else, or nothing at all."""
    cases = [settings for settings in SETTINGS.values() if option in settings]
    assert cases, f"SETTINGS has no case of {option}, so that single and batch may differ in it"
    for settings in cases:
        rest = {name: value for name, value in settings.items() if name != option}
        try:
            without, _ = make_pair(AutoresetMode.NEXT_STEP, **rest)
        except (PromptError, SettingsError):  # of overlong prompts, and of turns without a partner
            continue
        envs, _ = make_pair(AutoresetMode.NEXT_STEP, **settings)
        with pytest.raises((AssertionError, PartnerError)):
            assert_same(trace(envs), trace(without))


def trace(envs: Any) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    first = envs.reset(seed=7)
    return (first, *(envs.step(rng.integers(0, 6, ROWS)) for _ in range(40)))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("name", SETTINGS)
def test_autoreset_modes(name, mode, make_pair):
    native, sync = make_pair(mode, **SETTINGS[name])
    assert native.observation_space == sync.observation_space
    assert native.action_space == sync.action_space
    assert native.metadata["autoreset_mode"] == sync.metadata["autoreset_mode"]
    rng = np.random.default_rng(0)
    assert_same(native.reset(seed=7), sync.reset(seed=7))
    ended = 0
    for step in range(40):
        actions = rng.integers(0, 6, ROWS)
        left, right = native.step(actions), sync.step(actions)
        assert_same(left, right, f"step {step}")
        assert left[0] in native.observation_space
        episodes = episodes_from_infos(left[4])
        assert_same_episodes(episodes, episodes_from_infos(right[4]))
        assert set(episodes) == set(np.flatnonzero(left[2] | left[3]).tolist())
        np.testing.assert_array_equal(native.action_masks(), sync.call("action_masks"))
        ended += len(episodes)
        if step == 20:
            assert_same(native.reset(seed=[3, None, 5, 1, 1]), sync.reset(seed=[3, None, 5, 1, 1]))
    assert ended > 5


@pytest.mark.parametrize("name", SETTINGS)
def test_disabled_with_reset_mask(name, make_pair):
    native, sync = make_pair(AutoresetMode.DISABLED, **SETTINGS[name])
    rng = np.random.default_rng(1)
    assert_same(native.reset(seed=3), sync.reset(seed=3))
    for step in range(40):
        actions = rng.integers(0, 6, ROWS)
        left, right = native.step(actions), sync.step(actions)
        assert_same(left, right, f"step {step}")
        assert_same_episodes(episodes_from_infos(left[4]), episodes_from_infos(right[4]))
        done = left[2] | left[3]
        if done.any():
            seed = 100 + step if step % 2 else None
            choice: dict[str, Any] = {"prompt_id": 1} if step % 3 == 0 else {}
            masks = [{"reset_mask": done.copy(), **choice} for _ in range(2)]
            assert_same(
                native.reset(seed=seed, options=masks[0]), sync.reset(seed=seed, options=masks[1])
            )


@pytest.mark.parametrize("options", [{"prompt": "e d"}, {"prompt_id": 2}])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_chosen_prompts(mode, options, make_pair):
    native, sync = make_pair(mode)
    assert_same(native.reset(seed=0, options=options), sync.reset(seed=0, options=options))
    for step in range(4 if mode is AutoresetMode.DISABLED else 12):
        actions = np.full(ROWS, 3)
        assert_same(native.step(actions), sync.step(actions), f"step {step}")


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_metadata_stays_whole(mode, make_pair):
    # Rows of different kinds, which Gymnasium's stacking of dicts would refuse or spread.
    items: list[dict[str, Any]] = [{"answer": 3}, {}, {"answer": "b", "cases": [1, "x"]}]
    prompts = [Prompt(text, metadata=item) for text, item in zip("abc", items, strict=True)]
    native, sync = make_pair(mode, prompts=prompts, max_new_tokens=1)
    options = {"prompt_id": 2}
    assert_same(native.reset(seed=0, options=options), sync.reset(seed=0, options=options))
    played, copies = native.step([3] * ROWS), sync.step([3] * ROWS)
    assert_same(played, copies)
    episodes = episodes_from_infos(played[4])
    assert [episodes[row].metadata for row in range(ROWS)] == [items[2]] * ROWS
    assert episodes_from_infos(copies[4])[0].metadata == items[2]


A, B = 3, 4


def test_responses_can_be_begun(make_env, make_envs):
    begun = [[A], [], [B, A, B]]
    envs = make_envs(num_envs=3, min_new_tokens=2)
    observation, infos = envs.reset(options={"prompt_ids": [2, 0, 1], "responses": begun})
    for row, (prompt_id, response) in enumerate(zip([2, 0, 1], begun, strict=True)):
        single = make_env(min_new_tokens=2)
        alone, info = single.reset(options={"prompt_id": prompt_id, "response": response})
        assert (alone["input_ids"] == observation["input_ids"][row]).all()
        assert (alone["attention_mask"] == observation["attention_mask"][row]).all()
        assert (info["action_mask"] == infos["action_mask"][row]).all()
        # As if the tokens had been played.
        played = make_env(min_new_tokens=2)
        last, _ = played.reset(options={"prompt_id": prompt_id})
        for token in response:
            last = played.step(token)[0]
        assert (last["input_ids"] == alone["input_ids"]).all()
        assert single.get_state()["response_ids"] == played.get_state()["response_ids"] == response
    with pytest.raises(SettingsError, match=r"\['responses'\].*per row, 3"):
        envs.reset(options={"responses": [[A]]})
