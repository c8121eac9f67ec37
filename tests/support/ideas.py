"""Five ideas about token credit, as a user writes them: functions of named inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokengym import token_credit
from tokengym.rewards import shares

if TYPE_CHECKING:
    from torch import Tensor


@token_credit
def by_entropy(paid: Tensor, response_mask: Tensor, entropy: Tensor) -> Tensor:
    """The score in proportion to the policy's entropy before each token."""
    return paid[:, None] * shares(entropy, response_mask)


@token_credit
def by_surprise(paid: Tensor, response_mask: Tensor, log_probs: Tensor) -> Tensor:
    """The score in proportion to how unlikely each token was."""
    return paid[:, None] * shares(-log_probs, response_mask)


@token_credit(conserves=False)
def by_value_change(values: Tensor, token_rewards: Tensor, response_mask: Tensor) -> Tensor:
    """What each token earned and how it moved the value: r_t + V_{t+1} - V_t."""
    after = values.roll(-1, 1) * response_mask.roll(-1, 1)
    after[:, -1] = 0.0
    return token_rewards + after - values


@token_credit(conserves=False)
def by_verdict(turn_scores: Tensor) -> Tensor:
    """The partner's verdict on each turn, at the turn's last token."""
    return turn_scores.nan_to_num()


@token_credit
def by_distance(paid: Tensor, response_mask: Tensor, hidden_states: Tensor) -> Tensor:
    """The score in proportion to how far each token moved the policy's state."""
    moved = (hidden_states - hidden_states.roll(1, 1)).norm(dim=-1)
    moved[:, 0] = hidden_states[:, 0].norm(dim=-1)
    return paid[:, None] * shares(moved, response_mask)
