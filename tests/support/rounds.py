"""A round as an estimator or a weight reads it, of tensors written out by hand."""

from typing import Any

import torch
from torch import Tensor

from tokengym.agents.ppo import PPOSettings, RoundInputs


def round_of(
    rewards: Tensor,
    mask: Tensor | None = None,
    settings: PPOSettings | None = None,
    episodes: Any = (),
    **given: Any,
) -> RoundInputs:
    """Return a round of token rewards, (batch, time), which add up to the scores."""
    mask = torch.ones(rewards.shape, dtype=torch.bool) if mask is None else mask
    scores = rewards.sum(1)
    known = {"token_rewards": rewards, "scores": scores, "final_values": torch.zeros_like(scores)}
    settings = PPOSettings() if settings is None else settings
    return RoundInputs(mask, {**known, **given}, settings=settings, episodes=episodes)
