"""What the estimators of the calibration are written with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

RIGHT, WRONG, NOT_ENUMERABLE = "right", "wrong", "cannot be enumerated"


@dataclass(frozen=True)
class Estimator:
    """An idea as a function, and what is true of it.

    Args:
        kind: What the idea is about.
        idea: The idea in a line.
        label: right, wrong, or that its answers change from call to call.
        function: Takes the named inputs.
        options: Arguments of `check_estimator`: what its documentation would promise.
    """

    kind: str
    idea: str
    label: str
    function: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)


def family(
    kind: str,
    right: Sequence[tuple[Any, ...]] = (),
    wrong: Sequence[tuple[Any, ...]] = (),
    not_enumerable: Sequence[tuple[Any, ...]] = (),
    **options: Any,
) -> list[Estimator]:
    """Estimators of a kind from (idea, function) or (idea, function, options) of its own."""
    labelled = [(RIGHT, right), (WRONG, wrong), (NOT_ENUMERABLE, not_enumerable)]
    return [
        Estimator(kind, row[0], label, row[1], {**options, **(row[2] if len(row) > 2 else {})})
        for label, rows in labelled
        for row in rows
    ]


def same(group_ids):
    """(batch, batch): 1 where two rows are of one prompt."""
    return (group_ids[:, None] == group_ids).float()


def others(group_ids):
    """(batch, batch): 1 where two rows are of one prompt and are not one row."""
    return same(group_ids) - torch.eye(len(group_ids))


def earlier(group_ids):
    """(batch, batch): 1 at a prompt's rows that come before a row."""
    return torch.tril(same(group_ids), -1)


def mean_over(which, of):
    """Mean of (batch,) or (batch, time) over the rows that a (batch, batch) names; 0 of none."""
    count = which.sum(1).clamp(min=1)
    return (which @ of) / (count[:, None] if of.ndim == 2 else count)


def group_mean(of, group_ids):
    return mean_over(same(group_ids), of)


def others_mean(of, group_ids):
    return mean_over(others(group_ids), of)


def group_std(of, group_ids):
    apart = (of - group_mean(of, group_ids)) ** 2
    return group_mean(apart, group_ids).clamp(min=0).sqrt()


def others_std(of, group_ids):
    spread = others_mean(of**2, group_ids) - others_mean(of, group_ids) ** 2
    return spread.clamp(min=0).sqrt()


def column(of):
    return of[:, None]


def to_go(token_rewards):
    """(batch, time): sum of a row's rewards from each token on."""
    return token_rewards.flip(1).cumsum(1).flip(1)


def so_far(token_rewards):
    """(batch, time): sum of a row's rewards before each token."""
    return token_rewards.cumsum(1) - token_rewards


def lengths(response_mask):
    return response_mask.sum(1).float()


def own_mean(of, response_mask):
    """(batch, 1): mean over a row's own tokens."""
    return (of * response_mask).sum(1, keepdim=True) / response_mask.sum(1, keepdim=True).clamp(1)


def alive_mean(of, response_mask, which):
    """(batch, time): mean over the named rows that have a token in the column; 0 of none."""
    mask = response_mask.float()
    return (which @ (of * mask)) / (which @ mask).clamp(min=1)


def left(response_mask):
    """(batch, time): a row's written tokens from each column on."""
    return response_mask.float().flip(1).cumsum(1).flip(1)


def scan(token_rewards, response_mask, gamma, skip=True):
    """(batch, time): discounted reward to go; replies take no time where they are skipped."""
    total = torch.zeros(len(token_rewards))
    seen = torch.zeros_like(token_rewards)
    for time in range(token_rewards.shape[1] - 1, -1, -1):
        after = token_rewards[:, time] + gamma * total
        total = torch.where(response_mask[:, time], after, total) if skip else after
        seen[:, time] = total
    return seen


def gae(token_rewards, response_mask, values, gamma=1.0, lam=0.95):
    """(batch, time): generalised advantage estimates over the tokens that were written."""
    ahead = torch.zeros(len(values))
    value_after = torch.zeros(len(values))
    seen = torch.zeros_like(values)
    for time in range(values.shape[1] - 1, -1, -1):
        written = response_mask[:, time]
        delta = token_rewards[:, time] + gamma * value_after - values[:, time]
        ahead = torch.where(written, delta + gamma * lam * ahead, ahead)
        value_after = torch.where(written, values[:, time], value_after)
        seen[:, time] = ahead
    return seen


def next_values(values, response_mask):
    """(batch, time): the value before a row's next written token; 0 after its last."""
    return gae(torch.zeros_like(values), response_mask, values, lam=0.0) + values


def turn_rewards(token_rewards, turn_ids):
    """(batch, turns): rewards summed within turns."""
    turns = torch.arange(int(turn_ids.max()) + 1)
    return (token_rewards[:, :, None] * (turn_ids[:, :, None] == turns)).sum(1)


def on_tokens(of_turns, turn_ids):
    """(batch, time): each token has its turn's number; 0 at others."""
    taken = of_turns.gather(1, turn_ids.clamp(min=0))
    return torch.where(turn_ids >= 0, taken, 0.0)


def has_turn(turn_ids):
    """(batch, turns): 1 where a row has the turn."""
    turns = torch.arange(int(turn_ids.max()) + 1)
    return (turn_ids[:, :, None] == turns).any(1).float()
