"""The one reader of rows: prompts, pairs, labels, steps and traces are read from a `Table`.

Its columns are found by name, and each of its rows is kept, or left out for a reason that is said.
`tokengym.envs.prompts.datasets` makes tables of files, data sets, names on the hub and lists.
"""

import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from tokengym.base.chat import is_messages, without_filled
from tokengym.base.errors import DatasetError, PromptError, TokenizerError
from tokengym.base.text import lone_surrogate

Column = str | int
"""Name of a column, or its position in a file without header."""
OnError = Literal["raise", "skip"]
LearnOn = Literal["all", "last"]
"""Answers of a conversation that are learned."""
S = TypeVar("S")
T = TypeVar("T")
_ROWS = 10_000
"""Values of a column that are read at a time."""


def quoted(names: Iterable[str]) -> str:
    """Return names as a message lists them."""
    return ", ".join(map(repr, names))


class Table(Sequence[Mapping[str, Any]]):
    """Rows of values by column, as a ``datasets.Dataset`` or a list of mappings holds them.

    Args:
        rows: The rows; those of a list that lack a column have None there.
        of: What they are, for messages, such as "pairs".

    Raises:
        DatasetError: if a row of a list is no mapping.
    """

    columns: list[str]
    """Names of the columns."""

    def __init__(self, rows: Any, of: str) -> None:
        self.of = of
        self._has_filled = False
        if isinstance(rows, list):
            for number, row in enumerate(rows):
                if not isinstance(row, Mapping):
                    raise DatasetError(
                        f"row {number} of the {of} is {type(row).__name__}; it must be a mapping "
                        "of values by column"
                    )
            self.columns = list(dict.fromkeys(name for row in rows for name in row))
            width = len(self.columns)
            rows = [
                row if len(row) == width else {name: row.get(name) for name in self.columns}
                for row in rows
            ]
        else:
            self.columns = list(rows.column_names)
            self._has_filled = any(map(_holds_mappings, rows.features.values()))
        self.rows = rows

    def named(self, of: str) -> "Table":
        """Return the table under another name, with the rows as they were checked."""
        table = copy(self)
        table.of = of
        return table

    @property
    def is_csv(self) -> bool:
        """Whether it comes from a csv or tsv file, which writes a missing value as a word."""
        return not isinstance(self.rows, list) and self.rows.info.builder_name == "csv"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Any) -> Any:
        row = self.rows[number]
        return without_filled(row) if self._has_filled else row

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return map(without_filled, self.rows) if self._has_filled else iter(self.rows)

    def values(self, name: str) -> list[Any]:
        """Return a column's values."""
        if isinstance(self.rows, list):
            return [row[name] for row in self.rows]
        if _holds_mappings(self.rows.features.get(name)):
            return [*map(without_filled, self.rows[name])]
        if self.rows.format["type"] is not None:  # a transform of the user's reads row by row
            return list(self.rows[name])
        column = self.rows.select_columns(name)
        parts = (column[start : start + _ROWS][name] for start in range(0, len(self), _ROWS))
        return [value for part in parts for value in part]

    def column(self, name: Column, argument: str, *, hint: str = "") -> str:
        """Return the name of the column that an argument names, or gives the position of."""
        if isinstance(name, str) and name in self.columns:
            return name
        if isinstance(name, int) and 0 <= name < len(self.columns):
            return self.columns[name]
        kind = "column" if isinstance(name, str) else "position of a column"
        raise DatasetError(
            f"{argument}={name!r} is no {kind} of the {self.of}; the columns are "
            f"{quoted(self.columns)}{hint}"
        )

    def optional_column(self, name: str | None, argument: str, *, default: str) -> str | None:
        """Return `column`; where the argument is None, the default if there is such a column."""
        if name is not None:
            return self.column(name, argument)
        return default if default in self.columns else None

    def holds_messages(self, prompt: str | None, *responses: str) -> bool:
        """Return whether the first row has messages as prompt, or as all responses."""
        if not len(self):
            return False
        first = self[0]
        return is_messages(first.get(prompt)) or all(is_messages(first.get(n)) for n in responses)


def _holds_mappings(kind: Any) -> bool:
    """Return whether Arrow types a column's values as mappings, or as lists of some.

    It then gives all of them each other's keys, with None for those that a value lacks.
    """
    kind = kind[0] if isinstance(kind, list) else getattr(kind, "feature", kind)
    return isinstance(kind, Mapping)


# --- rows that are kept or left out ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SkippedRow:
    """A row that is left out."""

    row: int
    """Its number in the data set, from 0."""
    kind: str
    """The fault in a word or two: "empty", "not text", "equal", "no shared prompt", ..."""
    reason: str
    """One line with the row, the value and the remedy."""


class RowError(Exception):
    """The fault of a row: its kind, and a sentence."""


def text_value(value: Any, label: str, *, may_be_empty: bool = False, hint: str = "") -> str:
    """Return a value, which messages call by the label, if it is a text that can be read."""
    if value is None or (isinstance(value, str) and not may_be_empty and not value.strip()):
        raise RowError("empty", f"{label} is empty, got {value!r}")
    if not isinstance(value, str):
        kind = type(value).__name__
        raise RowError(
            "not text", f"{label} must be a text, got {kind} {reprlib.repr(value)}{hint}"
        )
    if not value.isascii() and (position := lone_surrogate(value)) is not None:
        raise RowError(
            "not text",
            f"{label} has the lone surrogate {value[position]!r} at character {position}, which no "
            "tokenizer reads; read the text as UTF-8 again",
        )
    return value


def sift(
    rows: Iterable[tuple[int, S]],
    step: Callable[[int, S], T],
    *,
    on_error: OnError,
    of: str = "data",
    remedy: str = "correct it, or pass on_error='skip'",
) -> tuple[list[T], list[SkippedRow]]:
    """Return what a step makes of each numbered row, and the rows that it refuses.

    Args:
        rows: The number of each row, and what the step takes.
        step: Makes something of a row, or raises `RowError`.
        on_error: Whether the first refused row raises, or all are left out.
        of: What the rows are, for messages.
        remedy: What to do about a row, for messages.
    """
    kept, skipped = [], []
    for number, row in rows:
        try:
            kept.append(step(number, row))
            continue
        except RowError as error:
            kind, fault = error.args
        except (PromptError, TokenizerError) as error:
            kind = "not messages" if isinstance(error, PromptError) else "chat template"
            fault = str(error)
        reason = f"row {number} of the {of}: {fault}; {remedy}"
        if on_error == "raise":
            raise DatasetError(reason)
        skipped.append(SkippedRow(row=number, kind=kind, reason=reason))
    return kept, skipped


def count_skips(skipped: Iterable[SkippedRow]) -> dict[str, int]:
    """Return how many rows were left out for what, the most frequent first."""
    return dict(Counter(row.kind for row in skipped).most_common())
