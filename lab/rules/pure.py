"""PURE: step rewards in min form, whose sum is about the worst step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from tokengym.base import check_number
from tokengym.rewards import CreditError, held, token_credit

if TYPE_CHECKING:
    from torch import Tensor


def min_form(rewards: Tensor, response_mask: Tensor, temperature: float) -> Tensor:
    """Return step rewards weighted so that their sum is about the smallest of them.

    r*_t = w_t * r_t,   w = softmax(-r / temperature)

    The sum tends to the minimum as the temperature falls to 0, and to the mean as it grows.

    Args:
        rewards: (batch, time) r, reward units.
        response_mask: (batch, time) bool.
        temperature: Reward units, > 0.

    Returns:
        (batch, time) reward units, 0 outside the mask.

    Source: Cheng et al. 2025, "Stop Summation: Min-Form Credit Assignment Is All Process Reward
    Model Needs for Reasoning", arXiv:2504.15275.

    Example:
        >>> import math, torch
        >>> mask = torch.ones(1, 2, dtype=torch.bool)
        >>> min_form(torch.tensor([[0.0, math.log(3.0)]]), mask, 1.0)
        tensor([[0.0000, 0.2747]])
    """
    return rewards * (-rewards / temperature).masked_fill(~response_mask, -float("inf")).softmax(1)


def check_temperature(options: SimpleNamespace) -> None:
    """Refuse a temperature that weighs nothing."""
    check_number(options, "temperature", above=0, finite=True, error=CreditError)


@token_credit(conserves=False, check=check_temperature)
def pure(
    prefix_scores: Tensor, positions: Tensor, segment_ends: Tensor, temperature: float = 0.1
) -> Tensor:
    """Each token earns what it added to the score, weighted so that the worst counts most.

    r_t = w_t * d_t,   w = softmax(-d / temperature),   d_t = R(x, y_<=t) - R(x, y_<t)

    A learner from these rewards raises the worst step instead of the sum, which cannot be raised
    by many slightly good steps. They do not sum to the score, and the best response under them can
    be another one. The paper's step rewards come from a process reward model; here they are those
    of `red`, and ``segments`` makes steps of more than one token; ``prm:form=min`` is PURE with a
    process model.

    Args:
        prefix_scores: R of the text so far.
        positions: t.
        segment_ends: The ends of the steps, with ``segments`` or ``cut``.
        temperature: Reward units; towards 0 only the worst step is paid. The paper uses 0.1.

    Source: Cheng et al. 2025, arXiv:2504.15275.
    """
    ends = segment_ends == positions
    return min_form(held(prefix_scores, ends).diff(dim=1), ends, temperature)
