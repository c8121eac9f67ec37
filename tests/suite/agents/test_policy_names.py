"""Names of policies, given where stock learners take them and ours take none."""

from collections.abc import Callable
from typing import Any

import pytest

from tokengym.agents import DPO, SFT, CausalLMPolicy, RandomAgent
from tokengym.base.errors import SettingsError


@pytest.mark.parametrize("policy", ["CausalLMPolicy", "MlpPolicy", CausalLMPolicy])
@pytest.mark.parametrize(
    ("made", "instead"),
    [
        (DPO, r"write DPO\(envs, data\): its policy is made of the environment's model"),
        (SFT, r"write SFT\(envs, data\)"),
        (RandomAgent, r"write RandomAgent\(envs\): it has no policy"),
    ],
)
def test_a_learner_without_named_policies_says_how_it_is_made(
    make_envs: Callable[..., Any], made: Any, instead: str, policy: Any
):
    name = policy if isinstance(policy, str) else policy.__name__
    with pytest.raises(SettingsError, match=f"takes no name of a policy, got '{name}'; {instead}"):
        made(policy, make_envs())
