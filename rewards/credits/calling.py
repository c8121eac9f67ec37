"""The call of a function of named inputs, with the checks of what it does and returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from traceback import TracebackException, extract_tb
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokengym.base.errors import is_fault
from tokengym.rewards.credits.token_credit import Signature
from tokengym.rewards.errors import CreditError, RewardError

Figures = dict[str, Tensor]
"""What a function reports beside its result, by name."""


def call(
    signature: Signature,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    options: Mapping[str, Any],
    response_mask: Tensor,
    *,
    what: str = "credit",
    waits: bool = True,
    with_gradient: bool = False,
) -> tuple[Tensor, Figures]:
    """Return what a function makes of its inputs, (batch, time), 0 outside the mask, and figures.

    Args:
        signature: The function's.
        function: What is called.
        arguments: Its inputs by name, which it may not change.
        options: Its options by name.
        response_mask: (batch, time) bool.
        what: Kind of the function in messages: "credit", "advantage", "weights" or "loss".
        waits: Whether the result is checked to be finite, for which a device is waited for.
        with_gradient: Whether the result keeps the gradient of the inputs, and must have one.

    Raises:
        CreditError: in one line with the function's file and line, if it raises, changes an input
            in place, or returns no finite tensor without a gradient of the mask's shape.
    """
    versions = {k: v._version for k, v in arguments.items() if isinstance(v, Tensor)}
    who = f"{what} {signature.who}"
    with torch.set_grad_enabled(with_gradient):
        try:
            result = function(**arguments, **options)
        except BaseException as error:
            if isinstance(error, RewardError) or not is_fault(error):
                raise  # the scorer's, asked from within
            reason = " ".join(str(TracebackException.from_exception(error)).split())
            raise CreditError(
                f"{who} raised {type(error).__name__} ({reason}) over {len(response_mask)} "
                f"episodes{_line(signature, error)}; correct the {what}"
            ) from error
    for name, version in versions.items():
        if arguments[name]._version != version:
            raise CreditError(
                f"{who} changes {name} in place, which others read too; begin with "
                f"{name} = {name}.clone()"
            )
    rewards, figures = result if isinstance(result, tuple) else (result, {})
    if not isinstance(figures, Mapping):
        kind = type(figures).__name__
        raise CreditError(f"{who} returned {kind} beside its result; return a dict of figures")
    found = shaped(rewards, response_mask, who, with_gradient=with_gradient)
    if waits:
        check_finite(found, who)
    return found, dict(figures)


def shaped(result: Any, response_mask: Tensor, who: str, *, with_gradient: bool = False) -> Tensor:
    """Return a function's result, 0 outside the mask; refuse what is no result of its shape.

    An array of NumPy becomes a tensor.
    """
    shape = tuple(response_mask.shape)
    if isinstance(result, np.ndarray) and result.dtype.kind in "fiub":
        result = torch.from_numpy(result.copy())  # which may be read-only, or strided backwards
    if not isinstance(result, Tensor):
        kind = type(result).__name__
        raise CreditError(f"{who} returned {kind}; return a tensor of shape {shape}: (batch, time)")
    if tuple(result.shape) != shape:
        raise CreditError(
            f"{who} returned a tensor of shape {tuple(result.shape)}; return (batch, time), "
            f"here {shape}"
        )
    if with_gradient:
        if not result.requires_grad:
            raise CreditError(f"{who} returned a tensor without a gradient; read log_probs")
    elif result.requires_grad:
        raise CreditError(f"{who} returned a tensor with a gradient; return result.detach()")
    return result.to(response_mask.device).where(response_mask, 0.0)


def check_finite(result: Tensor, who: str) -> None:
    """Refuse a result, (batch, time), with a value that is not finite."""
    if not bool((finite := result.isfinite()).all()):
        row, place = (~finite).nonzero()[0].tolist()
        value = float(result[row, place])
        raise CreditError(
            f"{who} gives token {place} of row {row} the value {value}; it must be finite"
        )


def checked_figures(figures: Figures, count: int, who: str, *, waits: bool = True) -> Figures:
    """Return a rule's figures as tensors, (batch,) each, or refuse them; ``waits`` as of `call`."""
    tensors = {name: torch.as_tensor(one) for name, one in figures.items()}
    for name, one in tensors.items():
        if tuple(one.shape) != (count,):
            raise CreditError(
                f"{who} returned the figure {name!r} of shape {tuple(one.shape)}; return one "
                f"number per row, ({count},)"
            )
        if waits and bool((endless := one.float().isinf()).any()):  # kept as float32
            row = int(endless.nonzero()[0])
            raise CreditError(
                f"{who} gives row {row} the figure {name!r} = {float(one[row])}; it must be "
                "finite, or nan where nothing was measured"
            )
    return tensors


def _line(signature: Signature, error: BaseException) -> str:
    """Return the line of the function's own file at which an error was raised."""
    file = signature.place.rpartition(":")[0]
    frames = [one for one in extract_tb(error.__traceback__) if Path(one.filename).name == file]
    return f" at line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""
