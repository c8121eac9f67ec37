"""What the batch does beyond being equal to ``SyncVectorEnv`` (test_sync_equality.py)."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tokengym.envs import (
    ActionError,
    EncodedPrompt,
    EpisodeOverError,
    Prompt,
    SettingsError,
    StateError,
    TokenGymError,
    episodes_from_infos,
)

PAD, EOS, UNK, A, B, C, D, E = range(8)
MakeEnvs = Callable[..., Any]


def test_disabled_rows_freeze_until_they_are_reset(make_envs):
    envs = make_envs(autoreset_mode="Disabled", min_new_tokens=1)
    envs.reset(seed=0)
    envs.step(np.array([A, A, A]))
    observations, _, terminated, _, infos = envs.step(np.array([EOS, B, B]))
    assert terminated.tolist() == [True, False, False]
    assert infos["_action_mask"].tolist() == [True] * 3
    frozen = observations["input_ids"][0].copy()
    # The frozen row's action is ignored, also one outside the vocabulary.
    observations, rewards, terminated, truncated, infos = envs.step(np.array([99, C, C]))
    assert terminated.tolist() == [True, False, False]
    assert (truncated.tolist(), rewards.tolist()) == ([False] * 3, [0.0] * 3)
    assert observations["input_ids"][0].tolist() == frozen.tolist()
    assert observations["input_ids"][1].tolist()[3:] == [A, B, C, PAD]
    assert infos["_action_mask"].tolist() == [False, True, True]
    assert infos["action_mask"][0].any()
    assert episodes_from_infos(infos) == {}
    mask = np.array([True, False, False])
    options = {"reset_mask": mask, "prompt_id": 1}
    observations, infos = envs.reset(options=options)
    assert set(options) == {"reset_mask", "prompt_id"}
    assert observations["input_ids"][0].tolist() == [PAD, PAD, C, PAD, PAD, PAD, PAD]
    assert infos["_prompt"].tolist() == [True, False, False]
    _, _, terminated, _, infos = envs.step(np.array([A, D, EOS]))
    assert terminated.tolist() == [False, True, True]
    episodes = episodes_from_infos(infos)
    assert {row: e.finish_reason for row, e in episodes.items()} == {1: "length", 2: "eos"}
    assert episodes[1].response_ids == (A, B, C, D)


def test_live_views_do_not_copy(make_envs):
    envs = make_envs(copy=False)
    first, _ = envs.reset(seed=0)
    second = envs.step(np.array([A, B, C]))[0]
    assert first["input_ids"][:, 3].tolist() == [A, B, C]
    assert np.shares_memory(first["input_ids"], second["input_ids"])
    with pytest.raises(ValueError, match="read-only"):
        second["input_ids"][0, 0] = 1
    kept = make_envs()
    first, _ = kept.reset(seed=0)
    kept.step(np.array([A, B, C]))
    assert first["input_ids"][:, 3].tolist() == [PAD] * 3


def test_infos_are_fresh_and_writable(make_envs):
    envs = make_envs()
    envs.reset(seed=0)
    infos = envs.step(np.array([EOS, A, A]))[4]
    infos["score"][:], infos["token_rewards"][0, 0] = 3.0, 3.0
    infos["score_parts"]["x"] = np.ones(3)
    later = envs.step(np.array([A, EOS, A]))[4]
    assert not later["score"].any()
    assert not later["token_rewards"].any()
    assert later["score_parts"] == {}


def test_states_move_between_single_and_batch(make_env, make_envs):
    env, envs = make_env(), make_envs(prompt_sampling="uniform")
    env.reset(seed=11, options={"prompt": "d d"})
    env.step(B)
    state = env.get_state()
    observations, infos = envs.set_state(state)
    assert observations["input_ids"].tolist() == [[PAD, D, D, B, PAD, PAD, PAD]] * 3
    assert infos["prompt"].tolist() == ["d d"] * 3
    episodes = episodes_from_infos(envs.step(np.array([EOS, C, EOS]))[4])
    assert episodes[0].response_ids == (B, EOS)
    assert episodes[0].prompt == "d d"
    rows = envs.get_state()
    assert env.set_state(rows[1])[0]["input_ids"].tolist() == [PAD, D, D, B, C, PAD, PAD]
    # NEXT_STEP: rows restored after their end are reset by the next step, from the same generator.
    twin = make_envs()
    twin.set_state(rows)
    left, right = envs.step(np.array([A, A, A])), twin.step(np.array([A, A, A]))
    assert left[4]["prompt_id"].tolist() == right[4]["prompt_id"].tolist()
    assert np.array_equal(left[0]["input_ids"], right[0]["input_ids"])


def test_a_state_that_does_not_fit_leaves_the_batch_alone(make_envs):
    envs = make_envs(prompt_sampling="epoch")
    with pytest.raises(EpisodeOverError, match=r"get_state.*before.*reset"):
        envs.get_state()
    envs.reset(seed=0)
    before = envs.get_state()
    with pytest.raises(StateError, match="per row, 3, got 2"):
        envs.set_state(before[:2])
    with pytest.raises(StateError, match=r"response_ids has id 9"):
        envs.set_state([before[1], before[0], before[2] | {"response_ids": [9]}])
    with pytest.raises(StateError, match=r"sampler.*'epoch' and 5 prompts"):  # it lacks its order
        envs.set_state([before[1], before[0], before[2] | {"sampler": {"drawn": 1, "order": []}}])
    with pytest.raises(StateError, match="per row, got 3"):
        envs.set_state(3)
    assert envs.get_state() == before


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.array([1, 8, 1]), r"row 1.*0 to 7, got 8"),
        (np.array([1, 1, -1]), r"row 2.*got -1"),
        (np.array([1, 1]), r"\(3,\), got int64.*\(2,\)"),
        (np.ones(3), r"\(3,\), got float64"),
    ],
)
def test_bad_actions(make_envs, actions, message):
    envs = make_envs()
    envs.reset(seed=0)
    with pytest.raises(ActionError, match=message):
        envs.step(actions)


def test_actions_of_any_integer_kind(make_envs):
    envs = make_envs()
    envs.reset(seed=0)
    for actions in ([A, B, C], np.array([A, B, C], np.uint8), (np.int32(A), B, C)):
        observations = envs.step(actions)[0]
    assert observations["input_ids"][:, 5].tolist() == [A, B, C]


def test_rows_must_be_reset_before_they_step(make_envs):
    envs = make_envs(autoreset_mode="Disabled")
    with pytest.raises(EpisodeOverError, match=r"row 0.*envs\.reset\(\)"):
        envs.step(np.array([A, A, A]))
    envs.reset(options={"reset_mask": np.array([True, True, False])})
    with pytest.raises(EpisodeOverError, match=r"row 2.*reset"):
        envs.step(np.array([A, A, A]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_envs": 0}, "num_envs.*1, got 0"),
        ({"num_envs": "4"}, "num_envs.*got '4'.*4"),
        ({"autoreset_mode": "never"}, r"'NextStep', 'SameStep', 'Disabled', got 'never'"),
        ({"render_mode": "human"}, "'ansi', 'html'.*got 'human'"),
    ],
)
def test_bad_settings(make_envs, settings, message):
    with pytest.raises(SettingsError, match=message):
        make_envs(**settings)


def test_seeds_of_an_array_are_those_of_a_list(make_envs):
    drawn = [
        make_envs().reset(seed=seeds)[1]["prompt_id"].tolist()
        for seeds in ([1, 2, 3], np.array([1, 2, 3]), np.array([1, 2, 3], dtype=np.uint8))
    ]
    assert drawn[0] == drawn[1] == drawn[2]


def test_rendering(make_envs):
    envs = make_envs(num_envs=2, render_mode="ansi", prompt_sampling="sequential")
    envs.reset()
    infos = envs.step(np.array([EOS, C]))[4]
    envs.show_token_rewards(infos["token_rewards"] + 1, rows=[0])
    first, second = envs.render()
    assert first.startswith("\x1b[1ma b\x1b[0m\x1b[48;2;67;147;195m")
    assert second == "\x1b[1mc\x1b[0m c"
    envs.step(np.array([C, C]))
    assert "48;2" not in envs.render()[0]
    with pytest.warns(UserWarning, match="render_mode='ansi'.*'html'"):
        assert make_envs().render() is None


BEGINNINGS: dict[str, Callable[[Any], Any]] = {
    "reset": lambda envs: envs.reset(),
    "its own reset": lambda envs: envs.reset(options={"reset_mask": np.array([True, False])}),
    "a step": lambda envs: envs.step(np.array([C, C])),
}


@pytest.mark.parametrize("begin", BEGINNINGS)
def test_a_text_is_not_coloured_by_the_episode_before_it(make_envs, begin):
    envs = make_envs(num_envs=2, render_mode="ansi")
    envs.reset()
    envs.step(np.array([EOS, C]))
    envs.show_token_rewards(np.ones((2, 4)), rows=[0])
    assert "48;2" in envs.render()[0]
    BEGINNINGS[begin](envs)
    envs.hold_after_end(True)  # as `collect` does, whose steps pay nothing
    terminated = envs.step(np.array([EOS, C]))[2]
    assert terminated[0]
    assert "48;2" not in envs.render()[0]


def rows_like_single_resets(make_env: Any, envs: Any, reset: Any, options: list[Any]) -> None:
    """Fail unless a batch that was just reset is, row by row, single environments' reset."""
    observations, infos = reset
    for row, option in enumerate(options):
        env = make_env(max_prompt_tokens=envs.max_prompt_tokens)
        observation, info = env.reset(options=option)
        for key, value in observation.items():
            np.testing.assert_array_equal(observations[key][row], value)
        assert (infos["prompt"][row], infos["prompt_id"][row]) == (
            info["prompt"],
            info["prompt_id"],
        )
        ended, ended_infos = envs.get_state()[row], env.get_state()
        for key in ("prompt", "prompt_id", "prompt_ids", "reference", "query_type"):
            assert ended[key] == ended_infos[key]


