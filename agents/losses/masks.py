"""Means, whitening and shape checks over masked tensors.

Axes are always (batch, time[, vocab]). A mask is True where an entry counts; what is under a False
is never read, so it may hold anything finite or not.
"""

import torch
from torch import Tensor


def check_shapes(expected: Tensor, **others: Tensor) -> None:
    """Raise unless every tensor has the shape of the first.

    Args:
        expected: The tensor whose shape is the right one.
        others: Tensors to check, by the names that the message shows.

    Raises:
        ValueError: if a shape differs; the message shows both.
    """
    for name, tensor in others.items():
        if tensor.shape != expected.shape:
            raise ValueError(
                f"{name} must have shape {tuple(expected.shape)}, got {tuple(tensor.shape)}; "
                "the axes are (batch, time)"
            )


def masked_mean(x: Tensor, mask: Tensor, *, count: int | Tensor | None = None) -> Tensor:
    """Return the mean of ``x`` where ``mask`` is True.

    mean = sum_{mask} x / count

    Args:
        x: (...), any unit.
        mask: (...) bool, True keeps.
        count: Divisor where ``x`` is a part of a larger batch: that batch's number of unmasked
            tokens. The parts' results then add up to the batch's mean.

    Returns:
        Scalar, in the unit of ``x``.

    Raises:
        ValueError: if shapes differ or nothing is unmasked.
    """
    check_shapes(x, mask=mask)
    count = mask.sum() if count is None else count
    if not count > 0:
        raise ValueError(f"the mask of shape {tuple(mask.shape)} keeps nothing; there is no mean")
    return x.masked_fill(~mask, 0.0).sum() / count


def masked_std(x: Tensor, mask: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """Return the standard deviation of the unmasked entries, what `masked_whiten` divides by.

    std = sqrt(mean((x - mean)^2) + epsilon)

    Args:
        x: (batch, time), any unit.
        mask: (batch, time) bool, True keeps.
        epsilon: As in `masked_whiten`.

    Returns:
        Scalar, in the unit of ``x``.
    """
    _, variance = _moments(x, mask)
    return (variance + epsilon).sqrt().to(x.dtype)


def masked_whiten(x: Tensor, mask: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """Return ``x`` shifted to mean 0 and scaled to variance 1 over the unmasked entries.

    w = (x - mean) / sqrt(variance + epsilon), variance = mean((x - mean)^2)

    Args:
        x: (batch, time), any unit.
        mask: (batch, time) bool, True keeps.
        epsilon: Keeps a constant ``x`` finite (it becomes 0).

    Returns:
        (batch, time), unitless; 0 where the mask is False.
    """
    mean, variance = _moments(x, mask)
    centred = x.to(mean.dtype) - mean
    return (centred * torch.rsqrt(variance + epsilon)).masked_fill(~mask, 0.0).to(x.dtype)


def _moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the unmasked entries, in float64 where float32 overflows.

    The square of 1e20 does, and by an infinite deviation everything would be whitened to 0.
    """
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    is_enough = variance.isfinite() or x.dtype == torch.float64
    return (mean, variance) if is_enough else _moments(x.double(), mask)
