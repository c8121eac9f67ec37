"""Traces of the single environment, worked by hand over the word-level stub.

pad 0, eos 1, unk 2, a 3, b 4, c 5, d 6, e 7; prompts "a b", "c", "d e a", "b b b", "e".
"""

import copy
import json
import pickle
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from tokengym.envs import (
    ActionError,
    Episode,
    EpisodeOverError,
    Prompt,
    PromptError,
    SettingsError,
    StateError,
)
from tokengym.envs.prompts.sampler import PromptSampler

PAD, EOS, UNK, A, B, C, D, E = range(8)


def play(env: Any, actions: list[int], **reset: Any) -> list[tuple[Any, ...]]:
    env.reset(**reset)
    return [env.step(action) for action in actions]


def test_trace_to_the_horizon(make_env):
    env = make_env()
    observation, info = env.reset(seed=0, options={"prompt_id": 0})
    assert observation["input_ids"].tolist() == [PAD, A, B, PAD, PAD, PAD, PAD]
    assert observation["attention_mask"].tolist() == [0, 1, 1, 0, 0, 0, 0]
    assert (info["prompt"], info["prompt_id"]) == ("a b", 0)
    assert info["action_mask"].tolist() == [1] * 8
    assert info["action_mask"].dtype == np.int8

    observation, reward, terminated, truncated, info = env.step(np.int64(C))
    assert observation["input_ids"].tolist() == [PAD, A, B, C, PAD, PAD, PAD]
    assert observation["attention_mask"].tolist() == [0, 1, 1, 1, 0, 0, 0]
    assert (reward, terminated, truncated, list(info)) == (0.0, False, False, ["action_mask"])

    env.step(PAD)  # padding as an action is a token like any other
    env.step(D)
    observation, reward, terminated, truncated, info = env.step(E)
    assert observation["input_ids"].tolist() == [PAD, A, B, C, PAD, D, E]
    assert observation["attention_mask"].tolist() == [0, 1, 1, 1, 1, 1, 1]
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert info["prompt_ids"] == (A, B)
    assert info["response_ids"] == (C, PAD, D, E)
    assert info["response"] == "c d e"
    assert info["finish_reason"] == "length"
    assert (info["score"], info["score_parts"]) == (0.0, {})
    assert info["token_rewards"].tolist() == [0.0] * 4
    assert info["token_rewards"].dtype == np.float32


def test_eos_ends_and_belongs_to_the_response(make_env):
    prompts = [Prompt("a", reference="b c", query_type="CONSTRAINED")]
    steps = play(make_env(prompts=prompts), [D, EOS])
    assert [step[2] for step in steps] == [False, True]
    episode = Episode.from_info(steps[-1][4])
    assert episode.response_ids == (D, EOS)
    assert (episode.response, episode.finish_reason) == ("d", "eos")
    assert (episode.reference, episode.query_type) == ("b c", "CONSTRAINED")
    assert episode.score == 0.0


def test_min_new_tokens_forbids_eos_until_then(make_env):
    env = make_env(min_new_tokens=2)
    assert env.reset()[1]["action_mask"][EOS] == 0
    assert not env.action_masks()[EOS]
    legal = [env.step(A)[4]["action_mask"][EOS] for _ in range(2)]
    assert legal == [0, 1]
    assert env.action_masks().dtype == np.bool_
    assert env.step(EOS)[2]


def test_a_masked_eos_is_appended_and_does_not_end(make_env):
    steps = play(make_env(min_new_tokens=2), [EOS, EOS, A, EOS])
    assert [step[2] for step in steps] == [False, False, False, True]
    assert steps[-1][4]["response_ids"] == (EOS, EOS, A, EOS)
    assert steps[-1][4]["finish_reason"] == "eos"
    steps = play(make_env(forbidden_token_ids=[EOS, D]), [EOS, D, EOS, A])
    assert [step[2] for step in steps] == [False, False, False, True]
    assert steps[-1][4]["finish_reason"] == "length"
    assert steps[-1][4]["action_mask"].tolist() == [1, 0, 1, 1, 1, 1, 0, 1]


def test_stop_string_ends_with_the_token_that_completes_it(make_env):
    env = make_env(stop_strings=["b c"])
    steps = play(env, [C, B, C])
    assert [step[2] for step in steps] == [False, False, True]
    assert steps[-1][4]["response"] == "c b c"
    assert steps[-1][4]["finish_reason"] == "stop"
    steps = play(make_env(stop_strings=["b c"], horizon="truncated"), [A, A, B, C])
    assert steps[-1][2:4] == (True, False)


