"""Rows of a prompt and the responses to it: read from data, encoded as ids, stored."""

from tokengym.rewards.pairs.read import (
    PreferencePair,
    PreferencePairs,
    SkippedRow,
    limit_lengths,
    read_labels,
    read_pairs,
    split_pairs,
)

__all__ = [
    "PreferencePair",
    "PreferencePairs",
    "SkippedRow",
    "limit_lengths",
    "read_labels",
    "read_pairs",
    "split_pairs",
]
