"""Reading a labelled corpus of one's own."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokengym.envs import DatasetError
from tokengym.lab.makers.building.errors import BuildError
from tokengym.rewards.pairs import read_table

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
"""File endings that can be read."""
MIN_ROWS = 200
"""Fewest rows to train on; a tenth of them must have each label."""


@dataclass(frozen=True)
class LabelledText:
    """A text and whether its label is the preferred one."""

    text: str
    positive: bool


def read_corpus(
    path: Path,
    text_column: str,
    label_column: str,
    *,
    positive_label: str | None = None,
    min_rows: int = MIN_ROWS,
) -> list[LabelledText]:
    """Return the labelled texts of a file, rows without text left out.

    Args:
        path: A csv, tsv, jsonl or parquet file, told apart by its ending. A tsv has no quoting.
        text_column: The texts' column. Two integers as columns (from 0) say that a csv or tsv file
            has no header.
        label_column: The labels' column; it must hold two different values.
        positive_label: The preferred value; None takes the one that sorts last (1, "positive").
        min_rows: Fewer rows than this are refused, or fewer than a tenth of it of one label.

    Raises:
        BuildError: if the file, a column, the labels or the number of rows is not as it should be.
    """
    table = _read_columns(path, text_column, label_column)
    texts = [str(text or "").strip() for text in table[text_column]]
    labels = [str(label) for label in table[label_column]]
    rows = [(text, label) for text, label in zip(texts, labels, strict=True) if text]
    if len(rows) < min_rows:
        raise BuildError(f"{path} has {len(rows)} rows with text; at least {min_rows} are needed")
    counts = Counter(label for _, label in rows)
    if len(counts) != 2:
        shown = ", ".join(repr(label) for label in sorted(counts)[:5])
        raise BuildError(
            f"column {label_column!r} of {path} must hold two labels, got {len(counts)}: {shown}; "
            "choose another --label-column"
        )
    rarer = min(counts, key=lambda label: counts[label])
    if counts[rarer] < min_rows / 10:
        raise BuildError(
            f"label {rarer!r} of {path} has {counts[rarer]} rows; at least {min_rows // 10} "
            "of each label are needed"
        )
    preferred = max(counts) if positive_label is None else positive_label
    if preferred not in counts:
        raise BuildError(
            f"positive label {preferred!r} is not in column {label_column!r} of {path}, which has "
            f"{sorted(counts)}; give one of these as --positive-label"
        )
    return [LabelledText(text, label == preferred) for text, label in rows]


def _read_columns(path: Path, *columns: str) -> dict[str, list[Any]]:
    """Return columns of a file by name, or by position where all are integers."""
    endings = ", ".join(FORMATS)
    if not path.is_file():
        raise BuildError(f"corpus {path} is not a file; give --corpus a {endings} file")
    if path.suffix.lower() not in FORMATS:
        raise BuildError(f"corpus {path} ends in {path.suffix!r}; give --corpus a {endings} file")
    numbered = all(column.isdecimal() for column in columns)
    try:
        table = read_table(path, of="corpus", headerless=numbered)
    except DatasetError as error:
        raise BuildError(str(error)) from error
    for column in columns:
        if column not in table.column_names:
            raise BuildError(
                f"{path} has no column {column!r}; it has {table.column_names} (integers "
                "for both columns read a csv or tsv without header)"
            )
    return {column: list(table[column]) for column in columns}
