"""Entropy of what a stock on-policy algorithm of Stable-Baselines3 or sb3-contrib chooses among."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor


def entropy_of(
    agent: object, observation: Mapping[str, Any], action_masks: NDArray[Any] | None
) -> Tensor | None:
    """Return the entropy of each row's next token, (rows,) nats.

    None of an agent that is no on-policy algorithm, and of a recurrent one, whose distribution
    depends on more than the observation.

    Args:
        agent: The agent.
        observation: Observations of all rows.
        action_masks: (rows, vocab) tokens that are allowed, for policies that read them.
    """
    if not isinstance(agent, OnPolicyAlgorithm):
        return None
    policy: Any = agent.policy
    if not hasattr(policy, "get_distribution"):  # a policy of the user's own
        return None
    reads = inspect.signature(policy.get_distribution).parameters
    if "lstm_states" in reads:
        return None
    masks = {"action_masks": action_masks} if "action_masks" in reads else {}
    with torch.no_grad():
        tensors, _ = policy.obs_to_tensor(observation)
        entropy: Tensor | None = policy.get_distribution(tensors, **masks).entropy()
    return entropy
