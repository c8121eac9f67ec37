"""Estimators with one mistake each, and stand-ins with the signatures of known trainers."""

import numpy as np
import torch
from torch import Tensor

from tokengym.agents import losses


def to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """Return undiscounted rewards to go."""
    return (rewards * mask).flip(1).cumsum(1).flip(1)


def group_mean(values: Tensor, group_ids: Tensor) -> Tensor:
    """Return each row's mean over the rows of its group, (batch, ...)."""
    same = (group_ids[:, None] == group_ids).to(values.dtype)
    return same @ values / same.sum(1, keepdim=values.ndim > 1)


# --- mistakes -------------------------------------------------------------------------------------


def own_reward(token_rewards: Tensor, response_mask: Tensor, group_ids: Tensor) -> Tensor:
    """Each token's own reward minus the mean at its index; nothing of what follows."""
    alive = group_mean(response_mask.float(), group_ids).clamp(min=1e-6)
    return token_rewards - group_mean(token_rewards, group_ids) / alive


def late(token_rewards: Tensor, response_mask: Tensor) -> Tensor:
    """The reward to go from the next token on."""
    returns = to_go(token_rewards, response_mask)
    return torch.cat([returns[:, 1:], torch.zeros_like(returns[:, :1])], 1)


def whitened_before_the_mask(token_rewards: Tensor, response_mask: Tensor) -> Tensor:
    """Rewards to go, whitened over padding too, which is then not at 0."""
    returns = to_go(token_rewards, response_mask)
    return (returns - returns.mean()) / (returns.std() + 1e-6)


def mean_of_each_index(token_rewards: Tensor, response_mask: Tensor, group_ids: Tensor) -> Tensor:
    """Rewards minus the mean of those alive at their index, then summed."""
    alive = group_mean(response_mask.float(), group_ids).clamp(min=1e-6)
    return to_go(token_rewards - group_mean(token_rewards, group_ids) / alive, response_mask)


def per_length(token_rewards: Tensor, response_mask: Tensor) -> Tensor:
    """The score over the number of tokens."""
    score = (token_rewards * response_mask).sum(1, keepdim=True)
    return score / response_mask.sum(1, keepdim=True)


def value_after(token_rewards: Tensor, response_mask: Tensor, values: Tensor) -> Tensor:
    """The reward to go minus the value of the state that the token leads to."""
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    return to_go(token_rewards, response_mask) - after


def masked_values(token_rewards: Tensor, response_mask: Tensor, values: Tensor) -> Tensor:
    """One-step errors that bootstrap from what stands in the next column, padding or not."""
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    return (token_rewards + after - values) * response_mask


def turn_sums(token_rewards: Tensor, turn_ids: Tensor) -> Tensor:
    """Return the reward of each turn, (batch, turns)."""
    sums = torch.zeros(len(turn_ids), int(turn_ids.max()) + 1)
    return sums.scatter_add(1, turn_ids.clamp(min=0), token_rewards * (turn_ids >= 0))


def other_turns(token_rewards: Tensor, turn_ids: Tensor) -> Tensor:
    """A turn's reward minus the mean of the same response's other turns."""
    sums = turn_sums(token_rewards, turn_ids)
    count = turn_ids.max(1, keepdim=True).values + 1
    others = (sums.sum(1, keepdim=True) - sums) / (count - 1).clamp(min=1)
    return (sums - others).gather(1, turn_ids.clamp(min=0))


def turns_alone(token_rewards: Tensor, turn_ids: Tensor, group_ids: Tensor) -> Tensor:
    """A turn's own reward minus the mean of those that played it."""
    sums = turn_sums(token_rewards, turn_ids)
    number = torch.arange(sums.shape[1])
    played = (number[None] <= turn_ids.max(1, keepdim=True).values).float()
    mean = group_mean(sums, group_ids) / group_mean(played, group_ids).clamp(min=1e-6)
    return ((sums - mean) * played).gather(1, turn_ids.clamp(min=0))


def mean_of_each_turn(token_rewards: Tensor, turn_ids: Tensor, group_ids: Tensor) -> Tensor:
    """Turns' rewards minus the mean of those that played them, then summed."""
    sums = turn_sums(token_rewards, turn_ids)
    number = torch.arange(sums.shape[1])
    played = (number[None] <= turn_ids.max(1, keepdim=True).values).float()
    mean = group_mean(sums, group_ids) / group_mean(played, group_ids).clamp(min=1e-6)
    return to_go(sums - mean, played).gather(1, turn_ids.clamp(min=0))


