"""Learners by name in Python: the settings of the word of the command, and plain PPO agents."""

import gymnasium as gym
import pytest

import tokengym
from tokengym.agents.learner import find_learner
from tokengym.agents.ppo.named import CriticFree
from tokengym.base.errors import SettingsError


def envs():
    return gym.make_vec("tokengym/MovieReview-v0", num_envs=8, max_new_tokens=4, reward="sparse")


@pytest.mark.parametrize("name", ["GRPO", "RLOO"])
def test_a_name_makes_what_the_word_of_the_command_trains(name):
    agent = getattr(tokengym, name)("CausalLMPolicy", envs(), seed=0)
    assert isinstance(agent, tokengym.PPO)
    assert agent.settings == find_learner(name.lower()).default_settings()
    assert agent.settings.group_size == 8


def test_methods_of_a_subclass_of_a_name_are_called():
    class Mine(tokengym.GRPO):
        def _weighed(self, experience, inputs):
            self.weighed = True
            return super()._weighed(experience, inputs)

    agent = Mine("CausalLMPolicy", envs(), seed=0)
    agent.learn(8 * 4)
    assert agent.weighed
    assert agent.settings.advantage == "grpo"


def test_an_agent_is_an_instance_of_the_names_whose_settings_it_has(tmp_path):
    grpo = tokengym.GRPO("CausalLMPolicy", envs(), seed=0)
    ppo = tokengym.PPO("CausalLMPolicy", envs(), seed=0)
    loo = tokengym.PPO("CausalLMPolicy", envs(), advantage="loo", group_size=8)
    names = (tokengym.GRPO, tokengym.RLOO, tokengym.REINFORCE, CriticFree)
    assert [isinstance(grpo, name) for name in names] == [True, False, False, True]
    for other in (ppo, loo, "grpo", None):
        assert not any(isinstance(other, name) for name in names)
    grpo.save(tmp_path / "agent")
    assert isinstance(tokengym.GRPO.load(tmp_path / "agent"), tokengym.GRPO)
    assert tokengym.PPO.load(tmp_path / "agent").settings == grpo.settings


def test_an_agent_by_name_learns_and_is_loaded_by_either_name(tmp_path):
    agent = tokengym.REINFORCE("CausalLMPolicy", envs(), 1e-3, seed=0, n_epochs=1)
    assert agent.settings.learning_rate == 1e-3
    agent.learn(8 * 4)
    agent.save(tmp_path / "agent")
    for learner in (tokengym.REINFORCE, tokengym.PPO):
        again = learner.load(tmp_path / "agent", env=envs())
        assert (again.settings.advantage, again.num_timesteps) == ("reinforce", 8 * 4)


def test_a_name_loads_no_agent_of_other_settings(tmp_path):
    tokengym.PPO("CausalLMPolicy", envs(), seed=0).save(tmp_path / "agent")
    with pytest.raises(SettingsError, match=r"GRPO stands for advantage='grpo', got 'gae'"):
        tokengym.GRPO.load(tmp_path / "agent")
    loaded = tokengym.REINFORCE.load(tmp_path / "agent", env=envs(), advantage="reinforce")
    assert loaded.settings.advantage == "reinforce"


def test_what_a_name_stands_for_is_not_changed():
    said = r"GRPO.*got 'loo'.*PPO\(..., advantage='loo'\)"
    with pytest.raises(ValueError, match=said):
        tokengym.GRPO("CausalLMPolicy", envs(), advantage="loo")
    assert tokengym.GRPO("CausalLMPolicy", envs(), group_size=4).settings.group_size == 4
