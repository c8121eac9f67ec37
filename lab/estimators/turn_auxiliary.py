"""A turn's own reward beside the episode's advantage."""

from __future__ import annotations

from torch import Tensor

from tokengym.agents import losses
from tokengym.lab.estimators.turns import Turns
from tokengym.rewards import token_credit


@token_credit(by_row=False)
def turn_auxiliary(
    paid: Tensor,
    token_rewards: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    group_size: int,
    std_floor: float,
    weight: float = 1.0,
) -> Tensor:
    """The advantage of `grpo` plus the reward of each token's own turn, times ``weight``.

    A_k = (R - mean R) / (std R + epsilon) + weight r_k

    The second part has no baseline and no future: a turn with a reward of its own is made likelier
    whatever the episode came to. NeMo-RL's pull request 3543, 2026, with immediate credit.
    """
    turns = Turns.of(token_rewards, turn_ids, response_mask)
    of_episode = losses.grpo(paid, group_size, std_floor=std_floor)
    return turns.on_tokens(of_episode[:, None] + weight * turns.rewards)
