"""A policy for an environment without a learner around it."""

from typing import Any

from stable_baselines3.common.utils import get_device

from tokengym.agents.offline.sources import build_policy, find_tokenizer
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.rollouts.environments import Environments


def make_policy(
    env: Environments,
    model: Any = None,
    *,
    reference: Any | None = None,
    lora: Any | None = None,
    dtype: str = "auto",
    temperature: float = 1.0,
    seed: int = 0,
    device: str = "auto",
) -> CausalLMPolicy:
    """Return a policy for the environment, with a frozen reference.

    Args:
        env: Gives the tokenizer, and the bundled model where none is named.
        model: Path, hub name or model; None takes the environment's bundled one.
        reference: Path, hub name or model; None takes the model as it is now.
        lora: A ``peft.LoraConfig`` to train adapters only.
        dtype: Precision of the weights, see `agents.models.load_causal_lm`.
        temperature: Temperature of its sampling.
        seed: Seed of its sampling.
        device: "auto" takes a GPU if there is one.

    Raises:
        ModelError: if there is no model, or it does not fit.
    """
    policy = build_policy(
        env if model is None else model,
        find_tokenizer(env, None),
        ref_model=reference,
        lora=lora,
        dtype=dtype,
        temperature=temperature,
        seed=seed,
    )
    return policy.to(get_device(device))
