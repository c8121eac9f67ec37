"""Forty estimators, twenty right and twenty wrong; most stand nowhere in the audit's sources."""

import torch
from torch import Tensor

from tokengym.lab.audit import tokengym_audit as names


def go(rewards: Tensor, mask: Tensor) -> Tensor:
    """Return rewards to go."""
    return (rewards * mask).flip(1).cumsum(1).flip(1)


def score(rewards: Tensor, mask: Tensor) -> Tensor:
    """Return whole scores, (batch, 1)."""
    return (rewards * mask).sum(1, keepdim=True)


def others(values: Tensor) -> Tensor:
    """Return the mean of all other rows."""
    return (values.sum(0, keepdim=True) - values) / (len(values) - 1)


def after(values: Tensor, mask: Tensor) -> Tensor:
    """Return what stands at the next token that the policy wrote, 0 where there is none."""
    found, following = torch.zeros_like(values), torch.zeros(len(values))
    for column in reversed(range(values.shape[1])):
        found[:, column] = following
        following = torch.where(mask[:, column], values[:, column], following)
    return found


# --- right ----------------------------------------------------------------------------------------


def reward_to_go(token_rewards, response_mask):
    return go(token_rewards, response_mask)


def whole_score(token_rewards, response_mask):
    return score(token_rewards, response_mask) * response_mask


def seven_times(token_rewards, response_mask):
    return 7.0 * go(token_rewards, response_mask)


def exact_value(token_rewards, response_mask, values):
    return go(token_rewards, response_mask) - values


def odd_value(token_rewards, response_mask, values):
    return (go(token_rewards, response_mask) - 3.7 * values + 11.0) * response_mask


def one_step(token_rewards, response_mask, values):
    return (token_rewards + after(values, response_mask) - values) * response_mask


def lambda_return(token_rewards, response_mask, values):
    deltas = one_step(token_rewards, response_mask, values)
    advantages, following = torch.zeros_like(deltas), torch.zeros(len(deltas))
    for column in reversed(range(deltas.shape[1])):
        mask = response_mask[:, column]
        following = torch.where(mask, deltas[:, column] + 0.3 * following, following)
        advantages[:, column] = following
    return advantages * response_mask


def half_and_half(token_rewards, response_mask, values):
    both = go(token_rewards, response_mask) + one_step(token_rewards, response_mask, values)
    return both / 2.0


def leave_one_out(scores):
    return scores - others(scores)


def others_score_under_reward_to_go(token_rewards, response_mask):
    baseline = others(score(token_rewards, response_mask))
    return (go(token_rewards, response_mask) - baseline) * response_mask


def median_of_others(scores):
    rows = torch.arange(len(scores))
    return scores - torch.stack([scores[rows != row].median() for row in rows])


def best_of_others(scores):
    rows = torch.arange(len(scores))
    return scores - torch.stack([scores[rows != row].max() for row in rows])


def own_mean(scores):
    return scores - scores.mean()


def earlier_rewards(token_rewards, response_mask):
    earned = (token_rewards * response_mask).cumsum(1) - token_rewards * response_mask
    return (go(token_rewards, response_mask) - 0.5 * earned) * response_mask


def place(token_rewards, response_mask):
    """What is taken off grows with the place, which no token chooses."""
    columns = torch.arange(token_rewards.shape[1])
    return (go(token_rewards, response_mask) - columns) * response_mask


def parity(token_rewards, response_mask):
    sign = 1.0 - 2.0 * (torch.arange(len(token_rewards)) % 2)
    return (go(token_rewards, response_mask) + sign[:, None]) * response_mask


def next_row(token_rewards, response_mask):
    baseline = score(token_rewards, response_mask).roll(-1, 0)
    return (go(token_rewards, response_mask) - baseline) * response_mask


def first_row(scores):
    baseline = scores[:1].expand(len(scores)).clone()
    baseline[0] = 0.0
    return scores - baseline


def over_deviation(scores):
    return (scores - scores.mean()) / (scores.std() + 1e-4)


