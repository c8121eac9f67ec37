"""Rows of pairs and responses as `datasets.Dataset`."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tokengym.base.errors import DatasetError
from tokengym.base.text import lone_surrogate

if TYPE_CHECKING:
    from datasets import Dataset

_IDS = "list of int"
PAIR_COLUMNS = {
    "prompt": "string",
    "chosen": "string",
    "rejected": "string",
    "prompt_ids": _IDS,
    "chosen_ids": _IDS,
    "rejected_ids": _IDS,
    "chosen_score": "float64",
    "rejected_score": "float64",
    "prompt_id": "int64",
}
"""Columns of a row of pairs: texts, the ids as they were sampled (so that nothing is encoded a
second time), scores, and the prompt's position in its environment's set, -1 where unknown."""
RESPONSE_COLUMNS = {
    "prompt": "string",
    "response": "string",
    "prompt_ids": _IDS,
    "response_ids": _IDS,
    "score": "float64",
    "finish_reason": "string",
    "prompt_id": "int64",
}
"""Columns of a row of responses; the same, with the reason why the response ended."""


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

    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DatasetError(f"row {number} must be an object, got {reprlib.repr(row)}")
        for column, kind in columns.items():
            if column not in row:
                raise DatasetError(
                    f"row {number} has no {column!r}; it has {', '.join(row) or 'nothing'}, a row "
                    f"needs {', '.join(columns)}"
                )
            if not _is_kind(row[column], column, kind):
                raise DatasetError(
                    f"row {number}: {column!r} must be a {kind}, got {reprlib.repr(row[column])}; "
                    "correct the row or leave it out"
                )
    values = {column: [row[column] for row in rows] for column in columns}
    ids = List(Value("int64"))
    types = {column: ids if kind == _IDS else Value(kind) for column, kind in columns.items()}
    return Dataset.from_dict(values, features=Features(types))


def _is_kind(value: Any, column: str, kind: str) -> bool:
    """Return whether a value is what its column holds."""
    if kind == _IDS:
        return isinstance(value, list | tuple) and all(_is_id(item) for item in value)
    if kind == "string":
        if value is None:
            return column == "finish_reason"
        return isinstance(value, str) and lone_surrogate(value) is None
    if kind == "float64":
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return _is_id(value)


def _is_id(value: Any) -> bool:
    is_number = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_number and -(2**63) <= value < 2**63
