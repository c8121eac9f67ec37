"""What a rule of token credit is written with: functions of (batch, time) tensors.

Throughout, ``response_mask`` is (batch, time) bool, True at a row's tokens, of which it has one or
more; ``scores`` is (batch,) and ``parts`` and ``weights`` are (batch, time), in reward units and of
any scale. Results are (batch, time) and 0 outside the mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

GUARD = 0.1
"""Least share of the parts' absolute sum that must be left for them to be rescaled."""


def last(response_mask: Tensor) -> Tensor:
    """Return where each row's last token stands, (batch, time) bool."""
    return response_mask & (response_mask.flip(1).cumsum(1).flip(1) == 1)


def each_alone(response_mask: Tensor) -> Tensor:
    """Return, for each token of a row, the mask of that token alone, (batch, time, time) bool.

    Example:
        >>> import torch
        >>> each_alone(torch.tensor([[True, True, False]])).long().tolist()
        [[[1, 0, 0], [0, 1, 0], [0, 0, 0]]]
    """
    return response_mask[:, :, None] & response_mask.new_ones(response_mask.shape[1]).diag()


def held(values: Tensor, ends: Tensor) -> Tensor:
    """Return values that change at ends alone: elsewhere that of the end before stands.

    Args:
        values: (batch, 1 + time), before the first token and after each.
        ends: (batch, time) bool, the tokens after which a value counts.

    Example:
        >>> import torch
        >>> ends = torch.tensor([[False, True, False, True]])
        >>> held(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]), ends).tolist()
        [[1.0, 1.0, 3.0, 3.0, 5.0]]
    """
    places = (ends * ends.long().new_ones(ends.shape[1]).cumsum(0)).cummax(1).values
    kept = values.clone()
    kept[:, 1:] = values.gather(1, places)
    return kept


def on_last(scores: Tensor, response_mask: Tensor) -> Tensor:
    """Return one number per row on the row's last token.

    r_t = R if t = n - 1 else 0
    """
    return scores[:, None] * last(response_mask)


def rest_on_last(scores: Tensor, parts: Tensor, response_mask: Tensor) -> Tensor:
    """Return parts of the scores, with what they miss of a score on the row's last token.

    r_t = a_t + 1[t = n - 1] * (R - sum_s a_s)
    """
    parts = parts * response_mask
    return parts + on_last(scores - parts.sum(1), response_mask)


def shares(weights: Tensor, response_mask: Tensor) -> Tensor:
    """Return weights scaled to sum to 1 over each row; equal ones where all are 0.

    alpha_t = w_t / sum_s w_s

    Raises:
        ValueError: if a weight is negative.

    Example:
        >>> import torch
        >>> shares(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]])).tolist()
        [[0.25, 0.75, 0.0]]
    """
    weights = weights * response_mask
    if bool((weights < 0).any()):
        raise ValueError(
            f"weights must be >= 0, got {float(weights.min()):.6g}; signed parts of a score are "
            "for rescaled() or rest_on_last()"
        )
    total = weights.sum(1, keepdim=True)
    has_weight = total > 0
    equal = response_mask.to(weights) / response_mask.sum(1, keepdim=True).clamp(min=1)
    return (weights / total.where(has_weight, 1.0)).where(has_weight, equal)


def rescaled(
    scores: Tensor, parts: Tensor, response_mask: Tensor, *, guard: float = GUARD
) -> Tensor:
    """Return signed parts scaled to sum to the scores, keeping the sign of each.

    With A = sum_t a_t and M = sum_t |a_t|:
    r_t = a_t * R / A                    if R * A > 0 and |A| >= guard * M
    r_t = a_t * |R| / M, and the rest    otherwise (`rest_on_last`)
    r_t = R / n                          if M = 0

    The first line is the plain rescaling. Where the parts nearly cancel it would blow them up
    without bound, and where their sum has the other sign than the score it would turn every sign
    round; there the parts keep their signs and an absolute sum of |R|. Either way
    sum_t |r_t| <= max(1 / guard, 3) * |R|.

    Raises:
        ValueError: if ``guard`` is not in (0, 1].

    Source: this project; the rescaling is limitation 3 of ABC (arXiv:2402.00782) lifted.

    Example:
        >>> import torch
        >>> mask = torch.ones(1, 3, dtype=torch.bool)
        >>> rescaled(torch.tensor([2.0]), torch.tensor([[4.0, -1.0, 1.0]]), mask).tolist()
        [[2.0, -0.5, 0.5]]
        >>> rescaled(torch.tensor([-3.0]), torch.tensor([[2.0, -1.0, 0.0]]), mask).tolist()
        [[2.0, -1.0, -4.0]]
    """
    if not 0.0 < guard <= 1.0:
        raise ValueError(f"guard must lie in (0, 1], got {guard}; the default is {GUARD}")
    parts = parts * response_mask
    largest = parts.abs().amax(1, keepdim=True)
    parts = parts / largest.where(largest > 0, 1.0)  # any scale, without overflow
    total, size = parts.sum(1), parts.abs().sum(1)
    is_plain = (scores * total > 0) & (total.abs() >= guard * size)
    factor = scores / total.where(is_plain, 1.0)
    kept = scores.abs() / size.where(size > 0, 1.0)
    plain = parts * factor[:, None]
    signed = rest_on_last(scores, parts * kept[:, None], response_mask)
    equal = scores[:, None] * shares(parts * 0, response_mask)
    return plain.where(is_plain[:, None], signed).where((size > 0)[:, None], equal)
