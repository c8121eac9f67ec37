"""Rows of a prompt and the responses to it: read from data, encoded as ids, stored."""

from typing import TYPE_CHECKING

from tokengym.base.exports import lazily
from tokengym.rewards.pairs.read import (
    PreferencePair,
    PreferencePairs,
    SkippedRow,
    read_labels,
    read_pairs,
)

if TYPE_CHECKING:
    from tokengym.rewards.pairs.encode import encode_in_template
    from tokengym.rewards.pairs.read import TableSource, read_table
    from tokengym.rewards.pairs.store import pairs_dataset, responses_dataset

_NAMES = {
    "encode": "encode_in_template",
    "read": "TableSource read_table",
    "store": "pairs_dataset responses_dataset",
}

__all__ = [
    "PreferencePair",
    "PreferencePairs",
    "SkippedRow",
    "TableSource",
    "encode_in_template",
    "pairs_dataset",
    "read_labels",
    "read_pairs",
    "read_table",
    "responses_dataset",
]
__getattr__ = lazily(__name__, _NAMES)
