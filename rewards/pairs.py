"""Preference pairs: which of two responses to a prompt somebody preferred."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args, overload

from tokengym.envs.errors import DatasetError

Overlong = Literal["error", "left", "drop"]


@dataclass(frozen=True, kw_only=True)
class PreferencePair:
    """One comparison. A model reads ``prompt + chosen`` and ``prompt + rejected`` as written."""

    prompt: str
    """What both answer; may be empty where the texts speak for themselves."""
    chosen: str
    """The response that was preferred."""
    rejected: str
    """The other one."""
    margin: float | None = None
    """By how much the scores should differ beyond being in order, reward units; None is 0."""


@dataclass(frozen=True, kw_only=True)
class SkippedRow:
    """A row that makes no comparison."""

    row: int
    """Its number in the data set, from 0."""
    kind: str
    """What is wrong, in a word or two: "empty", "not text", "equal", "no shared prompt", ..."""
    reason: str
    """One line with the row, the value and the remedy."""


@dataclass(frozen=True)
class PreferencePairs(Sequence[PreferencePair]):
    """The comparisons of a data set, and the rows of it that were left out."""

    pairs: tuple[PreferencePair, ...]
    """What is left, in the order of the data."""
    rows: tuple[int, ...]
    """The row that each pair comes from, from 0."""
    skipped: tuple[SkippedRow, ...] = ()
    """What was left out."""

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> PreferencePair: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[PreferencePair, ...]: ...
    def __getitem__(self, index: int | slice) -> PreferencePair | tuple[PreferencePair, ...]:
        return self.pairs[index]

    def __iter__(self) -> Iterator[PreferencePair]:
        return iter(self.pairs)

    def select(self, places: Sequence[int]) -> "PreferencePairs":
        """Return some of the pairs; what was left out stays so.

        Args:
            places: Of the pairs, not of their rows.
        """
        pairs = tuple(self.pairs[place] for place in places)
        return PreferencePairs(pairs, tuple(self.rows[place] for place in places), self.skipped)

    def skip_counts(self) -> dict[str, int]:
        """Return how many rows were left out for what, the most frequent first."""
        return dict(Counter(row.kind for row in self.skipped).most_common())

    def report(self) -> str:
        """Return one line: the rows, the pairs, and what was left out for what."""
        line = f"{len(self) + len(self.skipped)} rows, {len(self)} pairs"
        counts = ", ".join(f"{count} {kind}" for kind, count in self.skip_counts().items())
        return f"{line}, {len(self.skipped)} skipped ({counts})" if counts else line


def limit_lengths(
    pairs: PreferencePairs, lengths: Sequence[int], *, max_tokens: int, overlong: Overlong = "error"
) -> PreferencePairs:
    """Return the pairs that a model can read.

    Args:
        pairs: What was read.
        lengths: (pairs,) tokens of each pair's longer text, prompt included.
        max_tokens: Most tokens of a text.
        overlong: What longer ones do: "error" stops, "drop" skips the pair, "left" keeps all of
            them, for a caller that cuts them itself.

    Raises:
        DatasetError: if one is longer and may not be, or none is left.
    """
    if overlong not in get_args(Overlong):
        raise DatasetError(f"overlong must be 'error', 'left' or 'drop', got {overlong!r}")
    if overlong == "left":
        return pairs
    long = {
        place: f"row {row} of the pairs: its longer text has {length} tokens, more than max_tokens="
        f"{max_tokens}; raise max_tokens, or pass overlong='left' or 'drop'"
        for place, (row, length) in enumerate(zip(pairs.rows, lengths, strict=True))
        if length > max_tokens
    }
    if not long:
        return pairs
    if overlong == "error":
        others = f" ({len(long) - 1} more rows likewise)" if len(long) > 1 else ""
        raise DatasetError(next(iter(long.values())) + others)
    kept = [place for place in range(len(pairs)) if place not in long]
    skipped = [
        SkippedRow(row=pairs.rows[place], kind="overlong", reason=reason)
        for place, reason in long.items()
    ]
    fitting = replace(pairs.select(kept), skipped=(*pairs.skipped, *skipped))
    if not kept:
        raise DatasetError(f"no pair is left: {fitting.report()}; {skipped[0].reason}")
    return fitting


def split_pairs(pairs: Sequence[PreferencePair], share: float) -> tuple[list[int], list[int]]:
    """Return which pairs to train on, and which are held out: all those of every k-th prompt.

    Pairs without a prompt count as having one each. The same pairs are split the same way.

    Args:
        pairs: All of them.
        share: Of prompts to hold out, in (0, 1).

    Returns:
        Places in ``pairs``, ascending; no prompt is on both sides.

    Raises:
        DatasetError: if nothing is left to train on, or to hold out.

    Example:
        >>> texts = "aabbccdd"
        >>> pairs = [PreferencePair(prompt=text, chosen="x", rejected="y") for text in texts]
        >>> split_pairs(pairs, 0.25)
        ([0, 1, 2, 3, 4, 5], [6, 7])
    """
    if not 0.0 < share < 1.0:
        raise DatasetError(f"held_out must be a share in (0, 1), or pairs, got {share}")
    every = max(round(1 / share), 2)
    groups: dict[str | int, list[int]] = {}
    for place, pair in enumerate(pairs):
        groups.setdefault(pair.prompt or place, []).append(place)
    sides: tuple[list[int], list[int]] = ([], [])
    for number, places in enumerate(groups.values()):
        sides[number % every == every - 1].extend(places)
    rest, held_out = sorted(sides[0]), sorted(sides[1])
    if not rest or not held_out:
        raise DatasetError(
            f"{len(pairs)} pairs of {len(groups)} prompts with held_out={share} leave {len(rest)} "
            f"to train on and {len(held_out)} held out; give more pairs, or pass held_out=other "
            "pairs"
        )
    return rest, held_out
