"""Habits of Stable-Baselines3's and sb3-contrib's own tests, tried on `tokengym.PPO`.

Each test is one thing that the files named beside it (2.9) do with a model. What is refused says in
one line what to do instead.
"""

import csv
from collections import OrderedDict
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.logger import configure

from tests.support.agents.common import make_model
from tokengym.agents import PPO

TOKENS = 24
"""Tokens of one update, at most."""


class Keeps(BaseCallback):
    """Counts its calls, and ends the training where it is told to."""

    def __init__(self, value: Any = True) -> None:
        super().__init__()
        self.value = value

    def _on_step(self) -> bool:
        return self.value


# --- test_run -------------------------------------------------------------------------------------


def test_an_id_is_made_into_an_environment():
    model = PPO("CausalLMPolicy", "tokengym/MovieReview-v0", seed=0, device="cpu")
    assert model.n_envs == 64
    assert model.env.get_attr("spec")[0].id == "tokengym/MovieReview-v0"
    with pytest.raises(gym.error.Error, match=r"MovieRevew.*MovieReview"):
        PPO("CausalLMPolicy", "tokengym/MovieRevew-v0")


# --- test_predict ---------------------------------------------------------------------------------


def test_predict_takes_one_observation_and_a_batch(make_ppo):
    model = make_ppo()
    batch, _ = model.get_env().envs.reset(seed=0)
    first, second = (model.predict(batch, deterministic=True)[0] for _ in range(2))
    assert (first == second).all()
    assert first.shape == (4,)
    one, _ = model.predict({name: rows[0] for name, rows in batch.items()})
    assert one.shape == ()
    assert model.action_space.contains(one.item())


# --- test_callbacks -------------------------------------------------------------------------------


def test_callbacks_in_a_list_are_all_called(make_ppo, make_envs, tmp_path):
    model, keeps = make_ppo(), Keeps()
    saves = CheckpointCallback(save_freq=1, save_path=str(tmp_path / "event"), name_prefix="event")
    every = EveryNTimesteps(n_steps=TOKENS, callback=saves)
    logs = LogEveryNTimesteps(n_steps=TOKENS)
    model.learn(3 * TOKENS, callback=CallbackList([keeps, every, logs]))
    assert keeps.num_timesteps == model.num_timesteps
    seen = {name: rows[0] for name, rows in keeps.locals["new_obs"].items()}
    assert model.observation_space.contains(seen)
    assert every.num_timesteps == model.num_timesteps
    assert sorted((tmp_path / "event").iterdir())
    loaded = PPO.load(sorted((tmp_path / "event").glob("*steps*"))[0], env=make_envs())
    assert loaded.num_timesteps > 0


@pytest.mark.parametrize(
    ("callback", "most"),
    [
        (Keeps(np.bool_(0)), 4),
        (Keeps(torch.tensor(0, dtype=torch.bool)), 4),
        (StopTrainingOnMaxEpisodes(max_episodes=1), TOKENS),
    ],
)
def test_a_callback_ends_the_training(make_ppo, callback, most):
    model = make_ppo()
    model.learn(50 * TOKENS, callback=callback)
    assert model.num_timesteps <= most


# --- test_logger, test_tensorboard ----------------------------------------------------------------

OF_SB3 = {
    *("rollout/ep_len_mean", "rollout/ep_rew_mean"),
    *("time/fps", "time/iterations", "time/time_elapsed", "time/total_timesteps"),
    *("train/approx_kl", "train/clip_fraction", "train/clip_range", "train/entropy_loss"),
    *("train/explained_variance", "train/learning_rate", "train/loss", "train/n_updates"),
    *("train/policy_gradient_loss", "train/value_loss"),
}
"""Columns of the progress.csv of Stable-Baselines3's PPO."""


