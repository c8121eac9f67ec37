"""Returns of turns with a discount in turns, normalised over the turns of a group."""

from __future__ import annotations

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.lab.estimators.turns import Turns, centred
from tokengym.rewards import token_credit


@token_credit(by_row=False)
def turn_returns(
    token_rewards: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    group_ids: Tensor,
    gamma: float,
) -> Tensor:
    """Each turn's return minus the mean over all turns of its group, over their deviation.

    A_k = (G_k - mean G) / (std G + epsilon),  G_k = sum_{j >= k} gamma^{j-k} r_j

    The learner's gamma is a discount per turn here. With gamma=0 a turn has its own reward alone.
    Baronio et al. 2025, Kevin, arXiv:2507.11948, where every turn is a sample of its own.
    """
    turns = Turns.of(token_rewards, turn_ids, response_mask)
    returns = losses.rewards_to_go(turns.rewards, turns.mask, gamma=gamma)
    advantages = torch.zeros_like(returns)
    of_turn = group_ids[:, None].expand_as(returns)[turns.mask]
    advantages[turns.mask] = centred(returns[turns.mask], of_turn, scale=True)
    return turns.on_tokens(advantages)
