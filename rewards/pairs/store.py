"""Rows of pairs and responses as `datasets.Dataset`."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tokengym.base.text import lone_surrogate
from tokengym.envs.prompts.tables import RowError, sift

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

    def checked(_: int, row: Any) -> Mapping[str, Any]:
        if not isinstance(row, Mapping):
            raise RowError("no object", f"it must be an object, got {reprlib.repr(row)}")
        for column, kind in columns.items():
            if column not in row:
                needed = f"a row needs {', '.join(columns)}"
                raise RowError("missing", f"it has no {column!r}, only {[*row]}; {needed}")
            if not _is_kind(row[column], column, kind):
                value = reprlib.repr(row[column])
                raise RowError("not of its kind", f"{column!r} must be a {kind}, got {value}")
        return row

    remedy = "correct the row or leave it out"
    table, _ = sift(enumerate(rows), checked, on_error="raise", remedy=remedy)
    types = {
        column: List(Value("int64")) if kind == _IDS else Value(kind)
        for column, kind in columns.items()
    }
    values = {column: [row[column] for row in table] for column in columns}
    return Dataset.from_dict(values, features=Features(types))


def _is_kind(value: Any, column: str, kind: str) -> bool:
    """Return whether a value is what its column holds."""
    if kind == "string":
        if value is None:
            return column == "finish_reason"
        return isinstance(value, str) and lone_surrogate(value) is None
    if kind == "float64":
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    if kind == _IDS and not isinstance(value, list | tuple):
        return False
    numbers = value if kind == _IDS else [value]
    are_numbers = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in numbers)
    return are_numbers and all(-(2**63) <= n < 2**63 for n in numbers)