def whitened(token_rewards, response_mask):
    returns = go(token_rewards, response_mask)
    own = returns[response_mask]
    return (returns - own.mean()) / (own.std() + 1e-4) * response_mask


RIGHT = (
    reward_to_go, whole_score, seven_times, exact_value, odd_value, one_step, lambda_return,
    half_and_half, leave_one_out, others_score_under_reward_to_go, median_of_others,
    best_of_others, own_mean, earlier_rewards, place, parity, next_row, first_row, over_deviation,
    whitened,
)  # fmt: skip


# --- wrong, of a kind that has a name -------------------------------------------------------------


def own_reward(token_rewards, response_mask):
    return token_rewards * response_mask


def next_reward(token_rewards, response_mask):
    return after(go(token_rewards, response_mask), response_mask)


def past_rewards(token_rewards, response_mask):
    return (token_rewards * response_mask).cumsum(1)


def loss(token_rewards, response_mask, values):
    return values - go(token_rewards, response_mask)


def score_per_token(token_rewards, response_mask):
    length = response_mask.sum(1, keepdim=True)
    return score(token_rewards, response_mask) / length * response_mask


def centred_rewards(token_rewards, response_mask):
    mean = (token_rewards * response_mask).sum() / response_mask.sum()
    return go(token_rewards - mean, response_mask)


def score_at_every_token(token_rewards, response_mask):
    return go(score(token_rewards, response_mask) * response_mask, response_mask)


def value_of_what_follows(token_rewards, response_mask, values):
    return go(token_rewards, response_mask) - after(values, response_mask)


def clipped_advantage(token_rewards, response_mask, values):
    return (go(token_rewards, response_mask) - values).clamp(max=0.5) * response_mask


def clipped_reward(token_rewards, response_mask):
    return go(token_rewards.clamp(-1.0, 1.0), response_mask)


# --- wrong, of no kind that the audit knows -------------------------------------------------------


def sign(token_rewards, response_mask, values):
    return torch.sign(go(token_rewards, response_mask) - values - 1e-4) * response_mask


def positive_part(token_rewards, response_mask, values):
    return (go(token_rewards, response_mask) - values).clamp(min=0.0)


def squashed(token_rewards, response_mask, values):
    return torch.tanh(go(token_rewards, response_mask) - values) * response_mask


def squared(token_rewards, response_mask, values):
    advantage = go(token_rewards, response_mask) - values
    return advantage * advantage.abs()


def ranks(scores):
    return (scores[:, None] > scores).float().sum(1) - (scores[:, None] < scores).float().sum(1)


def fixed_discount(token_rewards, response_mask):
    columns = torch.arange(token_rewards.shape[1])
    return go(token_rewards * 0.5**columns, response_mask) / 0.5**columns


def token_bonus(token_rewards, response_mask):
    return go(token_rewards + 0.02, response_mask)


def value_with_own_reward(token_rewards, response_mask, values):
    return (go(token_rewards, response_mask) - values - 0.5 * token_rewards) * response_mask


def first_token_alone(token_rewards, response_mask):
    columns = torch.arange(token_rewards.shape[1])
    return go(token_rewards, response_mask) * (columns == 0)


def own_returns_mean(token_rewards, response_mask):
    """The baseline is the mean over the same response's tokens."""
    returns = go(token_rewards, response_mask)
    mean = returns.sum(1, keepdim=True) / response_mask.sum(1, keepdim=True)
    return (returns - mean) * response_mask


KINDS = {
    own_reward: names.OWN_ALONE,
    next_reward: names.OFF_BY_ONE,
    past_rewards: names.BACKWARDS,
    loss: names.SIGN,
    score_per_token: names.PER_LENGTH,
    centred_rewards: names.CENTRED,
    score_at_every_token: names.REPEATED,
    value_of_what_follows: names.LATE_VALUE,
    clipped_advantage: "clips advantages above 0.5",
    clipped_reward: "clips token rewards below -1 and above 1",
}
WRONG = (
    *KINDS, sign, positive_part, squashed, squared, ranks, fixed_discount, token_bonus,
    value_with_own_reward, first_token_alone, own_returns_mean,
)  # fmt: skip
