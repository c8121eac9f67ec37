"""The base of learners: its settings are attributes, and it cleans up behind itself."""

import math
import tempfile
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3.common.callbacks import BaseCallback

from tests.support.agents.checkpoint import assert_equal_weights
from tokengym.agents import PPO
from tokengym.base.settings import names_of
from tokengym.envs import SettingsError


def test_the_settings_are_attributes_that_refuse_bad_values(make_ppo):
    agent: Any = make_ppo(n_epochs=3)
    names = names_of(PPO.settings_class)
    assert {"temperature", "clip_range", "kl_coef"} < set(names)
    assert {name: getattr(agent, name) for name in names} == vars(agent.settings)
    before = agent.settings
    agent.n_epochs, agent.gamma = 2, 0.9
    assert (agent.settings.n_epochs, agent.settings.gamma) == (2, 0.9)
    assert (before.n_epochs, before.gamma) == (3, 1.0)
    agent.learning_rate = 0.25
    assert agent.lr_schedule(1.0) == 0.25
    with pytest.raises(SettingsError, match="n_epochs must be"):
        agent.n_epochs = 0
    assert agent.n_epochs == 2
    with pytest.raises(AttributeError, match="n_epoch"):
        _ = agent.n_epoch


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0.5), ("top_k", 3), ("advantage", "reinforce"), ("value_network", "trunk")],
)
def test_a_setting_that_the_agent_was_built_by_stays(make_ppo, name, value):
    agent: Any = make_ppo()
    said = rf"{name}=.*built by, got {value!r}"
    with pytest.raises(SettingsError, match=said):
        setattr(agent, name, value)
    assert getattr(agent, name) != value
    setattr(agent, name, getattr(agent, name))


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({}, {"drop_equal_groups": True}, r"drop_equal_groups.*group_size"),
        (
            {"advantage": "rloo", "group_size": 2},
            {"std_floor": 0.1},
            r"std_floor.*advantage='rloo'",
        ),
        ({"advantage": "rloo", "group_size": 2}, {"group_size": None}, "needs group_size"),
        ({"advantage": "loo", "group_size": 2}, {"group_size": 3}, "group_size"),
        ({"advantage": "rloo", "group_size": 2}, {"gamma": 0.5}, r"gamma.*advantage='rloo'"),
        ({}, {"kl_horizon": 5.0}, "kl_horizon.*without kl_target"),
    ],
)
def test_a_change_to_settings_that_contradict_each_other_is_refused(
    make_ppo, settings, changes, message
):
    agent = make_ppo(**settings)
    before, alarms = agent.settings, agent._alarms
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=message):
        setattr(agent, name, value)
    assert agent.settings is before
    agent.change(group_size=4, drop_equal_groups=True)
    assert agent.settings.drop_equal_groups
    assert agent._alarms is alarms  # what was said stays said


@pytest.mark.parametrize("tokens", [-5, "100", None, math.nan])
def test_a_training_of_no_number_of_tokens_is_refused(make_ppo, tokens):
    with pytest.raises(SettingsError, match=rf"total_timesteps.*got {tokens!r}"):
        make_ppo().learn(tokens)


def test_learn_exhausts_its_updates_between_which_the_agent_may_be_saved(
    make_ppo, make_envs, tmp_path
):
    """Three updates: in one call, in a loop, and in a loop that is left and continued elsewhere."""
    budget = 3 * 4 * 6
    whole = make_ppo().learn(budget)
    looped = make_ppo()
    yielded = list(looped.updates(budget))
    assert [update.step for update in yielded] == list(range(1, len(yielded) + 1))
    assert yielded[-1].tokens == looped.num_timesteps == whole.num_timesteps
    assert all(update.figures["rollout/score"] is not None for update in yielded)
    left = make_ppo()
    for _ in left.updates(budget):
        left.save(tmp_path / "agent")
        break
    resumed = PPO.load(tmp_path / "agent", env=make_envs(), device="cpu")
    for _ in resumed.updates(budget - resumed.num_timesteps, reset_num_timesteps=False):
        pass
    for agent in (looped, resumed):
        assert_equal_weights(agent, whole)


@pytest.mark.parametrize(
    "rate",
    [{"learning_rate": 0.5}, {"learning_rate": lambda left: 0.5 * left}],
)
def test_a_loop_without_a_budget_ends_where_it_is_left(make_ppo, rate):
    """Callbacks are told, and the share that remains is the caller's to say."""
    ended: list[int] = []

    class Ends(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_training_end(self) -> None:
            ended.append(self.model.num_timesteps)

    agent, rates = make_ppo(**rate), []
    for update in agent.updates(callback=Ends()):
        rates.append(update.figures["train/learning_rate"])
        agent.remaining = 0.25
        if update.step == 2:
            break
    assert rates == [0.5, 0.125]
    assert ended == [agent.num_timesteps]


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_an_environment_without_texts_is_refused(make):
    said = r"PPO.*Box.*Discrete.*"
    with pytest.raises(SettingsError, match=said + r"or take stable_baselines3\.PPO"):
        PPO("CausalLMPolicy", make("CartPole-v1"))


def test_training_leaves_nothing_in_the_temporary_folder(make_ppo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    agent = make_ppo(verbose=1)
    for _ in range(2):
        agent.learn(4 * 6)
    assert list(tmp_path.iterdir()) == []
    assert "rollout/" in capsys.readouterr().out
