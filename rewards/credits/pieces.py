"""Pieces of a response: where they end, so that a rule's token rewards are summed within each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tokengym.rewards.credits.inputs import Inputs
from tokengym.rewards.credits.options import Cut
from tokengym.rewards.maths.signed_parts import split_before_largest, split_evenly


def piece_ends(inputs: Inputs, cut: Cut | None, segments: int | None) -> Tensor:
    """Return the place of the last token of each token's piece, (batch, time) int64.

    Without a cut, and past a row's end, each token is a piece of its own.
    """
    ends: Tensor = inputs["segment_ends"]
    if cut is None:
        return ends
    ends = ends.clone()
    for row, spans in enumerate(spans_of(inputs, cut, segments)):
        for span in spans:
            ends[row, span.start : span.stop] = span.stop - 1
    return ends


def summed(rewards: Tensor, segment_ends: Tensor) -> Tensor:
    """Return (batch, time) rewards summed within pieces, on the last token of each."""
    return torch.zeros_like(rewards).scatter_add_(1, segment_ends, rewards)


def spans_of(inputs: Inputs, cut: Cut, segments: int | None) -> list[list[range]]:
    """Return the pieces of each row, as consecutive spans of its own tokens."""
    sizes = [len(places) for places in inputs.places]
    if cut == "even":
        assert segments is not None
        return [split_evenly(size, segments) for size in sizes]
    if cut == "entropy":
        assert segments is not None
        table = inputs["ref_entropy"].double().numpy()
        rows = zip(table, sizes, strict=True)
        return [split_before_largest(values[:size], segments) for values, size in rows]
    turns = [
        np.searchsorted(places, starts).tolist()
        for places, starts in zip(inputs.places, inputs.turn_starts, strict=True)
    ]
    if cut != "turn":
        steps = [_step_starts(texts, cut) for texts in inputs.token_texts()]
        turns = [[*one, *other] for one, other in zip(turns, steps, strict=True)]
    return [_between(starts, size) for starts, size in zip(turns, sizes, strict=True)]


def _between(starts: Sequence[int], size: int) -> list[range]:
    """Return the spans that begin at some places, the first at 0, and end at the next one."""
    bounds = [*sorted({0, *starts}), size]
    return [range(a, b) for a, b in pairwise(bounds) if a < b]


def _step_starts(texts: Sequence[str], cut: Literal["line", "sentence"]) -> list[int]:
    r"""Return where lines or sentences begin; what is blank belongs to the step before it.

    Args:
        texts: The text that each token adds; special tokens add none.
        cut: "line" or "sentence".

    Example:
        >>> _step_starts(["one", ".", "\n", " two", "!", ""], "sentence")
        [3]
    """
    starts, has_ended = list[int](), False
    for index, text in enumerate(texts):
        if has_ended and text.strip():
            starts.append(index)
            has_ended = False
        has_ended |= "\n" in text if cut == "line" else text.rstrip().endswith((".", "!", "?"))
    return starts