def test_one_prompt_per_row(make_env, make_envs):
    envs = make_envs()
    asked = ["e e", Prompt("d", reference="a", metadata={"item": [1]}), envs.find_prompt([3, 4])]
    reset = envs.reset(seed=0, options={"prompts": asked})
    rows_like_single_resets(make_env, envs, reset, [{"prompt": prompt} for prompt in asked])
    assert reset[1]["prompt_id"].tolist() == [-1, -1, 0]
    state = envs.get_state()
    assert (state[1]["reference"], state[1]["metadata"]) == ("a", {"item": [1]})
    assert envs.set_state(state)[1]["prompt"].tolist() == ["e e", "d", "a b"]
    assert envs.get_state() == state
    for ids in ([4, 0, 0], np.array([2, 2, 1])):
        reset = envs.reset(options={"prompt_ids": ids})
        rows_like_single_resets(make_env, envs, reset, [{"prompt_id": i} for i in ids])


@pytest.mark.parametrize("sampling", ["uniform", "epoch", "sequential"])
def test_groups_share_the_prompt_that_their_first_row_draws(make_envs, sampling):
    envs = make_envs(num_envs=6, prompt_sampling=sampling, autoreset_mode="Disabled")
    rounds = [envs.reset(seed=3, options={"group_size": 2})[1]["prompt_id"]]
    rounds += [envs.reset(options={"group_size": 2})[1]["prompt_id"] for _ in range(4)]
    for drawn in rounds:
        np.testing.assert_array_equal(drawn[::2], drawn[1::2])
    plain = make_envs(num_envs=6, prompt_sampling=sampling, autoreset_mode="Disabled")
    if sampling != "uniform":
        epochs = np.concatenate(rounds)[::2].reshape(3, 5)
        assert np.sort(epochs).tolist() == [[0, 1, 2, 3, 4]] * 3
        assert (sampling == "sequential") == (epochs == np.arange(5)).all()
    else:
        for seed, drawn in zip([3, None, None], rounds, strict=False):
            np.testing.assert_array_equal(plain.reset(seed=seed)[1]["prompt_id"][::2], drawn[::2])
    mask = np.array([False, False, True, True, False, False])
    infos = envs.reset(options={"group_size": 2, "reset_mask": mask})[1]
    assert infos["_prompt"].tolist() == mask.tolist()
    assert len(set(infos["prompt_id"][mask].tolist())) == 1


