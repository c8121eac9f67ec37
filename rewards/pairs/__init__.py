"""Rows of a prompt and the responses to it: read from data, encoded as ids, stored."""

from typing import TYPE_CHECKING

from tokengym.base.exports import lazily
from tokengym.rewards.pairs.read import (
    PreferencePair,
    PreferencePairs,
    SkippedRow,
    limit_lengths,
    read_labels,
    read_pairs,
    split_pairs,
)

if TYPE_CHECKING:
    from tokengym.rewards.pairs.encode import encode_in_template
    from tokengym.rewards.pairs.read import TableSource, read_table
    from tokengym.rewards.pairs.store import (
        FORMATS,
        as_texts,
        load_pairs,
        pairs_dataset,
        responses_dataset,
        save_dataset,
    )

_NAMES = {
    "encode": "encode_in_template",
    "read": "TableSource read_table",
    "store": "FORMATS as_texts load_pairs pairs_dataset responses_dataset save_dataset",
}

__all__ = [
    "FORMATS",
    "PreferencePair",
    "PreferencePairs",
    "SkippedRow",
    "TableSource",
    "as_texts",
    "encode_in_template",
    "limit_lengths",
    "load_pairs",
    "pairs_dataset",
    "read_labels",
    "read_pairs",
    "read_table",
    "responses_dataset",
    "save_dataset",
    "split_pairs",
]
__getattr__ = lazily(__name__, _NAMES)
