"""Rows of pairs and responses as `datasets.Dataset`."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tokengym.base.text import lone_surrogate
from tokengym.envs.prompts.tables import RowError, sift

if TYPE_CHECKING:
    from datasets import Dataset

_IDS, _TEXT, _SCORE, _NUMBER = "list of int", "string", "float64", "int64"
PAIR_COLUMNS = {
    **dict.fromkeys(("prompt", "chosen", "rejected"), _TEXT),
    **dict.fromkeys(("prompt_ids", "chosen_ids", "rejected_ids"), _IDS),
    **dict.fromkeys(("chosen_score", "rejected_score"), _SCORE),
    "prompt_id": _NUMBER,
}
"""Columns of a row of pairs: texts, the ids as they were sampled (so that nothing is encoded a
second time), scores, and the prompt's position in its environment's set, -1 where unknown."""
RESPONSE_COLUMNS = {
    **dict.fromkeys(("prompt", "response"), _TEXT),
    **dict.fromkeys(("prompt_ids", "response_ids"), _IDS),
    "score": _SCORE,
    "finish_reason": _TEXT,
    "prompt_id": _NUMBER,
}
"""Columns of a row of responses; the same, with the reason why the response ended."""
_OPTIONAL = ("chosen_score", "rejected_score", "score", "finish_reason")
"""Columns that may be None."""


def pairs_dataset(rows: Sequence[dict[str, Any]]) -> "Dataset":
    """Return rows of pairs as a data set.

    Args:
        rows: With the columns of `PAIR_COLUMNS`; may be none.

    Raises:
        DatasetError: if a row lacks a column.
    """
    return _dataset(rows, PAIR_COLUMNS)


def responses_dataset(rows: Sequence[dict[str, Any]]) -> "Dataset":
    """Return rows of responses as a data set; see `pairs_dataset`."""
    return _dataset(rows, RESPONSE_COLUMNS)


def _dataset(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> "Dataset":
    from datasets import Dataset, Features, List, Value

    def checked(_: int, row: Any) -> Mapping[str, Any]:
        if not isinstance(row, Mapping):
            raise RowError("no object", f"it must be an object, got {reprlib.repr(row)}")
        for column, kind in columns.items():
            if column not in row:
                needed = f"a row needs {', '.join(columns)}"
                raise RowError("missing", f"it has no {column!r}, only {[*row]}; {needed}")
            value = row[column]
            if not ((value is None and column in _OPTIONAL) or _is_kind(value, kind)):
                fault = f"{column!r} must be a {kind}, got {reprlib.repr(value)}"
                raise RowError("not of its kind", fault)
        return row

    remedy = "correct the row or leave it out"
    table, _ = sift(enumerate(rows), checked, on_error="raise", remedy=remedy)
    types = {
        column: List(Value(_NUMBER)) if kind == _IDS else Value(kind)
        for column, kind in columns.items()
    }
    values = {column: [row[column] for row in table] for column in columns}
    return Dataset.from_dict(values, features=Features(types))


def _is_kind(value: Any, kind: str) -> bool:
    if kind == _IDS:
        return isinstance(value, list | tuple) and all(_is_kind(one, _NUMBER) for one in value)
    if kind == _TEXT:
        return isinstance(value, str) and lone_surrogate(value) is None
    if isinstance(value, bool):
        return False
    if kind == _SCORE:
        return isinstance(value, int | float)
    return isinstance(value, int | np.integer) and -(2**63) <= int(value) < 2**63
