"""Advantages of single responses: rewards to go, and generalised advantage estimation."""

import torch
from torch import Tensor

from tokengym.agents.losses.masks import check_shapes


def rewards_to_go(token_rewards: Tensor, response_mask: Tensor, *, gamma: float = 1.0) -> Tensor:
    """Return what each token and its successors earn.

    G_t = r_t + gamma * G_{t+1}

    Args:
        token_rewards: (batch, time), reward units.
        response_mask: (batch, time) bool, True on the response's own tokens.
        gamma: Discount per token.

    Returns:
        (batch, time), reward units; 0 where the mask is False.

    Raises:
        ValueError: if shapes differ.

    Example:
        >>> rewards = torch.tensor([[0.5, 0.75, 0.0]])
        >>> rewards_to_go(rewards, torch.tensor([[True, True, False]])).tolist()
        [[1.25, 0.75, 0.0]]
    """
    check_shapes(token_rewards, response_mask=response_mask)
    kept = token_rewards.masked_fill(~response_mask, 0.0)
    if gamma == 1.0:
        to_go = kept.flip(1).cumsum(1).flip(1)
    else:
        to_go = torch.zeros_like(kept)
        following = kept.new_zeros(len(kept))
        for t in reversed(range(kept.shape[1])):
            following = kept[:, t] + gamma * following
            to_go[:, t] = following
    return to_go.masked_fill(~response_mask, 0.0)


def rewards_within(
    token_rewards: Tensor, response_mask: Tensor, segment_ends: Tensor, *, gamma: float = 1.0
) -> Tensor:
    """Return what each token and its successors earn up to the end of its segment.

    A_t = r_t + gamma * r_{t+1} + ... + gamma^{e-t} * r_e,  e the last token of t's segment

    Where a segment's reward is its change of value, this is the advantage of each of its tokens.

    Args:
        token_rewards: (batch, time), reward units.
        response_mask: (batch, time) bool, True on the response's own tokens.
        segment_ends: (batch, time) int64, the position of the last token of each token's segment.
        gamma: Discount per token.

    Returns:
        (batch, time), reward units; 0 where the mask is False.

    Raises:
        ValueError: if shapes differ.

    Source: Kazemnejad et al. 2024, arXiv:2410.01679, eq. 6.

    Example:
        >>> rewards, mask = torch.tensor([[0.0, 0.5, 0.25]]), torch.ones(1, 3, dtype=torch.bool)
        >>> rewards_within(rewards, mask, torch.tensor([[1, 1, 2]])).tolist()
        [[0.5, 0.5, 0.25]]
    """
    check_shapes(token_rewards, segment_ends=segment_ends)
    to_go = rewards_to_go(token_rewards, response_mask, gamma=gamma)
    after = torch.cat([to_go[:, 1:], torch.zeros_like(to_go[:, :1])], 1).gather(1, segment_ends)
    steps = segment_ends - torch.arange(to_go.shape[1], device=to_go.device) + 1
    return (to_go - gamma**steps * after).masked_fill(~response_mask, 0.0)


def gae(
    token_rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
    final_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return generalised advantage estimates and the returns that the values should learn.

    delta_t = r_t + gamma * V_{t+1} - V_t
    A_t     = delta_t + gamma * gae_lambda * A_{t+1},  return_t = A_t + V_t

    V past an episode's last token is ``final_values``.

    Args:
        token_rewards: (batch, time), reward units.
        values: (batch, time) V(s_t), s_t being the text before token t, reward units.
        response_mask: (batch, time) bool, True on the response's own tokens, which are contiguous.
        gamma: Discount per token, in [0, 1].
        gae_lambda: In [0, 1]: 1 is Monte Carlo minus the value, 0 the one-step TD error.
        final_values: (batch,) value past the last token; 0 (the default) unless truncated.

    Returns:
        Advantages and returns, both (batch, time), reward units; 0 where the mask is False.

    Raises:
        ValueError: if shapes differ or a coefficient lies outside [0, 1].

    Source: Schulman et al. 2016, arXiv:1506.02438, eq. 11 and 16.

    Example:
        >>> reward, value = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.25]])
        >>> mask = torch.ones(1, 2, dtype=torch.bool)
        >>> gae(reward, value, mask, gamma=1.0, gae_lambda=1.0)[0].tolist()
        [[0.5, 0.75]]
        >>> gae(reward, value, mask, gamma=1.0, gae_lambda=0.0)[0].tolist()
        [[-0.25, 0.75]]
    """
    check_shapes(token_rewards, values=values, response_mask=response_mask)
    for name, coefficient in (("gamma", gamma), ("gae_lambda", gae_lambda)):
        if not 0.0 <= coefficient <= 1.0:
            raise ValueError(
                f"{name} must lie in [0, 1], got {coefficient}; pass 1.0 for no discount"
            )
    next_value = (
        torch.zeros_like(values[:, 0]) if final_values is None else final_values
    )  # (batch,)
    check_shapes(values[:, 0], final_values=next_value)
    advantage = torch.zeros_like(next_value)  # (batch,) A_{t+1}
    advantages = torch.zeros_like(values)
    for t in reversed(range(values.shape[1])):
        mask = response_mask[:, t]
        delta = token_rewards[:, t] + gamma * next_value - values[:, t]
        # Before its last token is reached (from the right), a row carries its final value along.
        advantage = torch.where(mask, delta + gamma * gae_lambda * advantage, advantage)
        next_value = torch.where(mask, values[:, t], next_value)
        advantages[:, t] = advantage
    advantages = advantages.masked_fill(~response_mask, 0.0)
    return advantages, (advantages + values).masked_fill(~response_mask, 0.0)
