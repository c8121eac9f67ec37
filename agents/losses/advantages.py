"""Advantages of single responses and against a group, and weights over the tokens.

Token rewards and values are (batch, time), reward units; a mask is True on a response's own tokens,
past which every result is 0. Whatever type comes in, results are float32 or float64, and values
that differ by no more than rounding have advantage 0 against each other. Scores are (batch,). N
responses of a group answer one prompt and are neighbours in the batch: ``group_size`` is N, at
least 2, and divides the batch.

``rloo``, ``grpo`` and ``dr_grpo`` read the score of a whole response, so they cannot see which
token was credited; ``leave_one_out`` reads token rewards. Three published ways of joining token
rewards with a group baseline are biased (the number of terms that are subtracted depends on the
response's own length, and so on the action); excluding the row itself from the mean of rewards to
go is not. ``tests/suite/agents/losses/test_groups.py`` enumerates this exactly.

A weight redistributes an advantage over the tokens of a response, where a credit rule redistributes
its reward. Weights are (batch, time), >= 0, and have mean 1 over each response, so that the size of
the step stays what it was.
"""

import torch
from torch import Tensor

from tokengym.agents.losses.policy import at_least_float32, check_shapes, no_spread


def rewards_to_go(token_rewards: Tensor, response_mask: Tensor, *, gamma: float = 1.0) -> Tensor:
    """Return what each token and its successors earn.

    G_t = r_t + gamma * G_{t+1},  t + 1 the next token where the mask is True

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
    return _to_go(token_rewards, response_mask, gamma).masked_fill(~response_mask, 0.0)


def _to_go(token_rewards: Tensor, response_mask: Tensor, gamma: float) -> Tensor:
    """Return the rewards to go; where the mask is False, those of the next token that has any."""
    check_shapes(token_rewards, response_mask=response_mask)
    kept = at_least_float32(token_rewards).masked_fill(~response_mask, 0.0)
    if gamma == 1.0:
        return kept.flip(1).cumsum(1).flip(1)
    to_go = torch.zeros_like(kept)
    following = kept.new_zeros(len(kept))
    for t in reversed(range(kept.shape[1])):
        # Tokens between that the policy did not write take no time.
        following = torch.where(response_mask[:, t], kept[:, t] + gamma * following, following)
        to_go[:, t] = following
    return to_go


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
    # What is earned after the segment comes off, discounted by the tokens that lie between.
    to_go = _to_go(token_rewards, response_mask, gamma)
    after = torch.cat([to_go[:, 1:], torch.zeros_like(to_go[:, :1])], 1).gather(1, segment_ends)
    count = response_mask.cumsum(1)
    steps = count.gather(1, segment_ends) - count + 1
    return (to_go - gamma**steps * after).masked_fill(~response_mask, 0.0)


def gae(
    token_rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    *,
    gamma: float,
    gae_lambda: float | Tensor,
    final_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return generalised advantage estimates and the returns that the values should learn.

    delta_t = r_t + gamma * V_{t+1} - V_t
    A_t     = delta_t + gamma * gae_lambda * A_{t+1},  return_t = A_t + V_t

    V past an episode's last token is ``final_values``.

    Args:
        token_rewards: (batch, time), reward units.
        values: (batch, time) V(s_t), s_t being the text before token t, reward units.
        response_mask: (batch, time) bool, True on the response's own tokens. The step from a turn's
            last token leads to the next turn's first, over the reply between them.
        gamma: Discount per token, in [0, 1].
        gae_lambda: In [0, 1]: 1 is Monte Carlo minus the value, 0 the one-step TD error. (batch,)
            gives each episode its own.
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
    token_rewards, values = at_least_float32(token_rewards), at_least_float32(values)
    lambdas = [gae_lambda]
    if isinstance(gae_lambda, Tensor):
        check_shapes(values[:, 0], gae_lambda=gae_lambda)
        lambdas = gae_lambda.tolist()
    for name, coefficient in [("gamma", gamma), *(("gae_lambda", each) for each in lambdas)]:
        if not 0.0 <= coefficient <= 1.0:
            raise ValueError(
                f"{name} must lie in [0, 1], got {coefficient}; pass 1.0 for no discount"
            )
    # (batch,) V_{t+1}
    next_value = torch.zeros_like(values[:, 0]) if final_values is None else final_values
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


def check_groups(rows: int, group_size: int) -> None:
    """Raise unless the rows are whole groups of at least two.

    Raises:
        ValueError: if a group has fewer than two rows, or the last one is not whole.
    """
    if group_size < 2:
        raise ValueError(
            f"group_size must be >= 2, got {group_size}; a group of one has no baseline"
        )
    if rows % group_size:
        raise ValueError(
            f"group_size must divide the number of rows, got {group_size} for {rows} rows; take "
            f"{group_size * max(rows // group_size, 1)} rows"
        )


def _groups(scores: Tensor, group_size: int) -> Tensor:
    """Return scores by group, (prompts, N) of float32 at least, which must be whole."""
    check_groups(len(scores), group_size)
    return at_least_float32(scores).view(-1, group_size)


def rloo(scores: Tensor, group_size: int) -> Tensor:
    """Return each response's score minus the mean score of the others in its group.

    A_i = R_i - sum_{j != i} R_j / (N - 1)

    Args:
        scores: (batch,), reward units, group after group.
        group_size: N, at least 2.

    Returns:
        (batch,), reward units; the same at every token of a response.

    Raises:
        ValueError: if the rows are not whole groups of at least two.

    Source: Ahmadian et al. 2024, arXiv:2402.14740, section 3.3.

    Example:
        >>> rloo(torch.tensor([1.0, 2.0, 6.0]), 3).tolist()
        [-3.0, -1.5, 4.5]
    """
    groups = _groups(scores, group_size)
    others = (groups.sum(1, keepdim=True) - groups) / (group_size - 1)
    return (groups - others).masked_fill(no_spread(groups, dim=1), 0.0).flatten()


def grpo(
    scores: Tensor, group_size: int, *, epsilon: float = 1e-4, std_floor: float = 0.0
) -> Tensor:
    """Return each response's score, centred and scaled by its group.

    A_i = (R_i - mean(R)) / (std(R) + epsilon),  std with N - 1 in the denominator

    The deviation weighs very easy and very hard prompts up (see `dr_grpo`). A group of equal scores
    has advantage 0, not 0 / 0.

    Args:
        scores: (batch,), reward units, group after group.
        group_size: N, at least 2.
        epsilon: Added to the deviation. The default is TRL's; verl has 1e-6, OpenRLHF 1e-9,
            AgileRL 1e-8.
        std_floor: Least deviation to divide by, reward units.

    Returns:
        (batch,), unitless; the same at every token of a response.

    Raises:
        ValueError: if the rows are not whole groups of at least two.

    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.2.

    Example:
        >>> [round(a, 3) for a in grpo(torch.tensor([1.0, 3.0]), 2).tolist()]
        [-0.707, 0.707]
        >>> grpo(torch.tensor([2.0, 2.0]), 2).tolist()
        [0.0, 0.0]
    """
    groups = _groups(scores, group_size)
    centred = (groups - groups.mean(1, keepdim=True)).masked_fill(no_spread(groups, dim=1), 0.0)
    return (centred / (_deviations(groups).clamp(min=std_floor) + epsilon)).flatten()


def dr_grpo(scores: Tensor, group_size: int) -> Tensor:
    """Return each response's score minus the mean score of its group, unscaled.

    A_i = R_i - mean(R)

    It is (N - 1) / N times `rloo`. Dr. GRPO also divides the loss by a constant, not by the
    response's length: ``loss_mean="constant"``.

    Args:
        scores: (batch,), reward units, group after group.
        group_size: N, at least 2.

    Returns:
        (batch,), reward units; the same at every token of a response.

    Raises:
        ValueError: if the rows are not whole groups of at least two.

    Source: Liu et al. 2025, arXiv:2503.20783, section 3.2.

    Example:
        >>> dr_grpo(torch.tensor([1.0, 3.0]), 2).tolist()
        [-1.0, 1.0]
    """
    groups = _groups(scores, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    return centred.masked_fill(no_spread(groups, dim=1), 0.0).flatten()


def leave_one_out(
    token_rewards: Tensor,
    response_mask: Tensor,
    group_size: int,
    *,
    gamma: float = 1.0,
    state_ids: Tensor | None = None,
) -> Tensor:
    """Return each reward to go minus the mean of the other rows' that are still being written.

    A_it = G_it - mean over {j != i : T_j > t} of G_jt;  G_it where no other row is alive

    T_j counts row j's tokens up to its last own one. At tokens between that it did not write, G_jt
    is the reward to go of its next own token.

    The baseline of token t is computed from other rows alone, whose lengths and rewards do not
    depend on this row's tokens: it is a function of the prompt and t, and keeps the gradient
    unbiased.

    In conversations the other rows are those whose turn began after the same tokens, and where a
    turn after the first has none, the baseline is the mean of the others' whole returns. Which it
    is depends on what this row wrote before the turn alone, so that holds again.

    Args:
        token_rewards: (batch, time), reward units, group after group.
        response_mask: (batch, time) bool, True on the response's own tokens.
        group_size: N, at least 2.
        gamma: Discount per token.
        state_ids: (batch, time) int64, in conversations: equal at tokens of turns that began after
            the same tokens, in whatever row; a row's first column is of its first turn.

    Returns:
        (batch, time), reward units; 0 where the mask is False.

    Raises:
        ValueError: if shapes differ or the rows are not whole groups of at least two.

    Example:
        >>> rewards = torch.tensor([[0.5, 0.75], [1.0, 0.0]])
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> leave_one_out(rewards, mask, 2).tolist()
        [[0.25, 0.75], [-0.25, 0.0]]
    """
    check_groups(len(token_rewards), group_size)
    if state_ids is not None:
        check_shapes(token_rewards, state_ids=state_ids)
        in_later = response_mask & (state_ids != state_ids[:, :1])
        if bool(in_later.any()):
            to_go = rewards_to_go(token_rewards, response_mask, gamma=gamma)
            groups = to_go.view(-1, group_size, to_go.shape[1])  # (prompts, N, time)
            advantages = _turn_advantages(groups, response_mask, state_ids)
            return advantages.view_as(to_go).masked_fill(~response_mask, 0.0)
    to_go = _to_go(token_rewards, response_mask, gamma)
    groups = to_go.view(-1, group_size, to_go.shape[1])
    # Alive up to the last own token: a row that reads a reply is one that will go on.
    is_alive = (response_mask.flip(1).cumsum(1).flip(1) > 0).view_as(groups)
    alive = is_alive.to(to_go.dtype)
    others_alive = alive.sum(1, keepdim=True) - alive
    others_sum = groups.sum(1, keepdim=True) - groups  # finished rows add 0
    baseline = others_sum / others_alive.clamp(min=1.0)
    equal = no_spread(groups, is_alive, 1) & (others_alive > 0)
    advantages = (groups - baseline).masked_fill(equal, 0.0)
    return advantages.view_as(to_go).masked_fill(~response_mask, 0.0)


def _turn_advantages(to_go: Tensor, response_mask: Tensor, state_ids: Tensor) -> Tensor:
    """Return the advantages of `leave_one_out` in conversations, (prompts, N, time)."""
    mask, states = response_mask.view(to_go.shape), state_ids.view(to_go.shape)
    size = to_go.shape[1]
    # Rows whose turn began after the same tokens are at the same place of it in the same column.
    peers = (states[:, :, None] == states[:, None]) & mask[:, None]  # (prompts, N, N, time)
    itself = torch.eye(size, dtype=torch.bool, device=mask.device)[..., None]
    peers &= ~itself
    count = peers.sum(2)
    shared = (peers * to_go[:, None]).sum(2) / count.clamp(min=1)
    alone = (count == 0) & (states != states[..., :1])
    whole = to_go[..., :1]
    wholes = (whole.sum(1, keepdim=True) - whole) / (size - 1)
    baseline = torch.where(alone, wholes, shared)
    # What each row is held against, (prompts, N, N, time), with the row itself on the diagonal.
    seen = torch.where(alone[:, :, None], whole[:, None], to_go[:, None])
    seen = torch.where(itself, to_go[:, :, None], seen)
    others = torch.where(alone[:, :, None], ~itself, peers)
    equal = no_spread(seen, others | itself, 2).squeeze(2) & others.any(2)
    return (to_go - baseline).masked_fill(equal, 0.0)


def varied_groups(scores: Tensor, group_size: int) -> Tensor:
    """Return which rows belong to groups whose scores differ, (batch,) bool.

    A group of equal scores teaches nothing under a group baseline; DAPO drops it
    (arXiv:2503.14476, section 3.2).

    Args:
        scores: (batch,), reward units, group after group.
        group_size: N, at least 2.

    Raises:
        ValueError: if the rows are not whole groups of at least two.

    Example:
        >>> varied_groups(torch.tensor([1.0, 1.0, 0.0, 1.0]), 2).tolist()
        [False, False, True, True]
    """
    varied = ~no_spread(_groups(scores, group_size), dim=1)
    return varied.flatten().repeat_interleave(group_size)


def _deviations(groups: Tensor) -> Tensor:
    """Return each group's standard deviation, (prompts, 1), where float32 overflows by float64.

    A GPU adds the squares in float32; by an infinite deviation every advantage would be 0.
    """
    deviations = groups.std(1, keepdim=True)
    return torch.where(
        deviations.isfinite(), deviations, groups.double().std(1, keepdim=True).to(deviations.dtype)
    )


def mean_one(weights: Tensor, response_mask: Tensor) -> Tensor:
    """Return weights divided by their mean over each response.

    w_t n / sum over s of w_s;  1 everywhere in a response whose weights are all 0

    Args:
        weights: (batch, time), >= 0, any scale.
        response_mask: (batch, time) bool.

    Returns:
        (batch, time), unitless; 0 where the mask is False.

    Example:
        >>> mean_one(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]])).tolist()
        [[0.5, 1.5, 0.0]]
    """
    check_shapes(response_mask, weights=weights)
    kept = at_least_float32(weights).masked_fill(~response_mask, 0.0)
    total = kept.sum(1, keepdim=True)
    lengths = response_mask.sum(1, keepdim=True)
    scaled = torch.where(total > 0, kept * lengths / total.clamp(min=1e-30), 1.0)
    return scaled.masked_fill(~response_mask, 0.0)
