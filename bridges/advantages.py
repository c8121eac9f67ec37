"""Advantages of token rewards for rows that name their prompt, as other trainers pass them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from tokengym.agents.losses.advantages import leave_one_out, rewards_to_go
from tokengym.agents.losses.policy import at_least_float32
from tokengym.base.errors import SettingsError
from tokengym.base.registry import did_you_mean

ESTIMATORS = ("loo", "reinforce")
"""Estimators that see which token was paid."""


def check_peers(response_mask: Tensor, prompts: Sequence[Hashable], name: str) -> None:
    """Refuse a batch in which no prompt has two rows, whose advantages by group would be 0.

    A single scored row passes: it may be what is left of a group. Shapes are `token_advantages`'.
    """
    scored = int(response_mask.bool().any(dim=1).sum())
    if scored > 1 and len(set(prompts)) == len(prompts):
        raise SettingsError(
            f"none of {len(prompts)} prompts has a second response, so that {name!r} has no "
            "baseline and every advantage would be 0; sample several responses to each (verl's "
            "rollout.n, SkyRL's n_samples_per_prompt), or take 'reinforce'"
        )


def token_advantages(
    token_rewards: Tensor,
    response_mask: Tensor,
    prompts: Sequence[Hashable],
    estimator: str = "loo",
    *,
    gamma: float = 1.0,
) -> Tensor:
    """Return the advantages of token rewards, by "loo" with a baseline from a prompt's other rows.

    A_it = G_it - mean over {j != i : same prompt, T_j > t} of G_jt,  G the reward to go

    t counts from a row's first True of the mask: SkyRL pads responses on the left, where the same
    column is another token of each row, whose distance to the end depends on what the row wrote.

    Args:
        token_rewards: (batch, time), reward units.
        response_mask: (batch, time) bool, True on the response's own tokens; a row that is False
            throughout has advantage 0 and is nobody's baseline.
        prompts: (batch,) what tells the prompts apart. Rows may come in any order and groups differ
            in size; the only scored row of a prompt has no baseline, and advantage 0.
        estimator: "loo", or "reinforce", which is the reward to go itself.
        gamma: Discount per own token, in [0, 1].

    Returns:
        (batch, time), reward units, float32 at least; 0 where the mask is False.

    Example:
        >>> rewards, mask = torch.tensor([[0.0, 3.0], [1.0, 0.0]]), torch.tensor([[True, True]] * 2)
        >>> token_advantages(rewards, mask, ["a", "a"]).tolist()
        [[2.0, 3.0], [-2.0, -3.0]]
    """
    if estimator not in ESTIMATORS:
        raise SettingsError(
            f"unknown estimator {estimator!r}; {did_you_mean(estimator, ESTIMATORS)}known: "
            f"{', '.join(map(repr, ESTIMATORS))}"
        )
    if not 0.0 <= gamma <= 1.0:
        raise SettingsError(f"gamma must be within [0, 1], got {gamma!r}; 1 is no discount")
    check_shapes(token_rewards, response_mask, prompts)
    check_finite(token_rewards, response_mask.bool())
    token_rewards, response_mask = at_least_float32(token_rewards), response_mask.bool()
    if not token_rewards.numel():
        return torch.zeros_like(token_rewards)  # of responses that are all empty
    if estimator == "reinforce":
        return rewards_to_go(token_rewards, response_mask, gamma=gamma)
    rows: dict[Hashable, list[int]] = {}
    for row, prompt in enumerate(prompts):
        if response_mask[row].any():
            rows.setdefault(prompt, []).append(row)
    first = response_mask.int().argmax(dim=1, keepdim=True)
    columns = torch.arange(response_mask.shape[1], device=response_mask.device)
    from_first = (columns + first) % response_mask.shape[1]  # (batch, time)
    aligned_rewards = token_rewards.gather(1, from_first)
    aligned_mask = response_mask.gather(1, from_first)
    advantages = torch.zeros_like(token_rewards)
    for group in rows.values():
        if len(group) > 1:
            advantages[group] = leave_one_out(
                aligned_rewards[group], aligned_mask[group], len(group), gamma=gamma
            )
    return torch.zeros_like(advantages).scatter(1, from_first, advantages)


def check_finite(token_rewards: Tensor, mask: Tensor) -> None:
    """Raise if a reward of a response's own token is not finite: it would spoil all of a prompt's.

    Both are (batch, time).
    """
    wrong = (~token_rewards.isfinite() & mask).nonzero()
    if len(wrong):
        row, step = wrong[0].tolist()
        raise ValueError(
            f"token_rewards must be finite on the response's own tokens, got "
            f"{float(token_rewards[row, step])} in row {row} at token {step}; look at the scorer"
        )


def check_shapes(token_rewards: Tensor, mask: Tensor, prompts: Sequence[Hashable]) -> None:
    """Refuse rows that do not belong together."""
    if token_rewards.ndim != 2 or mask.shape != token_rewards.shape:
        raise ValueError(
            f"token_rewards and response_mask must both be (batch, time), got "
            f"{tuple(token_rewards.shape)} and {tuple(mask.shape)}; pad both alike"
        )
    if len(prompts) != len(token_rewards):
        raise ValueError(
            f"prompts must name one prompt for each of {len(token_rewards)} rows, got "
            f"{len(prompts)}; repeat a prompt that has several responses"
        )
