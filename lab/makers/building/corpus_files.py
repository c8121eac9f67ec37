"""Reading a labelled corpus of one's own."""

import csv
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tokengym.lab.makers.building.errors import BuildError

FORMATS = {".csv": ",", ".tsv": "\t", ".jsonl": None, ".parquet": None}
"""File endings that can be read, with the separator of those that have one."""
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
    table = _read_table(path, text_column, label_column)
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


def _read_table(path: Path, text_column: str, label_column: str) -> dict[str, list]:
    if not path.is_file():
        raise BuildError(f"corpus {path} is not a file; give --corpus a {_endings()} file")
    if path.suffix.lower() not in FORMATS:
        raise BuildError(
            f"corpus {path} ends in {path.suffix!r}; give --corpus a {_endings()} file"
        )
    separator = FORMATS[path.suffix.lower()]
    numbered = text_column.isdecimal() and label_column.isdecimal()
    options: dict = {}
    if separator is not None:
        options["sep"] = separator
        if separator == "\t":
            options["quoting"] = csv.QUOTE_NONE
        if numbered:
            options["column_names"] = [str(index) for index in range(_width(path, separator))]
    return _load(path, options, (text_column, label_column))


def _load(path: Path, options: dict, columns: tuple[str, str]) -> dict[str, list]:
    import datasets

    kind = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".parquet": "parquet"}
    with tempfile.TemporaryDirectory() as cache:  # nothing of the corpus stays behind
        try:
            table = datasets.load_dataset(
                kind[path.suffix.lower()],
                data_files=str(path),
                split="train",
                cache_dir=cache,
                keep_in_memory=True,
                **options,
            )
        except Exception as error:  # the readers' own errors differ by format
            reason = str(error.__cause__ or error).splitlines()[0]
            raise BuildError(f"{path} cannot be read as {path.suffix[1:]}: {reason}") from error
        for column in columns:
            if column not in table.column_names:
                raise BuildError(
                    f"{path} has no column {column!r}; it has {table.column_names} (integers "
                    "for both columns read a csv or tsv without header)"
                )
        return {column: list(table[column]) for column in columns}


def _width(path: Path, separator: str) -> int:
    with path.open(encoding="utf-8", newline="") as file:
        if separator == "\t":
            return file.readline().count("\t") + 1
        return len(next(csv.reader(file, delimiter=separator), []))


def _endings() -> str:
    return ", ".join(FORMATS)