def divided_by_zero(scores: Tensor, group_ids: Tensor) -> Tensor:
    """Scores over their group's deviation, with nothing added to it."""
    centred = scores - group_mean(scores, group_ids)
    return centred / group_mean(centred**2, group_ids).sqrt()


def ranks(scores: Tensor, group_ids: Tensor) -> Tensor:
    """Ranks of scores among the batch, which a rare large return does not make larger."""
    del group_ids
    return scores.argsort().argsort().to(scores.dtype) - (len(scores) - 1) / 2.0


def neighbours(scores: Tensor, group_ids: Tensor) -> Tensor:
    """Scores minus the mean of blocks of rows, whoever's they are."""
    size = int((group_ids == group_ids[0]).sum())
    means = [block.mean().expand(len(block)) for block in scores.split(size)]
    return scores - torch.cat(means)


def blocks(scores: Tensor, group_ids: Tensor, group_size: int) -> Tensor:
    """Scores minus the mean of blocks of as many rows as a group has, whoever's they are."""
    del group_ids
    groups = scores.view(-1, group_size)
    return (groups - groups.mean(1, keepdim=True)).flatten()


def a_large_constant(token_rewards: Tensor, response_mask: Tensor) -> Tensor:
    """The same for all tokens, whatever they earn."""
    return torch.full_like(token_rewards, 1000.0) * response_mask


def refuses_equal(scores: Tensor, group_ids: Tensor) -> Tensor:
    """Raises where a group has no deviation."""
    centred = scores - group_mean(scores, group_ids)
    if float(centred.abs().max()) == 0.0:
        raise ValueError("the rewards of a group are equal")
    return centred


def discounts_backwards(token_rewards: Tensor, response_mask: Tensor, gamma: float) -> Tensor:
    """Rewards to go in which the present is discounted and the future is not."""
    returns = to_go(token_rewards, response_mask)
    return returns - (1.0 - gamma) * token_rewards


# --- stand-ins ------------------------------------------------------------------------------------


def verl_grpo(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: np.ndarray,
    epsilon: float = 1e-6,
    norm_adv_by_std_in_grpo: bool = True,
    config: object = None,
) -> tuple[Tensor, Tensor]:
    """A group's scores, centred and scaled, at every token."""
    del config
    scores = token_level_rewards.sum(1)
    advantages = torch.zeros_like(scores)
    for group in set(index):
        own = torch.from_numpy(index == group)
        advantages[own] = scores[own] - scores[own].mean()
        if norm_adv_by_std_in_grpo:
            advantages[own] /= scores[own].std() + epsilon
    spread = advantages[:, None] * response_mask
    return spread, spread


def verl_gae(
    token_level_rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """GAE, which steps over what the policy did not write."""
    return losses.gae(
        token_level_rewards, values, response_mask.bool(), gamma=gamma, gae_lambda=lam
    )


def trl_rloo(rewards: Tensor, num_generations: int) -> Tensor:
    """A score minus the mean of the others'."""
    return losses.rloo(rewards, num_generations)


def openrlhf_returns(rewards: Tensor, action_mask: Tensor, gamma: float) -> Tensor:
    """Discounted rewards to go."""
    return losses.rewards_to_go(rewards, action_mask.bool(), gamma=gamma)


def turn_matrix(rewards: Tensor, turn_ids: Tensor, action_masks: Tensor) -> Tensor:
    """Rewards to go of turns."""
    returns = rewards.flip(1).cumsum(1).flip(1)
    return returns.gather(1, turn_ids.clamp(min=0)) * action_masks


def nemo(prompt_ids: Tensor, rewards: Tensor, mask: Tensor, **_: object) -> Tensor:
    """A score minus its group's mean."""
    return (rewards - group_mean(rewards, prompt_ids[:, 0]))[:, None].expand(mask.shape)


def step_lists(rewards: list[list[float]]) -> list[np.ndarray]:
    """Rewards to go, a list per response."""
    return [np.cumsum(row[::-1])[::-1] for row in rewards]


def score_lists(rewards: list[np.ndarray], algorithm_config: object) -> tuple[list, list]:
    """Scores minus the mean of each group."""
    del algorithm_config
    advantages = [group - group.mean() for group in rewards]
    return advantages, advantages


def paid_a_token(token_rewards: Tensor, response_mask: Tensor, group_size: int) -> Tensor:
    """Rewards to go, and a price for every token that falls with the group."""
    price = 0.5 / group_size
    return to_go(token_rewards + price, response_mask)


def whitened(token_rewards: Tensor, response_mask: Tensor) -> Tensor:
    """Rewards to go, whitened over the batch's own tokens."""
    returns = losses.rewards_to_go(token_rewards, response_mask)
    return losses.masked_whiten(returns, response_mask)
