# mypy: no-check-untyped-defs
"""The registered ids under stock tools of Gymnasium and Stable-Baselines3, as a newcomer types."""

import warnings
from importlib.metadata import requires

import gymnasium
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from tests.support.forked import execute, forked
from tokengym.envs import SettingsError

NAME = "tokengym/MovieReview-v0"
SCORED_THEN_FORKED = """
import gymnasium, numpy, torch, tokengym
torch.set_num_threads(4)
options = {"reward": "abc", "max_new_tokens": 4}
env = gymnasium.make("tokengym/MovieReview-v0", **options)
env.reset(seed=0)
for _ in range(4):
    *_, info = env.step(7)
envs = gymnasium.make_vec(
    "tokengym/MovieReview-v0", num_envs=2, vectorization_mode="async", **options
)
envs.reset(seed=[0, 0])
for _ in range(4):
    *_, infos = envs.step(numpy.array([7, 7]))
envs.close()
assert infos["score"].tolist() == [info["score"]] * 2, (infos["score"], info["score"])
assert torch.get_num_threads() == 4
"""


def test_an_unknown_argument_is_said_in_pythons_words():
    """TorchRL tries frameskip=, and leaves it out where it reads them."""
    said = r"got an unexpected keyword argument 'frameskip'; it has .*max_new_tokens"
    with pytest.raises(TypeError, match=said):
        gymnasium.make(NAME, frameskip=1)


def test_copies_in_other_processes_score_after_the_parent_has():
    forked(execute, SCORED_THEN_FORKED)


def test_stable_baselines3_takes_an_id():
    settings = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "device": "cpu"}
    PPO("MultiInputPolicy", NAME, **settings).learn(8)
    PPO("MultiInputPolicy", make_vec_env(NAME, n_envs=2), **settings).learn(16)
    for kind in (SettingsError, TypeError):
        with pytest.raises(kind, match=r"got 'rgb_array'.*RecordVideo.*'html'"):
            gymnasium.make(NAME, render_mode="rgb_array")


@pytest.mark.parametrize("limit", ["max_episode_steps", "TimeLimit"])
def test_a_time_limit_that_leaves_every_score_unpaid_is_named(limit):
    if limit == "TimeLimit":
        env = TimeLimit(gymnasium.make(NAME, max_new_tokens=8), 5)
    else:
        env = gymnasium.make(NAME, max_new_tokens=8, max_episode_steps=5)
    remedy = r"3 episodes.*5 tokens.*TimeLimit.*max_new_tokens=5"
    with pytest.warns(UserWarning, match=remedy) as caught:
        play(env, times=9)
    assert len(caught) == 1


def test_episodes_that_end_by_themselves_are_not_taken_for_cut_ones():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for env in (
            gymnasium.make(NAME, max_new_tokens=5, max_episode_steps=5),
            gymnasium.make(NAME, max_new_tokens=5, horizon="truncated"),
        ):
            play(env, times=9)


@pytest.mark.parametrize(
    ("make", "option", "words"),
    [
        (gymnasium.make_vec, {"max_episode_steps": 5}, r"max_new_tokens=5"),
        (gymnasium.make, {"num_envs": 8}, rf"gym.make_vec\('{NAME}', num_envs=8\)"),
    ],
)
def test_words_of_other_libraries_get_the_remedy_by_its_name(make, option, words):
    with pytest.raises(TypeError, match=words):
        make(NAME, **option)


def test_what_gymnasiums_conversions_need_is_installed_with_the_package():
    needed = [name for name in requires("tokengym") or () if "extra ==" not in name]
    assert any(name.startswith("array-api-compat") for name in needed)


def play(env, times):
    for _ in range(times):
        env.reset(seed=0)
        over = False
        while not over:
            _, _, terminated, truncated, _ = env.step(7)
            over = terminated or truncated
