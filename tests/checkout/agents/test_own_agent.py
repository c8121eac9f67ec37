"""The base of learners: its example in the documents runs, and learns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.checkout.pages import blocks, run
from tests.suite.agents.conftest import make_model
from tokengym.agents import collect
from tokengym.envs import SettingsError


@pytest.fixture
def example() -> tuple[str, str]:
    """Return the example: the learner, and the lines that use it."""
    (code,) = (c for c in blocks("agents/own_agent.md") if c.startswith("# reinforce.py\n"))
    start = code.index("agent = ")
    return code[:start], code[start:]


def test_the_example_runs_as_it_stands(example: tuple[str, str], make_envs: Callable[..., Any]):
    learner, use = example
    names: dict[str, Any] = {"policy_kwargs": {"model": make_model()}}
    names["envs"] = make_envs(num_envs=8)
    use = use.replace("seed=0", "seed=0, policy_kwargs=policy_kwargs").replace("20_000", "200")
    agent = run(learner + use, names)["agent"]
    assert agent.num_timesteps >= 200
    assert agent._n_updates > 1
    assert agent.policy.critic is None


def test_its_phases_can_be_called_alone(
    example: tuple[str, str], make_envs: Callable[..., Any], tmp_path: Any
):
    reinforce = run(example[0])["Reinforce"]

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
    with pytest.raises(TypeError, match="'base_line'"):
        make(base_line=False)
    with pytest.raises(SettingsError, match="temperature must be > 0"):
        make(temperature=0.0)
