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
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure

from tests.suite.agents.conftest import make_model
from tokengym.agents import PPO
from tokengym.agents.sb3 import as_vec_env

TOKENS = 24
"""Tokens of one update, at most."""


class Keeps(BaseCallback):
    """Counts its calls, and ends the training where it is told to."""

    def __init__(self, value: Any = True) -> None:
        super().__init__()
        self.value = value

    def _on_step(self) -> bool:
        return self.value


# --- test_run, test_deterministic, test_identity --------------------------------------------------


def test_learn_returns_the_model_and_counts_tokens(make_ppo):
    model = make_ppo()
    assert model.learn(total_timesteps=30) is model
    assert model.num_timesteps >= 30


def test_the_same_seed_gives_the_same_model(make_ppo):
    played = []
    for _ in range(2):
        model = make_ppo(seed=7)
        model.learn(2 * TOKENS)
        observation, _ = model.get_env().envs.reset(seed=0)
        played.append(model.predict(observation, deterministic=False)[0].tolist())
    assert played[0] == played[1]


def test_an_id_is_made_into_an_environment():
    model = PPO("CausalLMPolicy", "tokengym/MovieReview-v0", seed=0, device="cpu")
    assert model.n_envs == 64
    assert model.env.get_attr("spec")[0].id == "tokengym/MovieReview-v0"
    with pytest.raises(gym.error.Error, match=r"MovieRevew.*MovieReview"):
        PPO("CausalLMPolicy", "tokengym/MovieRevew-v0")


def test_a_range_of_the_value_below_zero_is_refused(make_ppo):
    make_ppo(clip_range_vf=0.2).learn(TOKENS)
    with pytest.raises(ValueError, match="clip_range_vf must be > 0"):
        make_ppo(clip_range_vf=-0.2)


def test_a_loss_is_logged_and_finite(make_ppo):
    model = make_ppo()
    model.learn(TOKENS, log_interval=None)
    assert np.isfinite(model.logger.name_to_value["train/loss"])


def test_verbose_prints_the_table(make_ppo, capsys):
    make_ppo(verbose=1).learn(TOKENS)
    assert "ep_rew_mean" in capsys.readouterr().out


# --- test_predict ---------------------------------------------------------------------------------


def test_predict_takes_one_observation_and_a_batch(make_ppo):
    model = make_ppo()
    batch, _ = model.get_env().envs.reset(seed=0)
    actions, state = model.predict(batch)
    assert isinstance(actions, np.ndarray)
    assert actions.shape == (4,)
    one, _ = model.predict({name: rows[0] for name, rows in batch.items()})
    assert one.shape == ()
    assert model.action_space.contains(one.item())
    del state


def test_a_deterministic_action_is_repeatable(make_ppo):
    model = make_ppo()
    batch, _ = model.get_env().envs.reset(seed=0)
    first, second = (model.predict(batch, deterministic=True)[0] for _ in range(2))
    assert (first == second).all()


def test_observations_with_infos_are_refused(make_ppo):
    model = make_ppo()
    with pytest.raises(ValueError, match="observation"):
        model.predict(model.get_env().envs.reset(seed=0))


def test_the_policy_is_on_the_models_device(make_ppo):
    model = make_ppo()
    assert model.device.type == model.policy.device.type == "cpu"


# --- test_callbacks -------------------------------------------------------------------------------


def test_callbacks_in_a_list_are_all_called(make_ppo, make_envs, tmp_path):
    model, keeps = make_ppo(), Keeps()
    saves = CheckpointCallback(save_freq=1, save_path=str(tmp_path / "event"), name_prefix="event")
    every = EveryNTimesteps(n_steps=TOKENS, callback=saves)
    logs = LogEveryNTimesteps(n_steps=TOKENS)
    model.learn(3 * TOKENS, callback=CallbackList([keeps, every, logs]))
    assert keeps.num_timesteps == model.num_timesteps
    assert every.num_timesteps == model.num_timesteps
    assert sorted((tmp_path / "event").iterdir())
    loaded = PPO.load(sorted((tmp_path / "event").glob("*steps*"))[0], env=make_envs())
    assert loaded.num_timesteps > 0