def test_progress_csv_has_the_names_of_sb3(make_ppo, tmp_path):
    model = make_ppo(vf_coef=0.5, kl_coef=0.0)
    logger = configure(str(tmp_path), ["csv"])
    model.set_logger(logger)
    for _ in range(2):
        model.learn(TOKENS)
    assert model.logger is logger
    with (tmp_path / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert OF_SB3 <= rows[-1].keys()
    last = {name: float(rows[-1][name]) for name in OF_SB3}
    assert last["train/clip_range"] == pytest.approx(0.2)
    assert last["train/entropy_loss"] == pytest.approx(-float(rows[-1]["train/entropy"]))
    of_terms = last["train/policy_gradient_loss"] + 0.5 * last["train/value_loss"]
    assert last["train/loss"] == pytest.approx(of_terms, rel=1e-4)


def test_means_of_the_log_are_over_so_many_episodes(make_ppo):
    model = make_ppo(stats_window_size=42)
    model.learn(total_timesteps=10)
    assert model.ep_info_buffer.maxlen == model.ep_success_buffer.maxlen == 42
    with pytest.raises(ValueError, match="stats_window_size must"):
        make_ppo(stats_window_size=0)


def test_tensorboard_folders_are_numbered(make_ppo, tmp_path):
    pytest.importorskip("tensorboard")
    model = make_ppo(tensorboard_log=str(tmp_path))
    model.learn(TOKENS, tb_log_name="try")
    model.learn(TOKENS, reset_num_timesteps=False, tb_log_name="try")
    assert [path.name for path in tmp_path.iterdir()] == ["try_1"]
    model.learn(TOKENS, tb_log_name="try")
    assert (tmp_path / "try_2").is_dir()


# --- test_save_load -------------------------------------------------------------------------------


def test_parameters_are_read_and_set(make_ppo):
    model, other = make_ppo(), make_ppo(model=make_model(seed=5))
    parameters = deepcopy(model.get_parameters())
    other.set_parameters(parameters, exact_match=True)
    found = other.get_parameters()["policy"]
    assert all(found[name].equal(value) for name, value in parameters["policy"].items())
    with pytest.raises(ValueError, match="not_an_object"):
        model.set_parameters({**parameters, "not_an_object": {}}, exact_match=True)
    with pytest.raises(ValueError, match="policy"):
        model.set_parameters({}, exact_match=True)
    partly = OrderedDict(list(parameters["policy"].items())[:-1])
    with pytest.raises(RuntimeError, match="Missing"):
        model.set_parameters({**parameters, "policy": partly}, exact_match=True)
    model.set_parameters({"policy": partly}, exact_match=False)


def ppo(env: Any, **settings: Any) -> PPO:
    """Make an agent with settings that need not exist."""
    return PPO("CausalLMPolicy", env, **settings)


REFUSED = [
    (lambda m, p: PPO("MlpPolicy", m.env), r"'MlpPolicy'.*stable_baselines3"),
    (lambda m, p: PPO("CausalLMPolicy", "CartPole-v1"), r"PPO.*stable_baselines3\.PPO"),
    (lambda m, p: m.predict(m.get_env().envs.reset(seed=0)), "observation"),
    (lambda m, p: ppo(m.env, n_steps=64), r"'n_steps'.*num_envs="),
    (lambda m, p: ppo(m.env, batch_size=64), r"'batch_size'.*n_minibatches="),
    (lambda m, p: ppo(m.env, use_sde=True), r"'use_sde'.*known"),
]
"""Habits that are refused, with what is said."""


@pytest.mark.parametrize(("habit", "said"), REFUSED)
def test_what_is_refused_says_what_to_do(make_ppo, tmp_path, habit, said):
    with pytest.raises((ValueError, TypeError), match=said) as caught:
        habit(make_ppo(), tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_a_subclass_is_saved_and_loaded(make_ppo, make_envs, tmp_path):
    class Mine(PPO):
        """An algorithm of one's own."""

    make_ppo(learner=Mine).save(Path(tmp_path) / "model")
    assert isinstance(Mine.load(tmp_path / "model", env=make_envs()), Mine)
