"""Pairs and responses as `datasets.Dataset`, on disk as jsonl or parquet, whole or not there."""

import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokengym.base.errors import DatasetError
from tokengym.base.files import parse_json, replacing
from tokengym.base.text import lone_surrogate
from tokengym.envs.prompts.loading import check_parquet
from tokengym.envs.prompts.tokenization import encode

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

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
FORMATS = (".jsonl", ".parquet")
"""Endings of files that pairs are written to."""


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


def save_dataset(dataset: "Dataset", path: str | Path) -> Path:
    """Write a data set as jsonl or parquet, beside its place and then moved into it.

    Returns:
        The path.

    Raises:
        DatasetError: if the suffix is neither.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise DatasetError(
            f"a data set is stored as {' or '.join(FORMATS)}, got {path.name!r}; name it so"
        )
    with replacing(path) as part:
        # datasets' own writers draw progress bars, and its readers keep copies and refuse no rows.
        if path.suffix == ".parquet":
            import pyarrow.parquet

            pyarrow.parquet.write_table(dataset.with_format("arrow")[:], part)
        else:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in dataset)
            part.write_text("".join(lines), encoding="utf-8")
    return path


def load_pairs(path: str | Path) -> "Dataset":
    """Return a data set of pairs as `save_dataset` wrote it.

    Pairs of other making, texts alone, are read by `tokengym.rewards.read_pairs`.

    Raises:
        DatasetError: if it is not there, cannot be read, or is of another kind.
    """
    return _load(path, PAIR_COLUMNS)


def load_responses(path: str | Path) -> "Dataset":
    """Return a data set of responses; see `load_pairs`."""
    return _load(path, RESPONSE_COLUMNS)


def as_texts(pairs: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> list[dict[str, str]]:
    """Return pairs as texts that read, put together, as the ids do.

    What reads ``prompt + chosen`` needs the space between them that tokenizers of whole words leave
    out of a response's text.
    """
    texts: list[dict[str, str]] = pairs.select_columns(["prompt", "chosen", "rejected"]).to_list()
    if texts:
        (ids,) = encode(tokenizer, [texts[0]["prompt"] + texts[0]["chosen"]])
        eos = tokenizer.eos_token_id
        if ids != [*pairs[0]["prompt_ids"], *(i for i in pairs[0]["chosen_ids"] if i != eos)]:
            texts = [
                row | {"chosen": f" {row['chosen']}", "rejected": f" {row['rejected']}"}
                for row in texts
            ]
    return texts


def _dataset(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> "Dataset":
    from datasets import Dataset

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
    return Dataset.from_dict(values, features=_features(columns))


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


def _load(path: str | Path, columns: dict[str, str]) -> "Dataset":
    path = Path(path)
    if not path.is_file():
        raise DatasetError(f"{str(path)!r} is not there; tokengym collect writes such files")
    if path.suffix not in FORMATS:
        raise DatasetError(f"{path.name!r} must be one of {', '.join(FORMATS)}")
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            check_parquet(path)
            rows = pyarrow.parquet.read_table(path).to_pylist()
            names = pyarrow.parquet.read_schema(path).names
        else:
            lines = path.read_text(encoding="utf-8").split("\n")
            rows = [parse_json(line) for line in lines if line]
            known = (name for row in rows if isinstance(row, Mapping) for name in row)
            names = list(dict.fromkeys(known)) if rows else list(columns)
    except DatasetError:
        raise
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DatasetError(f"{str(path)!r} cannot be read ({reason}); write it again") from error
    missing = [column for column in columns if column not in names]
    if missing:
        raise DatasetError(
            f"{str(path)!r} has no column {missing[0]!r}, it has {', '.join(names) or 'none'}; "
            "texts without ids are read by tokengym.rewards.read_pairs"
        )
    try:
        return _dataset(rows, columns)
    except DatasetError as error:
        raise DatasetError(f"{str(path)!r}: {error}") from None


def _features(columns: dict[str, str]) -> Any:
    from datasets import Features, List, Value

    return Features(
        {
            column: List(Value("int64")) if kind == _IDS else Value(kind)
            for column, kind in columns.items()
        }
    )