@pytest.mark.parametrize("seed", [3, None])
def test_an_epoch_plays_each_prompt_as_often(make_envs, seed):
    """The rows share its permutation: of one each, they would play some prompts twice."""
    envs = make_envs(num_envs=4, prompt_sampling="epoch", autoreset_mode="Disabled")
    drawn = [envs.reset(seed=seed)[1]["prompt_id"]]
    drawn += [envs.reset()[1]["prompt_id"] for _ in range(4)]
    epochs = np.concatenate(drawn).reshape(4, 5)
    assert np.sort(epochs).tolist() == [[0, 1, 2, 3, 4]] * 4
    assert (epochs != epochs[0]).any()


def test_prompts_are_found_by_their_tokens(make_env, make_envs):
    for env in (make_env(prompts=["a b", "c", "a b"]), make_envs(prompts=["a b", "c", "a b"])):
        assert env.find_prompt(np.array([3, 4])) == EncodedPrompt("a b", (3, 4), 0)
        assert env.find_prompt([4, 4]) == EncodedPrompt("b b", (4, 4), -1)
        assert env.find_prompt([4, 4], "B") == EncodedPrompt("B", (4, 4), -1)


def test_deep_copies_are_independent(make_envs):
    envs = make_envs()
    envs.reset(seed=0)
    twin = copy.deepcopy(envs)
    twin.step(np.array([B, B, B]))
    left = envs.step(np.array([C, C, C]))[0]["input_ids"]
    right = twin.step(np.array([D, D, D]))[0]["input_ids"]
    assert left[:, 3:].tolist() == [[C, PAD, PAD, PAD]] * 3
    assert right[:, 3:].tolist() == [[B, D, PAD, PAD]] * 3