def test_a_function_is_a_callback(make_ppo):
    make_ppo().learn(TOKENS, callback=lambda _locals, _globals: True)


def test_callbacks_see_the_newest_observation(make_ppo):
    model, keeps = make_ppo(), Keeps()
    model.learn(TOKENS, callback=[keeps])
    seen = {name: rows[0] for name, rows in keeps.locals["new_obs"].items()}
    assert model.env.observation_space.contains(seen)


@pytest.mark.parametrize("value", [False, np.bool_(0), torch.tensor(0, dtype=torch.bool)])
def test_a_callback_ends_the_training(make_ppo, value):
    model = make_ppo()
    model.learn(10 * TOKENS, callback=Keeps(value))
    assert model.num_timesteps <= 4


def test_evaluation_callbacks_keep_the_best_and_stop(make_ppo, make_envs, tmp_path):
    stops = StopTrainingOnNoModelImprovement(max_no_improvement_evals=1, min_evals=1)
    evaluates = EvalCallback(
        as_vec_env(make_envs()),
        eval_freq=6,
        callback_after_eval=stops,
        callback_on_new_best=StopTrainingOnRewardThreshold(reward_threshold=100.0),
        best_model_save_path=str(tmp_path),
        log_path=str(tmp_path),
        warn=False,
    )
    model = make_ppo()
    model.learn(20 * TOKENS, callback=evaluates)
    assert np.isfinite(evaluates.last_mean_reward)
    assert (tmp_path / "evaluations.npz").exists()
    assert PPO.load(tmp_path / "best_model", env=make_envs()).num_timesteps > 0


def test_episodes_are_counted(make_ppo):
    counts = StopTrainingOnMaxEpisodes(max_episodes=1)
    model = make_ppo()
    model.learn(50 * TOKENS, callback=counts)
    assert model.num_timesteps <= TOKENS


def test_a_progress_bar_is_shown(make_ppo, capsys):
    make_ppo().learn(TOKENS, progress_bar=True)


# --- test_evaluation (test_utils) -----------------------------------------------------------------


