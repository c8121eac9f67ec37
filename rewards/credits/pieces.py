"""A batch seen as pieces: longer tokens, so that a rule of tokens is one of pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tokengym.rewards.credits.inputs import Inputs
from tokengym.rewards.credits.names import NAMES
from tokengym.rewards.credits.options import Cut, Pay
from tokengym.rewards.maths.signed_parts import split_before_largest, split_evenly

STOPS = (
    *(".", "!", "?"),
    *("\u3002", "\uff01", "\uff1f", "\uff0e", "\uff61"),  # Chinese and Japanese, wide and half-wide
    *("\u0964", "\u0965"),  # Indic scripts
    *("\u061f", "\u06d4"),  # Arabic script
    "\u104b",  # Burmese
    *("\u17d4", "\u17d5"),  # Khmer
    *("\u1362", "\u1367"),  # Ethiopic
    "\u0589",  # Armenian
)
"""What ends a sentence, of scripts that have such a mark; Thai and Lao have none."""


class Pieces:
    """The names of a batch with pieces as their time axis.

    What is additive is summed over a piece, the score of a prefix is that at the piece's end, and a
    question about pieces is asked about their tokens (`Name.in_piece`).

    Args:
        inputs: The batch.
        cut: Where the pieces begin.
        segments: Pieces of a row for the cuts that count them; fewer where there are fewer tokens.
    """

    def __init__(self, inputs: Inputs, cut: Cut, segments: int | None = None) -> None:
        self.inputs = inputs
        self.own: Tensor = inputs["response_mask"]
        rows = [np.arange(0)] * len(self.own)
        for row, spans in enumerate(spans_of(inputs, cut, segments)):
            rows[row] = np.repeat(np.arange(len(spans)), [len(span) for span in spans])
        self.ids = inputs.padded(rows, torch.int64, fill=-1)
        """(batch, time): number of each token's piece."""
        self.count = int(self.ids.max()) + 1
        """Pieces of the row with most of them."""
        self._index = self.ids.clamp(min=0)
        follows = torch.cat([self.ids[:, 1:], torch.full_like(self.ids[:, :1], -1)], 1)
        self.ends = self.own & (follows != self.ids)
        """(batch, time): whether a token is its piece's last."""
        before = torch.cat([torch.full_like(self.ids[:, :1], -1), self.ids[:, :-1]], 1)
        self.starts = self.own & (before != self.ids)
        """(batch, time): whether a token is its piece's first."""
        self.sizes = self._summed(self.own.long())
        """(batch, pieces): tokens of each; 0 past a row's last."""
        self.mask = self.sizes > 0

    def __getitem__(self, name: str) -> Any:
        """Return what stands for a name, of pieces."""
        if name in ("response_mask", "positions"):
            places = torch.arange(self.count).expand_as(self.mask)
            return self.mask if name == "response_mask" else places.masked_fill(~self.mask, -1)
        if name == "prefix_scores" and self.inputs.each_prefix:
            return self._prefix_scores(self.inputs.prefix_scores(self.ends))
        value = self.inputs[name]
        kind = NAMES[name].in_piece if name in NAMES else "same"
        if kind == "sum":
            return self._summed(value.masked_fill(~self.own, 0))
        if kind in ("first", "last"):
            return self._at(value, self.starts if kind == "first" else self.ends, name)
        return getattr(self, f"_{name}")(value) if kind == "own" else value

    def placed(self, rewards: Tensor, pay: Pay) -> Tensor:
        """Return rewards of the pieces, (batch, pieces), on the tokens, (batch, time)."""
        rewards = rewards.masked_fill(~self.mask, 0)
        if pay == "evenly":
            return (rewards / self.sizes.clamp(min=1)).gather(1, self._index) * self.own
        return rewards.gather(1, self._index) * self.ends

    def spans(self, row: int) -> list[range]:
        """Return the response tokens of each piece of a row, replies with the piece before them."""
        ends = torch.nonzero(self.ends[row]).flatten().tolist()
        stops = [self.inputs.spans(row)[end].stop for end in ends]
        return [range(*span) for span in zip([0, *stops[:-1]], stops, strict=True)]

    def _summed(self, values: Tensor, times: int = 1) -> Tensor:
        """Return sums over the pieces of (batch * times, time) values."""
        table = values.new_zeros(len(values), self.count)
        return table.scatter_add_(1, self._index.repeat_interleave(times, 0), values)

    def _at(self, values: Tensor, where: Tensor, name: str) -> Tensor:
        """Return the values of the tokens where it is True, one of each piece."""
        fill = -1 if name in ("turn_ids", "state_ids") else 0
        table = values.new_full((*self.mask.shape, *values.shape[2:]), fill)
        rows, columns = torch.nonzero(where, as_tuple=True)
        table[rows, self.ids[rows, columns]] = values[rows, columns]
        return table

    def _turn_scores(self, scores: Tensor) -> Tensor:
        """Return the scores of the turns that end in each piece; nan where none does."""
        known = self.own & ~scores.isnan()
        counts = self._summed(known.long())
        return self._summed(scores.masked_fill(~known, 0)).masked_fill(counts == 0, torch.nan)

    def _prefix_scores(self, scores: Tensor) -> Tensor:
        table = scores[:, -1:].repeat(1, 1 + self.count)
        table[:, 0] = scores[:, 0]
        rows, columns = torch.nonzero(self.ends, as_tuple=True)
        table[rows, 1 + self.ids[rows, columns]] = scores[rows, 1 + columns]
        return table

    def _ref_attention(self, attention: Tensor) -> Tensor:
        """Return the attention to the tokens of a piece, on average over a piece's steps."""
        keys = self._summed((attention * self.own[:, None]).flatten(0, 1), self.own.shape[1])
        keys = keys.unflatten(0, attention.shape[:2]) * self.own[:, :, None]
        index = self._index[:, :, None].expand_as(keys)
        steps = keys.new_zeros(len(keys), self.count, self.count).scatter_add_(1, index, keys)
        return steps / self.sizes.clamp(min=1)[:, :, None]

    def _ref_log_prob_of(self, ask: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def log_prob_of(texts: Sequence[str], mean: bool = False) -> Tensor:
            return self._prefix_scores(ask(texts, mean=mean, ends=self.ends))

        return log_prob_of

    def _score_without(self, ask: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def score_without(left_out: Tensor) -> Tensor:
            index = self._index[:, None].expand(-1, left_out.shape[1], -1)
            return ask(left_out.gather(2, index) & self.own[:, None])

        return score_without

    def _continue_from(
        self, ask: Callable[[int, Tensor], Tensor]
    ) -> Callable[[int, Tensor], Tensor]:
        def continue_from(k: int, ends: Tensor) -> Tensor:
            chosen = self.ends & ends.gather(1, self._index)
            return self._summed(ask(k, chosen))

        return continue_from


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
    if cut == "turn":
        return [_between(starts, size) for starts, size in zip(turns, sizes, strict=True)]
    every = []
    for texts, starts in zip(inputs.token_texts(), turns, strict=True):
        steps: list[int] = []
        for turn in _between(starts, len(texts)):
            own = texts[turn.start : turn.stop]
            steps += [turn.start + start for start in _step_starts(own, cut)]
        every.append(_between(steps, len(texts)))
    return every


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
        [0, 3]
        >>> _step_starts(["好", "。", "不", "好", "\uff01", "真", "\uff1f"], "sentence")
        [0, 2, 5]
    """
    ends = list[int]()
    for index, text in enumerate(texts):
        if ends and ends[-1] == index and not text.strip():
            ends[-1] = index + 1
        elif "\n" in text if cut == "line" else text.rstrip().endswith(STOPS):
            ends.append(index + 1)
    return [0, *(end for end in ends if end < len(texts))]
