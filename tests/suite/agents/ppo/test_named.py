"""Learners by name in Python: the settings of the word of the command, and plain PPO agents."""

import gymnasium as gym
import pytest

import tokengym
from tokengym.agents.errors import CheckpointError
from tokengym.agents.learner import find_learner
from tokengym.agents.ppo.named import CriticFree


def envs():
    return gym.make_vec("tokengym/MovieReview-v0", num_envs=8, max_new_tokens=4, reward="sparse")


@pytest.mark.parametrize("name", ["GRPO", "RLOO"])
def test_a_name_makes_what_the_word_of_the_command_trains(name):
    agent = getattr(tokengym, name)("CausalLMPolicy", envs(), seed=0)
    assert type(agent) is tokengym.PPO
    assert agent.settings == find_learner(name.lower()).default_settings()
    assert agent.settings.group_size == 8


def test_a_subclass_of_a_name_is_refused_since_its_methods_would_not_be_called():
    class Mine(tokengym.GRPO):
        pass

    with pytest.raises(TypeError, match=r"Mine is a subclass of GRPO.*PPO and pass advantage='gr"):
        Mine("CausalLMPolicy", envs())
    with pytest.raises(TypeError, match="Mine is a subclass of GRPO"):
        Mine.load("folder")


def test_an_agent_is_an_instance_of_the_names_whose_settings_it_has(tmp_path):
    grpo = tokengym.GRPO("CausalLMPolicy", envs(), seed=0)
    ppo = tokengym.PPO("CausalLMPolicy", envs(), seed=0)
    loo = tokengym.PPO("CausalLMPolicy", envs(), advantage="loo", group_size=8)
    names = (tokengym.GRPO, tokengym.RLOO, tokengym.REINFORCE, CriticFree)
    assert [isinstance(grpo, name) for name in names] == [True, False, False, True]
    for other in (ppo, loo, "grpo", None):
        assert not any(isinstance(other, name) for name in names)
    grpo.save(tmp_path / "agent")
    assert isinstance(tokengym.PPO.load(tmp_path / "agent"), tokengym.GRPO)


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
    with pytest.raises(CheckpointError, match=r"agent .*advantage='gae'.* not what GRPO"):
        tokengym.GRPO.load(tmp_path / "agent")
    loaded = tokengym.REINFORCE.load(tmp_path / "agent", env=envs(), advantage="reinforce")
    assert loaded.settings.advantage == "reinforce"


def test_what_a_name_stands_for_is_not_changed():
    said = r"GRPO.*got 'loo'.*PPO\(..., advantage='loo'\)"
    with pytest.raises(ValueError, match=said):
        tokengym.GRPO("CausalLMPolicy", envs(), advantage="loo")
    assert tokengym.GRPO("CausalLMPolicy", envs(), group_size=4).settings.group_size == 4