def test_evaluate_policy_plays_the_model(make_ppo, make_envs):
    mean, deviation = evaluate_policy(
        make_ppo(), as_vec_env(make_envs()), n_eval_episodes=4, warn=False
    )
    assert isinstance(mean, float)
    assert isinstance(deviation, float)
    assert 0.0 <= mean <= 1.0
    assert deviation >= 0.0


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
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(2 * TOKENS)
    with (tmp_path / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert OF_SB3 <= rows[-1].keys()
    last = {name: float(rows[-1][name]) for name in OF_SB3}
    assert last["train/clip_range"] == pytest.approx(0.2)
    assert last["train/entropy_loss"] == pytest.approx(-float(rows[-1]["train/entropy"]))
    of_terms = last["train/policy_gradient_loss"] + 0.5 * last["train/value_loss"]
    assert last["train/loss"] == pytest.approx(of_terms, rel=1e-4)


@pytest.mark.parametrize("size", [1, 42])
def test_means_of_the_log_are_over_so_many_episodes(make_ppo, size):
    model = make_ppo(stats_window_size=size)
    model.learn(total_timesteps=10)
    assert model.ep_info_buffer.maxlen == model.ep_success_buffer.maxlen == size
    with pytest.raises(ValueError, match="stats_window_size must"):
        make_ppo(stats_window_size=0)


def test_a_logger_that_is_set_stays(make_ppo, tmp_path):
    model, logger = make_ppo(), configure(str(tmp_path), ["log"])
    model.set_logger(logger)
    model.learn(TOKENS)
    model.learn(TOKENS)
    assert model.logger is logger


def test_tensorboard_folders_are_numbered(make_ppo, tmp_path):
    pytest.importorskip("tensorboard")
    model = make_ppo(tensorboard_log=str(tmp_path))
    model.learn(TOKENS, tb_log_name="try")
    model.learn(TOKENS, reset_num_timesteps=False, tb_log_name="try")
    assert [path.name for path in tmp_path.iterdir()] == ["try_1"]
    model.learn(TOKENS, tb_log_name="try")
    assert (tmp_path / "try_2").is_dir()


# --- test_save_load -------------------------------------------------------------------------------


def test_a_saved_model_plays_and_learns_on(make_ppo, make_envs, tmp_path):
    model = make_ppo()
    model.learn(TOKENS)
    observation, _ = make_envs().reset(seed=0)
    before = model.predict(observation, deterministic=True)[0]
    model.save(tmp_path / "model.zip")
    again = PPO.load(str(tmp_path / "model.zip"), env=make_envs(), device="cpu")
    assert (again.predict(observation, deterministic=True)[0] == before).all()
    tokens = again.num_timesteps
    again.learn(TOKENS, reset_num_timesteps=False)
    assert again.num_timesteps > tokens == model.num_timesteps


def test_a_model_that_is_loaded_without_environment_plays(make_ppo, make_envs, tmp_path):
    make_ppo().save(tmp_path / "model")
    observation, _ = make_envs().reset(seed=0)
    assert PPO.load(tmp_path / "model").predict(observation)[0].shape == (4,)


def test_a_setting_is_changed_on_loading(make_ppo, make_envs, tmp_path):
    make_ppo().save(tmp_path / "model")
    assert PPO.load(tmp_path / "model", env=make_envs(), learning_rate=7e-5).learning_rate == 7e-5


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


def test_the_environment_is_replaced_by_one_of_as_many_rows(make_ppo, make_envs):
    model = make_ppo()
    model.learn(TOKENS)
    model.set_env(make_envs(), force_reset=True)
    model.learn(TOKENS, reset_num_timesteps=True)
    tokens = model.num_timesteps
    model.set_env(as_vec_env(make_envs()))
    model.learn(TOKENS, reset_num_timesteps=False)
    assert model.num_timesteps > tokens
    with pytest.raises(ValueError, match="number of environments"):
        model.set_env(make_envs(num_envs=2))


def test_a_model_is_loaded_into_another_number_of_rows(make_ppo, make_envs, tmp_path):
    make_ppo().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"rows|environments|num_envs"):
        PPO.load(tmp_path / "model", env=make_envs(num_envs=2))


def ppo(env: Any, **settings: Any) -> PPO:
    """Make an agent with settings that need not exist."""
    return PPO("CausalLMPolicy", env, **settings)


REFUSED = [
    (lambda m, p: PPO("MlpPolicy", m.env), r"'MlpPolicy'.*stable_baselines3"),
    (lambda m, p: PPO("CausalLMPolicy", "CartPole-v1"), r"PPO.*stable_baselines3\.PPO"),
    (
        lambda m, p: ppo(m.env, n_steps=64),
        r"'n_steps'.*num_envs=",
    ),
    (
        lambda m, p: ppo(m.env, batch_size=64),
        r"'batch_size'.*n_minibatches=",
    ),
    (
        lambda m, p: ppo(m.env, use_sde=True),
        r"'use_sde'.*known",
    ),
]
"""Habits that are refused, with what is said."""


@pytest.mark.parametrize(("habit", "said"), REFUSED)
def test_what_is_refused_says_what_to_do(make_ppo, tmp_path, habit, said):
    with pytest.raises((ValueError, TypeError), match=said) as caught:
        habit(make_ppo(), tmp_path / "model")
    assert "\n" not in str(caught.value)


# --- sb3-contrib: test_invalid_actions ------------------------------------------------------------


def test_actions_that_are_not_allowed_are_never_sampled(make_ppo, make_envs):
    envs = make_envs(forbidden_token_ids=[2, 4], min_new_tokens=6)
    model = make_ppo(envs=envs)
    masks = model.get_env().env_method("action_masks")
    assert np.stack(masks).shape == (4, model.action_space.n)
    episodes = model.collect().episodes
    assert {2, 4}.isdisjoint(token for episode in episodes for token in episode.response_ids)


def test_a_subclass_is_saved_and_loaded(make_ppo, make_envs, tmp_path):
    class Mine(PPO):
        """An algorithm of one's own."""

    make_ppo(learner=Mine).save(Path(tmp_path) / "model")
    assert isinstance(Mine.load(tmp_path / "model", env=make_envs()), Mine)
