"""The base of learners: its example in the documents runs, and learns."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Logger

from tests.suite.agents.conftest import make_model
from tokengym.agents import PPO, collect
from tokengym.base.settings import names_of
from tokengym.envs import SettingsError


@pytest.fixture
def example() -> tuple[str, str]:
    """Return the example: the learner, and the lines that use it."""
    page = Path(__file__).parents[3] / "docs" / "agents" / "own_agent.md"
    (code,) = re.findall(r"```python\n# reinforce\.py\n(.*?)```", page.read_text(), re.DOTALL)
    start = code.index("agent = ")
    return code[:start], code[start:]


def test_the_example_runs_as_it_stands(example: tuple[str, str], make_envs: Callable[..., Any]):
    learner, use = example
    model = {"policy_kwargs": {"model": make_model()}, "envs": make_envs(num_envs=8)}
    use = use.replace("seed=0", "seed=0, policy_kwargs=policy_kwargs").replace("20_000", "200")
    found: dict[str, Any] = dict(model)
    exec(compile(learner + use, "example", "exec"), found)
    agent = found["agent"]
    assert agent.num_timesteps >= 200
    assert agent._n_updates > 1
    assert agent.policy.critic is None


def test_its_phases_can_be_called_alone(
    example: tuple[str, str], make_envs: Callable[..., Any], tmp_path: Any
):
    found: dict[str, Any] = {}
    exec(compile(example[0], "example", "exec"), found)
    reinforce = found["Reinforce"]

    def make(**settings: Any) -> Any:
        return reinforce(
            "CausalLMPolicy",
            make_envs(num_envs=16),
            8e-3,
            seed=0,
            policy_kwargs={"model": make_model(scale=1.0)},
            **settings,
        )

    agent = make()
    played = agent.collect()
    before = agent.policy.evaluate(played.sequences(agent.device)).log_probs.detach()
    agent.update(played, torch.zeros(16, device=agent.device))  # no advantage: nothing moves
    same = agent.policy.evaluate(played.sequences(agent.device)).log_probs.detach()
    torch.testing.assert_close(same, before, rtol=0, atol=0)
    agent.learn_from(played)
    after = agent.policy.evaluate(played.sequences(agent.device)).log_probs.detach()
    assert not torch.equal(after, before)

    agent.learn(2000)
    scores: list[Any] = [e.score for e in collect(agent, make_envs(num_envs=16), 64, seed=1)]
    start: list[Any] = [e.score for e in collect(make(), make_envs(num_envs=16), 64, seed=1)]
    assert np.mean(scores) > np.mean(start) + 0.5

    agent.save(tmp_path / "agent")
    assert reinforce.load(tmp_path / "agent", env=make_envs(num_envs=16)).settings.baseline
    with pytest.raises(TypeError, match="no argument 'base_line'; did you mean baseline"):
        make(base_line=False)
    with pytest.raises(SettingsError, match="temperature must be > 0"):
        make(temperature=0.0)


def test_the_settings_are_attributes_that_refuse_bad_values(make_ppo: Callable[..., PPO]):
    agent: Any = make_ppo(n_epochs=3)
    names = names_of(PPO.settings_class)
    assert {"temperature", "clip_range", "kl_coef"} < set(names)
    assert {name: getattr(agent, name) for name in names} == vars(agent.settings)
    before = agent.settings
    agent.n_epochs, agent.gamma = 2, 0.9
    assert (agent.settings.n_epochs, agent.settings.gamma) == (2, 0.9)
    assert (before.n_epochs, before.gamma) == (3, 1.0)
    with pytest.raises(SettingsError, match="n_epochs must be"):
        agent.n_epochs = 0
    assert agent.n_epochs == 2
    with pytest.raises(AttributeError, match="n_epoch"):
        _ = agent.n_epoch


def test_training_leaves_nothing_in_the_temporary_folder(
    make_ppo: Callable[..., PPO], tmp_path: Path, monkeypatch: Any, capsys: Any
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    agent = make_ppo(verbose=1)
    for _ in range(2):
        agent.learn(4 * 6)
    assert list(tmp_path.iterdir()) == []
    assert "rollout/" in capsys.readouterr().out
    own = Logger(folder=None, output_formats=[])
    agent.set_logger(own)
    agent.learn(4 * 6)
    assert agent.logger is own
