"""A policy for an environment without a learner around it."""

from pathlib import Path
from typing import Any

import numpy as np

from tokengym.agents.environments import Environments, environment_attribute
from tokengym.agents.policy import CausalLMPolicy
from tokengym.agents.sb3 import as_vec_env


def make_policy(
    env: Environments,
    model: Any = None,
    *,
    lora: Any | None = None,
    temperature: float = 1.0,
    seed: int | None = None,
    device: str = "auto",
) -> CausalLMPolicy:
    """Return a policy for the environment, with a frozen reference that is its beginning.

    Args:
        env: Gives the spaces, and the bundled model where none is named.
        model: Path, hub name or model; None takes the environment's bundled one.
        lora: A ``peft.LoraConfig`` to train adapters only.
        temperature: Of sampling.
        seed: Of its sampling.
        device: "auto" takes a GPU if there is one.

    Raises:
        ModelError: if there is no model, or it does not fit.
    """
    from stable_baselines3.common.utils import get_device

    bundle = environment_attribute(env, "bundle")
    if model is None and bundle is not None and bundle.has("policy"):
        model = bundle.policy
    spaces: Any = as_vec_env(env)
    policy = CausalLMPolicy(
        spaces.observation_space,
        spaces.action_space,
        lambda _: 0.0,
        model=Path(model) if isinstance(model, str) and Path(model).is_dir() else model,
        lora=lora,
        temperature=temperature,
    ).to(get_device(device))
    if seed is not None:
        policy.generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    return policy
