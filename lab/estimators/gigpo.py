"""GiGPO: the episode's group advantage, and that of turns that begin in the same state.

A_k = R - mean of R over the group + omega (G_k - mean of G over turns that begin in its state)
G_k = sum_{j >= k} gamma^{j-k} r_j,  gamma the learner's, here per turn

A turn that begins in a state of its own has the episode's part alone. The same state may be there
twice in one episode. The paper also has a form in which deviations divide both parts.

Source: Feng et al. 2025, arXiv:2505.10978, with F_norm = 1 and omega = 1; the paper's gamma is
    0.95.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.envs import Episode
from tokengym.lab.estimators.turns import Turns, centred, last_replies, numbered
from tokengym.rewards import token_credit


@token_credit(by_row=False)
def gigpo(
    paid: Tensor,
    token_rewards: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    group_ids: Tensor,
    episodes: Sequence[Episode],
    gamma: float,
    omega: float = 1.0,
) -> Tensor:
    """GiGPO, where a state is what the environment showed last. Feng et al. 2025."""
    turns = Turns.of(token_rewards, turn_ids, response_mask)
    of_row = group_ids.tolist()
    states = numbered(
        [(of_row[row], shown) for row, one in enumerate(episodes) for shown in last_replies(one)]
    )
    return _advantages(turns, paid, group_ids, states, gamma, omega)


@token_credit(by_row=False)
def gigpo_prefix(
    paid: Tensor,
    token_rewards: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    state_ids: Tensor,
    group_ids: Tensor,
    gamma: float,
    omega: float = 1.0,
) -> Tensor:
    """GiGPO, where a state is the whole conversation so far. Feng et al. 2025."""
    turns = Turns.of(token_rewards, turn_ids, response_mask)
    begins = response_mask.clone()
    begins[:, 1:] &= turn_ids[:, 1:] != turn_ids[:, :-1]
    groups = group_ids[:, None].expand_as(state_ids)[begins].tolist()
    states = numbered(list(zip(groups, state_ids[begins].tolist(), strict=True)))
    return _advantages(turns, paid, group_ids, states, gamma, omega)


def _advantages(
    turns: Turns, paid: Tensor, groups: Tensor, states: Tensor, gamma: float, omega: float
) -> Tensor:
    """Return the advantages (batch, time) of turns that begin in numbered states, (turns,)."""
    of_episode = centred(paid, groups, scale=False)
    returns = losses.rewards_to_go(turns.rewards, turns.mask, gamma=gamma)
    own = torch.zeros_like(returns)
    own[turns.mask] = centred(returns[turns.mask], states.to(returns.device), scale=False)
    return turns.on_tokens(of_episode[:, None] + omega * own)
