"""Policy losses by name: functions of named inputs that return each token's loss, (batch, time).

``PPO(loss=...)`` takes a name, "file.py:name", or the function itself. ``log_probs`` and
``entropy`` are by the policy of the gradient step, ``old_log_probs`` by the one that sampled. The
mean over tokens is the trainer's, `PPOSettings.loss_mean`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.losses.policy import masked_ratio
from tokengym.agents.ppo.functions import LOSSES, Loss
from tokengym.rewards import token_credit


def _named(function: Callable[..., Any]) -> Callable[..., Any]:
    return LOSSES.register(Loss(function).name, function)


@_named
@token_credit
def clipped(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    clip_range: float,
    clip_range_high: float,
) -> Tensor:
    """PPO: -min(rho A, clip(rho, 1 - low, 1 + high) A). Schulman et al. 2017, arXiv:1707.06347."""
    low_high = {"clip_range": clip_range, "clip_range_high": clip_range_high}
    return losses.clipped_loss(log_probs, old_log_probs, advantages, response_mask, **low_high)


@_named
@token_credit(loss_mean="sequence")
def gspo(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    low: float = 3e-4,
    high: float = 4e-4,
) -> Tensor:
    """-min(s A, clip(s, 1 - low, 1 + high) A), s the geometric mean of a response's ratios.

    s = exp(1 / n sum_t (log pi - log pi_old)_t). Zheng et al. 2025, arXiv:2507.18071.
    """
    move = (log_probs - old_log_probs).masked_fill(~response_mask, 0.0)
    ratio = (move.sum(1, keepdim=True) / response_mask.sum(1, keepdim=True).clamp(min=1)).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1.0 - low, 1.0 + high) * advantages)


@_named
@token_credit(loss_mean="token")
def cispo(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    high: float = 5.0,
) -> Tensor:
    """-sg(min(rho, high)) A log pi: a clipped weight stops no token's gradient.

    MiniMax-M1 2025, arXiv:2506.13585, which clips at 1 + an epsilon of its own; 5 is the largest
    weight that ScaleRL takes, arXiv:2510.13786.
    """
    weight = masked_ratio(log_probs, old_log_probs, response_mask).clamp(max=high).detach()
    return -weight * advantages * log_probs


@_named
@token_credit(loss_mean="sequence")
def sapo(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    up: float = 1.0,
    down: float = 1.05,
) -> Tensor:
    """-4 / tau sigmoid(tau (rho - 1)) A: a soft gate in place of the clip.

    tau is ``up`` where A > 0, else ``down``: the gradient weighs rho by 4 p (1 - p), 1 on the
    policy that sampled. Gao et al. 2025, arXiv:2511.20347.
    """
    ratio = masked_ratio(log_probs, old_log_probs, response_mask)
    sharp = torch.where(advantages > 0, up, down)
    return -4.0 / sharp * (sharp * (ratio - 1.0)).sigmoid() * advantages
