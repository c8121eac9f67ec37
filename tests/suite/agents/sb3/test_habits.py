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
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.support.agents.checkpoint import assert_equal_weights
from tests.support.agents.common import TARGET, make_model, single_env
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


@pytest.mark.parametrize("progress_bar", [False, True])
def test_a_callback_is_initialised_once(make_ppo, progress_bar):
    class Counts(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def _init_callback(self) -> None:
            self.seen.append("initialised")

        def _on_training_start(self) -> None:
            assert self.parent is None
            assert self.model is agent
            self.seen.append("started")

        def _on_step(self) -> bool:
            return True

        def _on_training_end(self) -> None:
            self.seen.append("ended")

    agent, counts = make_ppo(), Counts()
    agent.learn(24, callback=counts, progress_bar=progress_bar)
    assert counts.seen == ["initialised", "started", "ended"]
    assert counts.n_calls > 0


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


def test_means_of_the_log_are_over_so_many_episodes(make_ppo, make_envs, tmp_path):
    model = make_ppo(stats_window_size=42)
    model.learn(total_timesteps=10)
    assert model.ep_info_buffer.maxlen == model.ep_success_buffer.maxlen == 42
    model.save(tmp_path / "agent")
    loaded = PPO.load(tmp_path / "agent", env=make_envs(), device="cpu").learn(10)
    assert loaded.ep_info_buffer.maxlen == 42
    with pytest.raises(ValueError, match="stats_window_size must"):
        make_ppo(stats_window_size=0)


def test_a_log_without_tensorboard_is_refused_as_training_begins(
    make_ppo, make_envs, tmp_path, monkeypatch
):
    """And not where an agent that had one is loaded, to predict or to train under a logger."""
    make_ppo(tensorboard_log="tb").save(tmp_path / "agent")
    monkeypatch.setattr("tokengym.agents.rollouts.logs.find_spec", lambda name: None)
    envs = make_envs()
    model = PPO.load(tmp_path / "agent")
    assert len(model.predict(envs.reset(seed=0)[0])[0]) == envs.num_envs
    model = PPO.load(tmp_path / "agent", env=envs)
    assert model.tensorboard_log == "tb"
    with pytest.raises(ValueError, match=r"tensorboard_log='tb' needs tensorboard; pip install"):
        model.learn(TOKENS)
    assert model.num_timesteps == 0
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(TOKENS)
    assert model.num_timesteps >= TOKENS


def test_tensorboard_folders_are_numbered(make_ppo, tmp_path):
    model = make_ppo(tensorboard_log=str(tmp_path))
    model.learn(TOKENS, tb_log_name="try")
    model.learn(TOKENS, reset_num_timesteps=False, tb_log_name="try")
    assert [path.name for path in tmp_path.iterdir()] == ["try_1"]
    model.learn(TOKENS, tb_log_name="try")
    assert (tmp_path / "try_2").is_dir()


def test_a_seed_makes_all_that_is_drawn_repeat(make_ppo, make_envs):
    model = make_ppo(seed=None)
    observation = make_envs().reset(seed=0)[0]
    parameters = deepcopy(model.get_parameters())

    def learned(seed: int) -> torch.Tensor:
        model.set_parameters(parameters)
        model.set_random_seed(seed)
        model.learn(TOKENS)
        return torch.cat([weight.detach().flatten() for weight in model.policy.parameters()])

    def predicted(seed: int) -> list[list[int]]:
        model.set_random_seed(seed)
        return [model.predict(observation)[0].tolist() for _ in range(8)]

    assert predicted(7) == predicted(7) != predicted(8)
    first = learned(7)
    assert torch.equal(first, learned(7))
    assert not torch.equal(first, learned(8))
    # As an agent that was made by the seed, from the same weights.
    other = make_ppo(seed=7)
    other.learn(TOKENS)
    again = torch.cat([weight.detach().flatten() for weight in other.policy.parameters()])
    assert torch.equal(first, again)


def test_successes_that_infos_tell_are_logged(make_ppo, tokenizer):
    class Succeeds(gym.Wrapper):
        """Says that texts with the target succeed."""

        def step(self, action):
            *result, info = self.env.step(action)
            if result[2] or result[3]:
                info["is_success"] = bool(TARGET in info["response_ids"])
            return *result, info

    def make() -> gym.Env:
        return Succeeds(single_env())

    for batch in (gym.vector.SyncVectorEnv([make] * 4), DummyVecEnv([make] * 4)):
        model = make_ppo(envs=batch)
        *_, last = model.updates(TOKENS)
        known = [TARGET in episode.response_ids for episode in model.last_round.episodes]
        assert list(model.ep_success_buffer) == known
        assert last.figures["rollout/success_rate"] == np.mean(known)


def test_methods_of_sb3s_policies_answer(make_ppo, make_envs):
    model = make_ppo()
    model.learn(TOKENS)
    observation, infos = make_envs().reset(seed=0)
    as_tensors = {name: torch.as_tensor(value) for name, value in observation.items()}
    texts = [
        ids[mask.astype(bool)].tolist()
        for ids, mask in zip(observation["input_ids"], observation["attention_mask"], strict=True)
    ]
    actions = torch.tensor([3, 3, 4, 1])
    values, log_probs, entropy = model.policy.evaluate_actions(as_tensors, actions)
    wanted = model.policy.log_probs(texts, [[int(action)] for action in actions])
    assert np.allclose(log_probs.detach(), np.concatenate(wanted), atol=1e-5)
    probs = model.policy.get_distribution(observation).distribution.probs
    assert np.allclose(entropy.detach(), -(probs * probs.log()).sum(-1).detach(), atol=1e-5)
    assert values.shape == (4, 1)
    assert torch.equal(values, model.policy.predict_values(observation))
    drawn, values_of_it, _ = model.policy(observation, deterministic=True)
    assert drawn.tolist() == probs.argmax(-1).tolist()
    assert torch.equal(values_of_it, values)
    masks = np.zeros_like(infos["action_mask"])
    masks[:, 5] = 1
    assert (model.policy.get_distribution(observation, masks).sample() == 5).all()
    with pytest.raises(ValueError, match="no critic"):
        make_ppo(advantage="reinforce++").policy.predict_values(observation)


def with_policy(make_envs: Any, **policy_kwargs: Any) -> PPO:
    """Make an agent with arguments of its policy."""
    model = {"model": make_model(), **policy_kwargs}
    return PPO("CausalLMPolicy", make_envs(), seed=0, device="cpu", policy_kwargs=model)


@pytest.mark.parametrize(
    ("kind", "given", "keeps"),
    [
        (torch.optim.SGD, None, set()),
        (torch.optim.SGD, {"momentum": 0.9}, {"momentum_buffer"}),
        (torch.optim.Adam, {"eps": 1e-5}, {"step", "exp_avg", "exp_avg_sq"}),
        (torch.optim.RMSprop, {"alpha": 0.9}, {"step", "square_avg"}),
    ],
)
def test_an_optimiser_of_torch_is_chosen_and_resumed(make_envs, tmp_path, kind, given, keeps):
    chosen = {"optimizer_class": kind, "optimizer_kwargs": given}
    model = with_policy(make_envs, **chosen)
    assert type(model.policy.optimizer) is kind
    model.learn(TOKENS)
    state = model.policy.optimizer.state_dict()["state"]
    assert {name for one in state.values() for name, v in one.items() if v is not None} == keeps
    model.save(tmp_path / "m")
    loaded = PPO.load(tmp_path / "m", env=make_envs())
    assert type(loaded.policy.optimizer) is kind
    for one in (model, loaded):
        one.learn(TOKENS, reset_num_timesteps=False)
    first, again = (one.policy.state_dict() for one in (model, loaded))
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_an_optimiser_of_ones_own_is_passed_again(make_envs, tmp_path):
    class Own(torch.optim.SGD):
        """An optimiser that a checkpoint cannot name."""

    model = with_policy(make_envs, optimizer_class=Own, optimizer_kwargs={"momentum": 0.9})
    model.learn(TOKENS)
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"none of torch\.optim; pass it again"):
        PPO.load(tmp_path / "m", env=make_envs())
    loaded: Any = PPO.load(tmp_path / "m", env=make_envs(), optimizer_class=Own)
    assert type(loaded.policy.optimizer) is Own
    assert_equal_weights(model, loaded)
    for one in (model, loaded):
        one.learn(TOKENS, reset_num_timesteps=False)
    assert_equal_weights(model, loaded)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimizer_class": "SGD"}, r"got 'SGD'; pass such as torch\.optim\.SGD"),
        ({"optimizer_class": torch.optim.LBFGS}, "LBFGS asks for the loss several times"),
        ({"optimizer_kwargs": {"lr": 0.1}}, r"lr=0\.1.*learning_rate="),
        ({"optimizer_kwargs": {"momentum": 0.9}}, r"do not fit AdamW.*momentum"),
    ],
)
def test_optimisers_that_do_not_fit_are_refused(make_envs, given, said):
    with pytest.raises(ValueError, match=said):
        with_policy(make_envs, **given)


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
    (lambda m, p: m.policy.save(p), r"agent\.save\(path\)"),
    (lambda m, p: type(m.policy).load(p), r"PPO\.load\(path\)"),
    (lambda m, p: m.set_random_seed(-1), r"seed must be an integer >= 0.*-1"),
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
