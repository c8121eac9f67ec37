"""Weights moved at random, so that no two policies are alike."""

import torch

from tokengym.agents import PPO


def shake(agent: PPO, amount: float = 0.05) -> None:
    """Move the policy off its reference, value head included."""
    generator = torch.Generator().manual_seed(3)
    for parameter in agent.policy.trained_parameters():
        moved = amount * torch.randn(parameter.shape, generator=generator)
        parameter.data.add_(moved.to(parameter.device))