def test_masked_or_early_tokens_never_stop(make_env):
    steps = play(make_env(stop_strings=["c"], forbidden_token_ids=[C]), [A, C, A, A])
    assert [step[2] for step in steps] == [False, False, False, True]
    steps = play(make_env(stop_strings=["c"], min_new_tokens=2), [C, A, C])
    assert [step[2] for step in steps] == [False, False, True]


def test_a_beginning_must_not_complete_a_stop_string(make_env, make_envs):
    said = (
        r"ends the episode .*its first 3 tokens complete a stop string of \['b c'\], 'a b c'; end"
    )
    refused = [A, B, C, A]
    for settings in ({}, {"max_turns": 2, "partner": lambda talk, metadata, rng: "a"}):
        settings |= {"stop_strings": ["b c"], "max_new_tokens": 6}
        env, envs = make_env(**settings), make_envs(num_envs=2, **settings)
        with pytest.raises(SettingsError, match=said):
            env.reset(options={"response": refused})
        with pytest.raises(SettingsError, match=r"\['responses'\]\[1\] ends"):
            envs.reset(options={"responses": [[A], refused]})
    # What was played without an end may begin an episode, as a stop string that came too early.
    settings = {"stop_strings": ["b c"], "max_new_tokens": 6, "min_new_tokens": 4}
    env = make_env(**settings)
    env.reset(options={"response": refused})
    assert env.get_state()["response_ids"] == refused
    assert [step[2] for step in (env.step(B), env.step(C))] == [False, True]


@pytest.mark.parametrize("action", [8, -1, 2.0, "a", None, np.array([1, 2])])
def test_actions_outside_the_vocabulary(make_env, action):
    env = make_env()
    env.reset()
    with pytest.raises(ActionError, match=r"from 0 to 7, got.*token id"):
        env.step(action)


def test_stepping_without_an_episode(make_env):
    env = make_env()
    with pytest.raises(EpisodeOverError, match=r"env\.reset\(\)"):
        env.step(A)
    play(env, [EOS])
    with pytest.raises(gymnasium.error.ResetNeeded, match="episode's end"):
        env.step(A)


def test_data_is_fresh_at_every_step(make_env):
    env = make_env()
    first, info = env.reset(seed=0)
    kept = copy.deepcopy(first)
    info["action_mask"][:] = 0
    second = env.step(A)
    second[0]["input_ids"][:] = 7
    assert all(np.array_equal(first[key], kept[key]) for key in kept)
    assert env.step(B)[0]["input_ids"].tolist()[-4:] == [A, B, PAD, PAD]
    assert env.action_masks().all()


def test_seeded_resets_are_reproducible_and_prompts_vary(make_env):
    env, other = make_env(), make_env()
    drawn = [env.reset(seed=5)[1]["prompt_id"], *(env.reset()[1]["prompt_id"] for _ in range(30))]
    again = [
        other.reset(seed=5)[1]["prompt_id"],
        *(other.reset()[1]["prompt_id"] for _ in range(30)),
    ]
    assert drawn == again
    assert set(drawn) == {0, 1, 2, 3, 4}


def test_sampling_orders(make_env):
    sequential = make_env(prompt_sampling="sequential")
    ids = [sequential.reset()[1]["prompt_id"] for _ in range(7)]
    assert ids == [0, 1, 2, 3, 4, 0, 1]
    assert sequential.reset(seed=1)[1]["prompt_id"] == 0
    shard = make_env(prompt_sampling="sequential", prompt_shard=(1, 2))
    assert [shard.reset()[1]["prompt_id"] for _ in range(4)] == [1, 3, 0, 2]
    older = {"drawn": 1, "order": []}  # as states were
    state = shard.get_state()
    assert shard.set_state({**state, "sampler": older})[1]["prompt_id"] == 2
    assert shard.reset()[1]["prompt_id"] == 3
    epoch = make_env(prompt_sampling="epoch")
    ids = [epoch.reset(seed=3 if i == 0 else None)[1]["prompt_id"] for i in range(15)]
    epochs = [ids[0:5], ids[5:10], ids[10:15]]
    assert [sorted(part) for part in epochs] == [[0, 1, 2, 3, 4]] * 3
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]


def test_an_order_is_kept_as_what_draws_it():
    rng = np.random.Generator(np.random.PCG64(3))
    for count in (7, 100_000):
        sampler = PromptSampler("epoch", count)
        first = [sampler.draw(rng, 3) for _ in range(5)]
        state = json.loads(json.dumps(sampler.get_state()))
        assert state == {"drawn": 5, "seed": 3}  # whatever the number of prompts
        expected = [sampler.draw(rng, 3) for _ in range(10)]
        again = PromptSampler("epoch", count)
        again.set_state(state)
        assert [again.draw(rng, 8) for _ in range(10)] == expected
        assert len({*first, *expected[:2]}) == 7
    for state in ({"drawn": 3, "seed": "x"}, {"drawn": 3, "order": [*range(7)]}, {"seed": 3}):
        with pytest.raises(StateError, match=r"sampler.*prompt_sampling='epoch' and 7 prompts"):
            PromptSampler("epoch", 7).set_state(state)