def test_prompts_of_rows_that_are_not_reset_are_ignored(make_envs):
    envs = make_envs(autoreset_mode="Disabled")
    before = envs.reset(seed=0)[0]["input_ids"]
    mask = np.array([False, True, False])
    options = {"reset_mask": mask, "prompts": [None, "e e", None]}
    observations, infos = envs.reset(options=options)
    assert set(options) == {"reset_mask", "prompts"}
    assert infos["prompt"].tolist() == [None, "e e", None]
    np.testing.assert_array_equal(observations["input_ids"][[0, 2]], before[[0, 2]])
    assert envs.reset(options={"reset_mask": mask, "prompt_ids": [9, 2, 9]})[1]["prompt_id"][1] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_id": 7}, "0 to 4, got 7"),
        ({"prompts": ["a", "b"]}, r"options\['prompts'\].*3, got 2"),
        ({"prompts": "abc"}, "must.*3, got 'abc'"),
        ({"prompt_ids": 3}, r"options\['prompt_ids'\].*3, got 3"),
        ({"prompt_ids": [0, 1, 9]}, "prompt_id.*0.*4, got 9"),
        ({"prompts": ["a", "", "b"]}, r"options\['prompts'\]\[1\].*got ''"),
        ({"prompts": ["a"] * 3, "prompt_ids": [0] * 3}, r"'prompts'.*'prompt_ids'"),
        ({"prompt_id": 0, "group_size": 3}, r"'prompt_id'.*'group_size'"),
        ({"group_size": 2}, "3.*got 2.*num_envs"),
        ({"group_size": True}, "3 rows, got True"),
        ({"group_size": 3, "reset_mask": np.array([True, True, False])}, "group_size=3"),
        ({"promts": []}, "reset.*'promts'.*'prompts'"),
        ({"prompts": [EncodedPrompt("x", (4,), 0), "a", "b"]}, "prompt_id 0"),
        ({"responses": [[A]]}, r"\['responses'\].*per row, 3"),
        ({"reset_mask": [True, False, False]}, r"\(3,\), got \[True"),
        ({"reset_mask": np.ones(2, bool)}, r"got bool \(2,\)"),
        ({"reset_mask": np.zeros(3, bool)}, r"no row.*True"),
        (3, "reset.*got 3"),
    ],
)
def test_options_that_are_refused_change_nothing(make_envs, options, message):
    envs = make_envs()
    envs.reset(seed=0)
    before = envs.get_state()
    with pytest.raises(TokenGymError, match=message):
        envs.reset(seed=5, options=options)
    assert envs.get_state() == before


@pytest.mark.parametrize("seed", [3.5, [1, 2], [1, 2.5, None], "abc"])
def test_bad_seeds(make_envs, seed):
    with pytest.raises(SettingsError, match=r"seed.*got"):
        make_envs().reset(seed=seed)
