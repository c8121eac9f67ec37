"""Marks of fine-tuning files by which a message, or a row, is not to be learned."""

from collections.abc import Collection, Mapping
from typing import Any

from tokengym.envs.prompts.tables import RowError, SkippedRow, quoted

MARKS = ("weight", "train", "trainable", "loss_mask", "loss")
"""Entries of a message, or of a row, by which fine-tuning files say whether it is learned."""


def row_marks(row: Mapping[str, Any], apart: Collection[str | None] = ()) -> dict[str, Any]:
    """Return the entries of a row that mark it, and are no columns of another kind by such a name.

    Args:
        row: The row, by column.
        apart: Columns that the caller named for something else.

    Raises:
        RowError: if a weight is between 0 and 1, or beyond.
    """
    return {
        name: row[name] for name in MARKS if name not in apart and _is_mark(row.get(name), name)
    }


def _is_mark(value: Any, name: str) -> bool:
    kinds = bool | int if name == "loss" else bool | int | float  # a loss may be a measured one
    if isinstance(value, list | tuple):
        return name != "loss" or all(isinstance(one, kinds) for one in value)
    is_number = isinstance(value, kinds)
    if name == "weight" and is_number and value not in (0, 1):
        raise RowError("mark", f"'weight' must be 0 or 1, got {value!r}; leave the column out")
    return is_number and value in (0, 1)


def is_out(marks: Mapping[str, Any]) -> bool:
    """Return whether one of the marks says that a message, or a row, is not to be learned.

    Raises:
        RowError: if a mark is neither true nor false, or marks a part of what is learned whole.
    """
    given = {name: marks[name] for name in MARKS if marks.get(name) is not None}
    for name, value in given.items():
        values = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(one, str) or one not in (0, 1) for one in values):
            raise RowError(
                "mark", f"{name!r} must be true or false, or 1 or 0, got {value!r}; correct it"
            )
        if len({*map(bool, values)}) > 1:
            raise RowError(
                "mark",
                f"{name!r} marks a part of a text, which is learned as a whole; give messages, "
                f"with {name!r} of each",
            )
    return any(not all(v if isinstance(v, list | tuple) else [v]) for v in given.values())


def unmarked(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message without its marks, which no chat template is given."""
    return {name: value for name, value in message.items() if name not in MARKS}


def marked_rows(numbers: list[int], of: str) -> list[SkippedRow]:
    """Return the record of rows that are marked as not to be learned.

    Args:
        numbers: Their numbers.
        of: Name of the data, for the messages.
    """
    why = f"is marked as not to be learned, by one of {quoted(MARKS)}"
    return [SkippedRow(row=n, kind="marked", reason=f"row {n} of the {of} {why}") for n in numbers]
