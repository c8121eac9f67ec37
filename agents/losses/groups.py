"""Advantages without a critic: baselines taken from the other responses to the same prompt.

N responses of a group answer one prompt. ``rloo``, ``grpo`` and ``dr_grpo`` read the score of a
whole response, so they cannot see which token was credited; ``leave_one_out`` reads token rewards.
Three published ways of joining token rewards with a group baseline are biased (the number of terms
that are subtracted depends on the response's own length, and so on the action); excluding the row
itself from the mean of rewards to go is not. ``tests/agents/losses/test_groups.py`` enumerates
this exactly.
"""

import torch
from torch import Tensor

from tokengym.agents.losses.advantages import rewards_to_go


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
        >>> import torch
        >>> rloo(torch.tensor([1.0, 2.0, 6.0]), 3).tolist()
        [-3.0, -1.5, 4.5]
    """
    check_groups(len(scores), group_size)
    groups = scores.view(-1, group_size)
    others = (groups.sum(1, keepdim=True) - groups) / (group_size - 1)
    return (groups - others).flatten()


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
        >>> import torch
        >>> [round(a, 3) for a in grpo(torch.tensor([1.0, 3.0]), 2).tolist()]
        [-0.707, 0.707]
        >>> grpo(torch.tensor([2.0, 2.0]), 2).tolist()
        [0.0, 0.0]
    """
    check_groups(len(scores), group_size)
    groups = scores.view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
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
        >>> import torch
        >>> dr_grpo(torch.tensor([1.0, 3.0]), 2).tolist()
        [-1.0, 1.0]
    """
    check_groups(len(scores), group_size)
    groups = scores.view(-1, group_size)
    return (groups - groups.mean(1, keepdim=True)).flatten()


def leave_one_out(
    token_rewards: Tensor, response_mask: Tensor, group_size: int, *, gamma: float = 1.0
) -> Tensor:
    """Return each reward to go minus the mean of the other rows' that are still being written.

    A_it = G_it - mean over {j != i : T_j > t} of G_jt;  G_it where no other row is alive

    The baseline of token t is computed from other rows alone, whose lengths and rewards do not
    depend on this row's tokens: it is a function of the prompt and t, and keeps the gradient
    unbiased.

    Args:
        token_rewards: (batch, time), reward units, group after group.
        response_mask: (batch, time) bool, True on the response's own tokens.
        group_size: N, at least 2.
        gamma: Discount per token.

    Returns:
        (batch, time), reward units; 0 where the mask is False.

    Raises:
        ValueError: if shapes differ or the rows are not whole groups of at least two.

    Example:
        >>> import torch
        >>> rewards = torch.tensor([[0.5, 0.75], [1.0, 0.0]])
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> leave_one_out(rewards, mask, 2).tolist()
        [[0.25, 0.75], [-0.25, 0.0]]
    """
    check_groups(len(token_rewards), group_size)
    to_go = rewards_to_go(token_rewards, response_mask, gamma=gamma)
    groups = to_go.view(-1, group_size, to_go.shape[1])  # (prompts, N, time)
    alive = response_mask.view_as(groups).to(to_go.dtype)
    others_alive = alive.sum(1, keepdim=True) - alive
    others_sum = groups.sum(1, keepdim=True) - groups  # finished rows add 0
    baseline = others_sum / others_alive.clamp(min=1.0)
    return (groups - baseline).view_as(to_go).masked_fill(~response_mask, 0.0)


def varied_groups(scores: Tensor, group_size: int, *, floor: float = 0.0) -> Tensor:
    """Return which rows belong to groups whose scores differ, (batch,) bool.

    A group of equal scores teaches nothing under a group baseline; DAPO drops it
    (arXiv:2503.14476, section 3.2).

    Args:
        scores: (batch,), reward units, group after group.
        group_size: N, at least 2.
        floor: Standard deviation that a group must exceed, reward units.

    Raises:
        ValueError: if the rows are not whole groups of at least two.

    Example:
        >>> import torch
        >>> varied_groups(torch.tensor([1.0, 1.0, 0.0, 1.0]), 2).tolist()
        [False, False, True, True]
    """
    check_groups(len(scores), group_size)
    deviations = _deviations(scores.view(-1, group_size))
    return (deviations > floor).flatten().repeat_interleave(group_size)


def _deviations(groups: Tensor) -> Tensor:
    """Return each group's standard deviation, (prompts, 1), where float32 overflows by float64.

    A GPU adds the squares in float32; by an infinite deviation every advantage would be 0.
    """
    found = groups.std(1, keepdim=True)
    return torch.where(
        found.isfinite(), found, groups.double().std(1, keepdim=True).to(found.dtype)
    )
