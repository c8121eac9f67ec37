"""Advantages of token rewards for rows that name their prompt, as other trainers pass them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from tokengym.agents.losses.advantages import leave_one_out, rewards_to_go
from tokengym.envs.errors import SettingsError
from tokengym.envs.registry import did_you_mean

ESTIMATORS = ("loo", "reinforce")
"""Estimators that see which token was paid."""


def check_estimator(estimator: str, *others: str) -> None:
    """Refuse an estimator that is unknown, or that sums token credit away.

    Args:
        estimator: What the user named.
        others: Further names that are known here.

    Raises:
        SettingsError: naming the remedy.
    """
    known = [*ESTIMATORS, *others]
    if estimator in known:
        return
    if estimator in ("grpo", "rloo", "dr-grpo", "opo", "gpg"):
        raise SettingsError(
            f"estimator {estimator!r} sums token rewards to a score, so that credit has no effect; "
            "take 'loo', which has the same baseline"
        )
    raise SettingsError(
        f"unknown estimator {estimator!r}; {did_you_mean(estimator, known)}known: "
        f"{', '.join(map(repr, known))}"
    )


def token_advantages(
    token_rewards: Tensor,
    response_mask: Tensor,
    prompts: Sequence[Hashable],
    estimator: str = "loo",
) -> Tensor:
    """Return the advantages of token rewards, by "loo" with a baseline from a prompt's other rows.

    A_it = G_it - mean over {j != i : same prompt, T_j > t} of G_jt,  G the reward to go

    Args:
        token_rewards: (batch, time), reward units.
        response_mask: (batch, time) bool, True on the response's own tokens; a row that is False
            throughout has advantage 0 and is nobody's baseline.
        prompts: (batch,) what tells the prompts apart. Rows may come in any order and groups differ
            in size; the only scored row of a prompt has no baseline, and advantage 0.
        estimator: "loo", or "reinforce", which is the reward to go itself.

    Returns:
        (batch, time), reward units; 0 where the mask is False.

    Example:
        >>> rewards, mask = torch.tensor([[0.0, 3.0], [1.0, 0.0]]), torch.tensor([[True, True]] * 2)
        >>> token_advantages(rewards, mask, ["a", "a"]).tolist()
        [[2.0, 3.0], [-2.0, -3.0]]
    """
    check_estimator(estimator)
    if estimator == "reinforce":
        return rewards_to_go(token_rewards, response_mask)
    rows: dict[Hashable, list[int]] = {}
    for row, prompt in enumerate(prompts):
        if response_mask[row].any():
            rows.setdefault(prompt, []).append(row)
    advantages = torch.zeros_like(token_rewards)
    for group in rows.values():
        if len(group) > 1:
            advantages[group] = leave_one_out(
                token_rewards[group], response_mask[group], len(group)
            )
    return advantages
