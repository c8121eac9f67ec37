"""Turns in a round of tensors: which tokens are whose, and what each turn earns.

Tensors are (batch, time) over tokens or (batch, turns) over the policy's turns, padded at the end.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.envs import Episode

POLICY = "assistant"
"""Role of the turns that the policy writes."""
EPSILON = 1e-6
"""Added to deviations."""


class Turns(NamedTuple):
    """The policy's turns of a round."""

    of_token: Tensor
    """(batch, time) int64, the number of a token's turn; 0 past a row's end."""
    response_mask: Tensor
    """(batch, time) bool, True at a row's tokens."""
    mask: Tensor
    """(batch, turns) bool, True at turns that exist."""
    rewards: Tensor
    """(batch, turns), reward units, the sum of a turn's token rewards."""

    @classmethod
    def of(cls, token_rewards: Tensor, turn_ids: Tensor, response_mask: Tensor) -> Turns:
        """Return the turns of a round.

        Args:
            token_rewards: (batch, time), reward units.
            turn_ids: (batch, time) int64, the number of each token's turn.
            response_mask: (batch, time) bool, True at a row's tokens.

        Example:
            >>> ids, mask = torch.tensor([[0, 0, 1]]), torch.ones(1, 3, dtype=torch.bool)
            >>> Turns.of(torch.tensor([[0.0, 1.0, 2.0]]), ids, mask).rewards.tolist()
            [[1.0, 2.0]]
        """
        last = turn_ids.where(response_mask, -1).amax(1, keepdim=True)
        of_token = turn_ids.where(response_mask, 0)
        mask = torch.arange(int(last.max()) + 1, device=last.device) <= last
        rewards = torch.zeros(mask.shape, dtype=token_rewards.dtype, device=token_rewards.device)
        rewards.scatter_add_(1, of_token, token_rewards.where(response_mask, 0.0))
        return cls(of_token=of_token, response_mask=response_mask, mask=mask, rewards=rewards)

    def on_tokens(self, values: Tensor) -> Tensor:
        """Return each token's turn's value, (batch, time), of (batch, turns) values."""
        return values.gather(1, self.of_token).where(self.response_mask, 0.0)


def centred(values: Tensor, groups: Tensor, *, scale: bool) -> Tensor:
    """Return values minus the mean of their group, over its deviation where ``scale``.

    A = x - mean, or (x - mean) / (std + epsilon) with n - 1 in the denominator; 0 alone in a group,
    and among equal values

    Args:
        values: (n,).
        groups: (n,) int64, the number of each value's group.
        scale: Whether to divide.

    Example:
        >>> centred(torch.tensor([1.0, 3.0, 7.0]), torch.tensor([0, 0, 1]), scale=False).tolist()
        [-1.0, 1.0, 0.0]
    """
    size = int(groups.max()) + 1 if len(groups) else 0
    zeros = torch.zeros(size, dtype=values.dtype, device=values.device)
    count = zeros.index_add(0, groups, torch.ones_like(values))
    mean = zeros.index_add(0, groups, values) / count.clamp(min=1)
    ends = [
        torch.zeros_like(zeros).scatter_reduce(0, groups, values, how, include_self=False)
        for how in ("amin", "amax")
    ]
    equal = losses.no_spread(torch.stack(ends, 1), dim=1).squeeze(1)
    away = (values - mean[groups]).masked_fill(equal[groups], 0.0)
    if not scale:
        return away
    variance = zeros.index_add(0, groups, away**2) / (count - 1).clamp(min=1)
    return away / (variance.sqrt()[groups] + EPSILON)


def numbered(keys: Sequence[Hashable]) -> Tensor:
    """Return a number per key, equal for equal keys, (n,) int64.

    Example:
        >>> numbered(["a", "b", "a"]).tolist()
        [0, 1, 0]
    """
    known: dict[Hashable, int] = {}
    return torch.tensor([known.setdefault(key, len(known)) for key in keys], dtype=torch.int64)


def last_replies(episode: Episode) -> list[str | None]:
    """Return what an environment showed last before each turn of the policy's; None of nothing."""
    shown, found = None, list[str | None]()
    for turn in episode.turns:
        if turn.role == POLICY:
            found.append(shown)
        else:
            shown = turn.text
    return found or [None]