def test_custom_prompts(make_env):
    env = make_env()
    observation, info = env.reset(options={"prompt": "e e"})
    assert observation["input_ids"].tolist()[:3] == [PAD, E, E]
    assert (info["prompt"], info["prompt_id"]) == ("e e", -1)
    end = env.step(EOS)[4]
    assert (end["prompt"], end["prompt_id"], end["reference"]) == ("e e", -1, None)
    env.reset(options={})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompt": ""}, PromptError, "got ''"),
        ({"prompt": 3}, PromptError, "non-empty str, got 3"),
        ({"prompt": "a a a a"}, PromptError, "4.*max_prompt_tokens=3"),
        ({"prompt_id": 5}, PromptError, "from 0 to 4, got 5"),
        ({"prompt_id": "a"}, PromptError, "from 0 to 4, got 'a'"),
        ({"prompt_id": True}, PromptError, "from 0 to 4, got True; it is the position"),
        ({"prompt_id": 0, "prompt": "a"}, PromptError, "got both"),
        ({"promt": "a"}, SettingsError, r"'promt'.*'prompt'\?"),
        ("x", SettingsError, r"reset.*got 'x'"),
        ({"seed": 3}, SettingsError, "'seed'.*'prompt'.*'prompt_id'"),
        ({"response": "ab"}, SettingsError, r"\['response'\].*got 'ab'"),
        ({"response": [A, 8]}, SettingsError, "0 to 7, got 3 to 8"),
        ({"response": [A] * 4}, SettingsError, "EOS, or 4 of"),
        ({"response": [EOS, A]}, SettingsError, r"before it begins.*EOS"),
    ],
)
def test_bad_options(make_env, options, error, message):
    env = make_env()
    with pytest.raises(error, match=message):
        env.reset(options=options)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_new_tokens": 2.5}, SettingsError, "max_new_tokens.*>= 1, got 2.5"),
        ({"max_prompt_tokens": 0}, SettingsError, "max_prompt_tokens.*>= 1.*got 0"),
        ({"min_new_tokens": 5}, SettingsError, "max_new_tokens=4, got 5"),
        ({"min_new_tokens": -1}, SettingsError, "min_new_tokens.*>= 0, got -1"),
        ({"horizon": "end"}, SettingsError, "'truncated', got 'end'"),
        ({"overlong": "right"}, SettingsError, "'drop', got 'right'"),
        ({"prompt_sampling": "x"}, SettingsError, "'sequential', got 'x'"),
        ({"prompt_shard": (2, 2)}, SettingsError, r"0 <=.*<.*got \(2, 2\)"),
        ({"prompt_shard": 2}, SettingsError, "prompt_shard.*got 2"),
        ({"stop_strings": "ab"}, SettingsError, "got 'ab'"),
        ({"stop_strings": [""]}, SettingsError, r"non-empty strings, got \(''"),
        ({"render_mode": "rgb"}, SettingsError, "'html' or None, got 'rgb'"),
        ({"max_new_token": 3}, TypeError, r"'max_new_token'.*max_new_tokens"),
        ({"forbidden_token_ids": [8]}, ActionError, r"has 8.*vocabulary of 8"),
        ({"forbidden_token_ids": range(8)}, ActionError, "all 8 tokens"),
        (
            {"forbidden_token_ids": [0, *range(2, 8)], "min_new_tokens": 1},
            ActionError,
            "min_new_tokens=1",
        ),
        ({"prompts": []}, PromptError, "0 prompts"),
        ({"prompts": ["a", " "]}, PromptError, "prompt 1: .* empty"),
        ({"prompts": "a b"}, TypeError, r"got str 'a b'.*dataset="),
        ({"prompts": ["a", 3]}, TypeError, r"prompt 1.*got int"),
        ({"max_prompt_tokens": 2}, PromptError, "2.*3.*max_prompt_tokens=2"),
        (
            {"max_prompt_tokens": 2, "overlong": "drop", "prompts": ["a a a"]},
            PromptError,
            r"'drop' leaves no prompt: the shortest of 1 has 3 tokens.*max_prompt_tokens=2.*'left'",
        ),
        ({"prompts": {"a": 1}}, TypeError, r"got dict \{'a': 1\}; put them in a list"),
    ],
)
def test_bad_settings(make_env, settings, error, message):
    with pytest.raises(error, match=message):
        make_env(**settings)


