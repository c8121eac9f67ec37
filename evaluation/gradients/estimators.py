"""Published constructions that join token rewards with a group baseline, and are biased.

They are negative controls of the gradient check, not learners. Each subtracts a number of terms
that depends on the response's own length, and so on the action.
"""

from torch import Tensor

from tokengym.agents.losses import rewards_to_go


def prime(token_rewards: Tensor, response_mask: Tensor, group_size: int) -> Tensor:
    """Return the advantages of PRIME, before whitening.

    r'_it = r_it N / (N - 1) - sum over j of mean(r_j) / (N - 1),  A_it = sum over s >= t of r'_is

    Args:
        token_rewards: (batch, time), reward units, group after group; 0 past the end.
        response_mask: (batch, time) bool.
        group_size: N, at least 2.

    Returns:
        (batch, time), reward units.

    Source: Cui et al. 2025, arXiv:2502.01456; training/verl/trainer/ppo/core_algos.py.
    """
    n = group_size
    means = token_rewards.sum(1) / response_mask.sum(1)
    shift = means.view(-1, n).sum(1).repeat_interleave(n) / (n - 1)
    return rewards_to_go(token_rewards * n / (n - 1) - shift[:, None], response_mask)


def centred_steps(token_rewards: Tensor, response_mask: Tensor, group_size: int) -> Tensor:
    """Return the advantages of DeepSeekMath's process supervision, without the deviation.

    A_it = sum over s >= t of (r_is - mean of all token rewards of the group)

    Args:
        token_rewards: (batch, time), reward units, group after group; 0 past the end.
        response_mask: (batch, time) bool.
        group_size: N, at least 2.

    Returns:
        (batch, time), reward units.

    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.3.
    """
    total = token_rewards.sum(1).view(-1, group_size).sum(1)
    tokens = response_mask.sum(1).view(-1, group_size).sum(1)
    mean = (total / tokens).repeat_interleave(group_size)
    return rewards_to_go(token_rewards - mean[:, None], response_mask)


def per_index_mean(token_rewards: Tensor, response_mask: Tensor, group_size: int) -> Tensor:
    """Return rewards to go of rewards that are centred index by index over the group.

    A_it = sum over s >= t of (r_is - mean over the rows alive at s of r_js)

    Args:
        token_rewards: (batch, time), reward units, group after group; 0 past the end.
        response_mask: (batch, time) bool.
        group_size: N, at least 2.

    Returns:
        (batch, time), reward units.

    Source: the construction that verl's issue 7244 warns of.
    """
    shape = (-1, group_size, token_rewards.shape[1])
    alive = response_mask.view(shape).sum(1).clamp(min=1)
    mean = token_rewards.view(shape).sum(1) / alive
    centred = token_rewards - mean.repeat_interleave(group_size, 0)
    return rewards_to_go(centred, response_mask)
