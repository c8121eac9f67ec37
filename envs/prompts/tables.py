"""From a table to its rows: columns found by name, and rows that were kept or left out, and why.

Prompts, pairs, labels and responses are read by it, of what `tokengym.envs.prompts.datasets` reads.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from tokengym.base.errors import DatasetError, TokenizerError

Column = str | int
"""Name of a column, or its position in a file without header."""
OnError = Literal["raise", "skip"]
S = TypeVar("S")
T = TypeVar("T")


def quoted(names: Iterable[str]) -> str:
    """Return names as a message lists them."""
    return ", ".join(map(repr, names))


def column_names(table: Any) -> list[str]:
    """Return the names of the columns of what `read_table` returns."""
    if not isinstance(table, list):
        return list(table.column_names)
    return list(dict.fromkeys(name for row in table for name in row))


def column_named(columns: Sequence[str], name: Column, argument: str, *, of: str = "") -> str:
    """Return the name of the column that an argument names, or gives the position of.

    Args:
        columns: Names of all columns.
        name: What the argument says.
        argument: Its name.
        of: What the table holds, for the message; "" is a table that may be a file without header.
    """
    if isinstance(name, int):
        if 0 <= name < len(columns):
            return columns[name]
        raise DatasetError(
            f"{argument}={name} is no position from 0 to {len(columns) - 1}; the columns are "
            f"{quoted(columns)}"
        )
    if name not in columns:
        whose = f" of the {of}" if of else ""
        hint = "" if of else " (a position, such as 0, reads a csv or tsv file without header)"
        raise DatasetError(
            f"{argument}={name!r} is no column{whose}; the columns are {quoted(columns)}{hint}"
        )
    return name


def find_column(
    columns: Sequence[str], name: Column | None, argument: str, *, default: str, of: str = ""
) -> str | None:
    """Return `column_named`; where the argument is None, the default if there is such a column."""
    if name is not None:
        return column_named(columns, name, argument, of=of)
    return default if default in columns else None


@dataclass(frozen=True, kw_only=True)
class SkippedRow:
    """A row that makes no comparison."""

    row: int
    """Its number in the data set, from 0."""
    kind: str
    """The fault in a word or two: "empty", "not text", "equal", "no shared prompt", ..."""
    reason: str
    """One line with the row, the value and the remedy."""


class RowError(Exception):
    """The fault of a row: its kind, and a sentence."""


def sift(
    rows: Iterable[tuple[int, S]],
    step: Callable[[int, S], T],
    *,
    on_error: OnError,
    of: str = "data",
) -> tuple[list[T], list[SkippedRow]]:
    """Return what a step makes of each row, and the rows that it refuses."""
    passed, skipped = [], []
    for number, row in rows:
        try:
            passed.append(step(number, row))
            continue
        except RowError as fault:
            kind, what = fault.args
        except TokenizerError as error:
            kind, what = "chat template", str(error)
        remedy = "correct it, or pass on_error='skip' (--on-error skip)"
        reason = f"row {number} of the {of}: {what}; {remedy}"
        if on_error == "raise":
            raise DatasetError(reason)
        skipped.append(SkippedRow(row=number, kind=kind, reason=reason))
    return passed, skipped


def count_skips(skipped: Iterable[SkippedRow]) -> dict[str, int]:
    """Return how many rows were left out for what, the most frequent first."""
    return dict(Counter(row.kind for row in skipped).most_common())