def test_a_prompt_given_to_reset_is_cut_or_refused_as_those_of_the_set(make_env):
    left = make_env(max_prompt_tokens=2, overlong="left")
    observation, info = left.reset(options={"prompt": "a b c d"})
    assert (observation["input_ids"].tolist()[:2], info["prompt"]) == ([C, D], "c d")
    with pytest.raises(PromptError, match=r"3.*max_prompt_tokens=2"):
        make_env(max_prompt_tokens=2, overlong="drop").reset(options={"prompt": "a a a"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_ids": [A] * 4}, "prompt_ids.*4.*3"),
        ({"response_ids": [9]}, "response_ids.*9.*8"),
        ({"prompt_id": 9}, "prompt 9 of 5"),
        ({"prompt_ids": [A]}, r"prompt \d of 5 is '.*', here.*'.*'"),
        ({"prompt_ids": [], "prompt_id": -1}, "prompt_ids has 0"),
        ({"extra": 1}, r"get_state\(\).*got keys"),
        *(
            ({name: value}, r"get_state\(\).*another kind")
            for name, value in [
                ("np_random", {"bit_generator": "MT19937"}),
                ("np_random", 3),
                ("np_random_seed", 3.5),
                ("prompt_id", "x"),
                ("response_ids", "ab"),
                ("response_ids", [[1], [2, 3]]),
                ("metadata", 3),
                ("prompt", 3),
                ("reference", 3),
                ("query_type", 3),
                ("terminated", "no"),
                ("truncated", None),
            ]
        ),
        *(
            ({"sampler": sampler}, r"sampler.*get_state\(\).*prompt_sampling='uniform' and 5")
            for sampler in [
                None,
                {"drawn": "x", "seed": None},
                {"drawn": -1, "seed": None},
                {"drawn": 1, "seed": [0]},
            ]
        ),
    ],
)
def test_states_that_do_not_fit(make_env, change, message):
    env = make_env()
    env.reset(seed=0)
    env.step(A)
    before = env.get_state()
    with pytest.raises(StateError, match=message):
        env.set_state(before | change)
    assert env.get_state() == before


def test_state_needs_an_episode(make_env):
    with pytest.raises(EpisodeOverError, match=r"get_state.*before.*reset"):
        make_env().get_state()
    with pytest.raises(StateError, match="got a list"):
        make_env().set_state([])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_deep_copies_are_independent(make_env, copied):
    env = make_env()
    env.reset(seed=0)
    env.step(A)
    twin = copied(env)
    twin.step(B)
    assert env.step(C)[0]["input_ids"].tolist()[3:] == [A, C, PAD, PAD]
    assert twin.step(D)[0]["input_ids"].tolist()[3:] == [A, B, D, PAD]


def test_rendering_modes(make_env, capsys):
    ansi = make_env(render_mode="ansi")
    play(ansi, [C, EOS], options={"prompt_id": 0})
    assert ansi.render() == "\x1b[1ma b\x1b[0m c<eos>"
    ansi.show_token_rewards(np.array([1.0, -0.5]))
    assert "\x1b[48;2;67;147;195m" in ansi.render()
    html = make_env(render_mode="html")
    play(html, [C], options={"prompt": "a <b>"})
    assert "<b>a &lt;b&gt;</b><span> c</span>" in html.render()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("is_terminal", [True, False])
def test_human_prints_as_it_grows(make_env, capsys, monkeypatch, is_terminal):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    env = make_env(render_mode="human")
    env.reset(options={"prompt_id": 0})
    assert capsys.readouterr().out == ("\n\x1b[1ma b\x1b[0m" if is_terminal else "\na b")
    env.step(C)
    assert capsys.readouterr().out == " c"
    env.step(D)
    assert capsys.readouterr().out == " d"
    env.step(EOS)
    assert capsys.readouterr().out == "<eos>\n"
    env.show_token_rewards(np.ones(3))
    shown = capsys.readouterr().out
    assert ("\x1b[48;2;67;147;195m" in shown) == is_terminal
    assert is_terminal or shown == "a b c d<eos>\n"
    assert env.render() is None


def test_render_needs_a_mode_and_an_episode(make_env):
    with pytest.warns(UserWarning, match=r"render_mode='ansi', 'human'.*'html'"):
        assert make_env().render() is None
    with pytest.raises(EpisodeOverError, match=r"render.*before.*reset"):
        make_env(render_mode="ansi").render()


def test_state_of_an_ended_episode_stays_ended(make_env):
    env = make_env()
    play(env, [EOS])
    state = env.get_state()
    env.reset()
    env.set_state(state)
    with pytest.raises(EpisodeOverError, match="episode's end"):
        env.step(A)
