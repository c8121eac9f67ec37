"""Turns in a round of tensors: which tokens are whose, and what each turn earns.

Tensors are (batch, time) over tokens or (batch, turns) over the policy's turns, padded at the end.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.ppo import RoundTensors
from tokengym.envs import Episode
from tokengym.lab.rules.turn_credit import POLICY, policy_turns

EPSILON = 1e-6
"""Added to deviations."""


class Turns(NamedTuple):
    """The policy's turns of a round."""

    of_token: Tensor
    """(batch, time) int64, the number of a token's turn; 0 at tokens that nobody credits."""
    mask: Tensor
    """(batch, turns) bool, True at turns that exist."""
    rewards: Tensor
    """(batch, turns), reward units, the sum of a turn's token rewards."""

    def on_tokens(self, values: Tensor, response_mask: Tensor) -> Tensor:
        """Return each token's turn's value, (batch, time), 0 where the mask is False."""
        return values.gather(1, self.of_token).masked_fill(~response_mask, 0.0)


def turns_of(token_rewards: Tensor, response_mask: Tensor) -> Turns:
    """Return the turns of a round: the runs of tokens that the policy wrote.

    A reply that was appended has tokens, so that turns are apart.

    Args:
        token_rewards: (batch, time), reward units.
        response_mask: (batch, time) bool, True at tokens that the policy wrote.

    Example:
        >>> mask = torch.tensor([[True, True, False, True]])
        >>> turns_of(torch.tensor([[0.0, 1.0, 0.0, 2.0]]), mask).rewards.tolist()
        [[1.0, 2.0]]
    """
    begins = response_mask.clone()
    begins[:, 1:] &= ~response_mask[:, :-1]
    of_token = (begins.cumsum(1) - 1).clamp(min=0)
    count = begins.sum(1)
    mask = torch.arange(max(int(count.max()), 1), device=count.device) < count[:, None]
    rewards = torch.zeros(mask.shape, dtype=token_rewards.dtype, device=token_rewards.device)
    rewards.scatter_add_(1, of_token, token_rewards.masked_fill(~response_mask, 0.0))
    return Turns(of_token=of_token, mask=mask, rewards=rewards)


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


State = Callable[[Episode, int, int], Hashable]
"""(episode, number of the turn, its first token) -> what names the state in which it begins."""


def states(played: RoundTensors, group_size: int, state: State) -> Tensor:
    """Return the number of the state in which each turn begins, in the order of `Turns.mask`.

    Turns of different groups never share one.

    Args:
        played: The round, with its episodes.
        group_size: Rows of a group.
        state: Names a state within a group.
    """
    if len(played.episodes) != len(played.response_mask):
        raise ValueError(
            f"an estimator by states reads the episodes of the round, and {len(played.episodes)} "
            f"came with {len(played.response_mask)} responses; leave it out where responses are "
            "enumerated"
        )
    keys = []
    for row, (episode, written) in enumerate(
        zip(played.episodes, played.response_mask, strict=True)
    ):
        if not bool(written.any()):
            continue  # an episode that was lost to a partner's failure
        for number, turn in enumerate(policy_turns(episode)):
            keys.append((row // group_size, state(episode, number, turn.span[0])))
    return numbered(keys).to(played.response_mask.device)


def last_reply(episode: Episode, number: int, start: int) -> Hashable:
    """Return the reply before a turn: what an environment showed last; None before the first."""
    del number
    replies = [turn.text for turn in episode.turns if turn.role != POLICY and turn.span[1] <= start]
    return replies[-1] if start and replies else None


def conversation_so_far(episode: Episode, number: int, start: int) -> Hashable:
    """Return all tokens before a turn: the state of the MDP."""
    del number
    return tuple(episode.response_ids[:start])
