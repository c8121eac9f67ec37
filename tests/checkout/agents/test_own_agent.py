"""The base of learners: its example in the documents runs, and learns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.checkout.pages import blocks, run
from tests.support.agents.common import make_model
from tokengym.agents import collect


@pytest.fixture
def example() -> str:
    """Return the learner on the page on code of one's own."""
    (code,) = (c for c in blocks("guide/own_code.md") if c.startswith("# agents.py\n"))
    return code


def test_it_learns_and_is_saved(example: str, make_envs: Callable[..., Any], tmp_path: Any):
    reinforce = run(example)["Reinforce"]

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
    agent.learn(2000)
    assert agent.policy.critic is None
    scores: list[Any] = [e.score for e in collect(agent, make_envs(num_envs=16), 64, seed=1)]
    start: list[Any] = [e.score for e in collect(make(), make_envs(num_envs=16), 64, seed=1)]
    assert np.mean(scores) > np.mean(start) + 0.5

    agent.save(tmp_path / "agent")
    assert reinforce.load(tmp_path / "agent", env=make_envs(num_envs=16)).settings.baseline == 1.0
    with pytest.raises(TypeError, match="'base_line'"):
        make(base_line=False)
