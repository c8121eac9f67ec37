"""Prompts from data sets: `datasets` objects, local files, hub names."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import reprlib
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

from tokengym.base.bundle import Split, check_split
from tokengym.base.errors import DatasetError, PromptError, SettingsError
from tokengym.base.pretrained import hub_answers
from tokengym.base.prompt import NO_METADATA, Prompt, PromptSet, is_messages, read_transcript
from tokengym.base.text import lone_surrogate
from tokengym.envs.prompts.tokenization import in_parts

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

DatasetSource: TypeAlias = Union["Dataset", "DatasetDict", str, Path]
"""A data set, the path of a file, or a name on the hub."""
MAX_UNPACKED_BYTES = 2**30
"""Most bytes that a compressed file may unpack to, unless its ratio allows more."""
MAX_UNPACKED_RATIO = 20
"""Most times its own size that a compressed file may unpack to, unless that is few bytes."""


def read_gzip(path: Path) -> bytes:
    """Return the contents of a gzipped file.

    Raises:
        DatasetError: if they are more than `MAX_UNPACKED_BYTES` allows.
        OSError, EOFError: if the file is damaged.
    """
    limit = _max_bytes(path)
    with gzip.open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise _too_large(path, limit, "unpack it with gunzip, or split it")
    return data


def check_parquet(path: Path) -> None:
    """Refuse a parquet file whose tables are larger than `MAX_UNPACKED_BYTES` allows.

    Sizes and numbers of values stand in the file's metadata, but for texts that repeat: these are
    passed over once, as indices into the file's dictionaries where it has them.

    Raises:
        DatasetError: naming the limit.
        OSError, ValueError: if the file is damaged.
    """
    import pyarrow.parquet as pq

    limit = _max_bytes(path)
    with pq.ParquetFile(path) as file:
        metadata, schema = file.metadata, file.schema
    widths = [max(8, schema.column(i).length or 0) for i in range(metadata.num_columns)]
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    parts = [(group.column(i), width) for group in groups for i, width in enumerate(widths)]
    size = sum(max(part.total_uncompressed_size, width * part.num_values) for part, width in parts)
    encodings: dict[str, set[str]] = {}
    for part, _ in parts:
        if part.physical_type == "BYTE_ARRAY":
            encodings.setdefault(part.path_in_schema, set()).update(part.encodings)
    repeating = ("PLAIN_DICTIONARY", "RLE_DICTIONARY", "DELTA_BYTE_ARRAY")
    texts = {name: used for name, used in encodings.items() if not used.isdisjoint(repeating)}
    deltas = [name for name, used in texts.items() if any(e.startswith("DELTA") for e in used)]
    others = [name for name in texts if name not in deltas]
    # No text is longer than all of them together, so that no batch is larger than the limit.
    for columns, kept, rows in ((others, others, 2**16), (deltas, [], max(limit // (size + 1), 1))):
        if columns and size <= limit:
            with pq.ParquetFile(path, read_dictionary=kept) as file:
                for batch in file.iter_batches(rows, columns=columns):
                    size += sum(map(_expanded, batch.columns))
                    if size > limit:
                        break
    if size > limit:
        raise _too_large(path, limit, "read the rows that you need yourself, as a datasets.Dataset")


def _expanded(array: Any) -> int:
    """Return the bytes of an Arrow array's values; a text in a dictionary counts each time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        lengths = pc.binary_length(array.dictionary)
        return pc.sum(lengths.take(array.indices)).as_py() or 0
    if pa.types.is_struct(array.type):
        return sum(map(_expanded, array.flatten()))
    if pa.types.is_map(array.type):
        return _expanded(array.keys) + _expanded(array.items)
    is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    return _expanded(array.values) if is_list else int(array.nbytes)


def _max_bytes(path: Path) -> int:
    return max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * path.stat().st_size)


def _too_large(path: Path, limit: int, remedy: str) -> DatasetError:
    return DatasetError(
        f"{str(path)!r}, {path.stat().st_size} bytes, unpacks to more than {limit} bytes, the most "
        f"that is read of it; {remedy}"
    )


Column = str | int

TEST_FRACTION = 0.1
_SPLIT_SEED = 0
_CUT_SEED = 0
_QUOTE_NONE = 3  # csv.QUOTE_NONE: a tab-separated text may hold lone quotation marks
_NO_NA = {"keep_default_na": False}  # "NA" is a word, and an empty reference is allowed
_MISSING = ("nan", "none", "null")
_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", _NO_NA),
    ".tsv": ("csv", {"sep": "\t", "quoting": _QUOTE_NONE, **_NO_NA}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
    ".txt": ("text", {}),
}


def load_prompts(
    dataset: DatasetSource,
    *,
    prompt_column: Column | None = None,
    reference_column: Column | None = None,
    query_type_column: Column | None = None,
    metadata_columns: Sequence[Column] = (),
    split: Split = "train",
    prompt_tokens: int | tuple[int, ...] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    transcripts: bool = False,
) -> PromptSet:
    """Return the prompts of a data set.

    A data set that has splits keeps them ("test" takes "validation" if there is no "test"). Any
    other is split by a fixed rule: the tenth of its distinct prompts with the smallest seeded
    hashes is the test split; the order of the rows does not matter, and no prompt is in both.

    Args:
        dataset: A ``datasets.Dataset`` or ``DatasetDict``; the path of a csv, tsv, json, jsonl,
            parquet or txt file (gzipped or not) or of a folder that ``save_to_disk`` wrote; or a
            name on the hub, with ``name:config`` for a configuration.
        prompt_column: Name, or position if the file has no header; None takes "prompt", or the
            only column. It holds texts, or conversations as lists of {"role", "content"}.
        reference_column: Reference answers, if any.
        query_type_column: R3's "OPENENDED" and "CONSTRAINED", if annotated.
        metadata_columns: Further columns, of any kind: each prompt's ``metadata`` by name.
        split: "train", "test" or "all".
        prompt_tokens: Keep only the first tokens of each text: a number, or (low, high) to draw
            one per row from a fixed seed. None keeps the text.
        tokenizer: Tokenizer that counts these tokens.
        transcripts: Whether texts that begin with "Human:" or "Assistant:" are conversations,
            as in HH-RLHF: the assistant's last turn is then the reference, unless a
            column gives one, and the messages before it are the prompt.

    Raises:
        DatasetError: if it cannot be read, a column is missing, or a value is not a text.
    """
    check_split(split)
    columns = (prompt_column, reference_column, query_type_column)
    headerless = any(isinstance(column, int) for column in (*columns, *metadata_columns))
    by_name = read_tables(dataset, headerless=headerless)
    tables = {
        name: _prompts(table, columns, metadata_columns, transcripts)
        for name, table in by_name.items()
    }
    if prompt_tokens is not None:
        if tokenizer is None:
            raise SettingsError(f"prompt_tokens={prompt_tokens} needs a tokenizer; pass tokenizer=")
        tables = {k: first_tokens(v, prompt_tokens, tokenizer) for k, v in tables.items()}
    return _choose(tables, split)


def first_tokens(
    prompts: PromptSet, prompt_tokens: int | tuple[int, ...], tokenizer: PreTrainedTokenizerBase
) -> PromptSet:
    """Return the prompts cut to their first tokens.

    Args:
        prompts: The prompts; references and query types are kept.
        prompt_tokens: Number of tokens, or (low, high) to draw one per prompt from a fixed seed.
        tokenizer: Tokenizer that counts them, without special tokens.

    Raises:
        SettingsError: if the numbers are not valid lengths.
    """
    bounds = (prompt_tokens,) * 2 if isinstance(prompt_tokens, int) else tuple(prompt_tokens)
    if len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1]:
        raise SettingsError(
            f"prompt_tokens must be a number or (low, high) with 1 <= low <= high, got "
            f"{prompt_tokens!r}"
        )
    rng = np.random.default_rng(_CUT_SEED)
    lengths = rng.integers(bounds[0], bounds[1] + 1, size=len(prompts)).tolist()
    if any(prompt.messages for prompt in prompts):
        raise SettingsError(
            f"prompt_tokens={prompt_tokens} cannot cut a conversation; leave it out, or shorten "
            "the messages"
        )
    cut = []
    for part in in_parts(list(zip(prompts, lengths, strict=True))):
        encoded = tokenizer(
            [prompt.text for prompt, _ in part],
            add_special_tokens=False,
            return_offsets_mapping=tokenizer.is_fast,
            verbose=False,
        )
        for row, (prompt, length) in enumerate(part):
            ids = encoded["input_ids"][row]
            if len(ids) <= length:
                text = prompt.text
            elif tokenizer.is_fast:
                text = prompt.text[: encoded["offset_mapping"][row][length - 1][1]]
            else:
                text = str(tokenizer.decode(ids[:length]))
            cut.append(replace(prompt, text=text))
    return PromptSet(cut)


def read_tables(dataset: DatasetSource, *, headerless: bool = False) -> dict[str, Dataset]:
    """Return the tables of a data set by split; a table without splits has the name "".

    Args:
        dataset: See `load_prompts`.
        headerless: Whether a csv or tsv file has no header; its columns are then positions.

    Raises:
        DatasetError: if it cannot be read.
    """
    import datasets

    if isinstance(dataset, datasets.Dataset):
        return {"": dataset}
    if isinstance(dataset, Mapping) and dataset:
        for table in dataset.values():
            _check_type(table, (datasets.Dataset, Sequence))
        return dict(dataset)
    _check_type(dataset or None, (str, Path))
    assert isinstance(dataset, str | Path)
    path = Path(dataset)
    try:
        loaded = _loaded(path, dataset, headerless=headerless)
    except DatasetError:
        raise
    except Exception as error:  # datasets raises a dozen kinds; all mean that it is unreadable
        cause: BaseException = error
        while cause.__cause__ is not None:  # datasets says only that an error occurred
            cause = cause.__cause__
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        if "corresponds to no data" in reason:
            reason = "it has a header and no rows"
        raise _unreadable(
            dataset,
            reason,
            "pass a csv, tsv, json, jsonl, parquet or txt file, or a name that "
            "datasets.load_dataset knows",
        ) from error
    return dict(loaded) if isinstance(loaded, Mapping) else {"": loaded}


def _loaded(path: Path, dataset: Path | str, *, headerless: bool) -> Any:
    """Return what `datasets` makes of a file, a folder that it saved, or a name on the hub."""
    import datasets

    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    if (reader := _READERS.get(suffixes[-1] if suffixes else "")) is not None:
        builder, options = reader
        if not path.is_file():
            raise DatasetError(f"dataset file {str(dataset)!r} does not exist; check the path")
        if builder == "parquet":
            check_parquet(path)
        else:
            text = _read_text(path)
            if builder == "json":
                _check_json(path, text)
        if builder == "csv" and headerless:
            options = {**options, "header": None}
        with _bars_on_terminals():
            return datasets.load_dataset(builder, data_files=str(path), split="train", **options)
    if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        return datasets.load_from_disk(str(path))
    if path.is_file():
        raise DatasetError(
            f"dataset file {str(dataset)!r} is of no kind that is read; unpack it, or convert "
            f"it to one of {', '.join(_READERS)}"
        )
    name, _, config = str(dataset).partition(":")
    if not Path(name).exists():
        hub_answers(name, "dataset")
    with _bars_on_terminals():
        return datasets.load_dataset(name, config or None)


@contextmanager
def _bars_on_terminals() -> Iterator[None]:
    """Keep the progress bars of `datasets` out of logs and pipes."""
    from datasets.utils.logging import (
        disable_progress_bar,
        enable_progress_bar,
        is_progress_bar_enabled,
    )

    hides = is_progress_bar_enabled() and not sys.stderr.isatty()
    if hides:
        disable_progress_bar()
    try:
        yield
    finally:
        if hides:
            enable_progress_bar()


def _check_type(dataset: Any, known: tuple[type, ...]) -> None:
    if not isinstance(dataset, known):
        raise DatasetError(
            "dataset must be a datasets.Dataset, a path or a hub name, got "
            f"{type(dataset).__name__}; wrap rows with "
            "datasets.Dataset.from_list"
        )


def _unreadable(dataset: Any, cause: str, remedy: str) -> DatasetError:
    return DatasetError(f"dataset {str(dataset)!r} cannot be read ({cause}); {remedy}")


def _read_text(path: Path) -> str:
    """Return the text of a file, gzipped or not; refuse an empty one and other encodings."""
    try:
        data = read_gzip(path) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, str(error), "check the file") from None
    if data.startswith(b"PK\3\4"):
        raise _unreadable(path, "it is a zip archive", "unpack it")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:4]:
        raise _unreadable(path, "it is UTF-16", "save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        cause = f"line {line}: byte {error.start}, 0x{data[error.start]:02x}, is not UTF-8"
        raise _unreadable(path, cause, "save it as UTF-8; it may be Latin-1") from None
    if not text.strip():
        raise _unreadable(path, f"it is empty, {len(data)} bytes", "pass a file with prompts")
    return text


def _check_json(path: Path, text: str) -> None:
    """Refuse JSON rows that are no objects; `datasets` crashes the process on some of them."""
    try:
        try:
            whole = json.loads(text)
            rows: Any = enumerate(whole if isinstance(whole, list) else [whole])
            unit = "row"
        except ValueError as error:
            if text.lstrip().startswith("["):
                raise _broken(path, error, 0, text) from None
            rows, unit = _json_lines(path, text), "line"
        for number, row in rows:
            if not isinstance(row, dict):
                cause = f"{unit} {number} is {reprlib.repr(row)}, not an object with the columns"
                raise _unreadable(path, cause, "correct it")
            if lone_surrogate(json.dumps(row, ensure_ascii=False)) is not None:
                cause = f"{unit} {number} has a lone surrogate, which is no character"
                raise _unreadable(path, cause, "correct it")
    except RecursionError:
        raise _unreadable(path, "it is nested too deeply", "pass one object per prompt") from None


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Yield the number of each line that is not blank, and its value."""
    start = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise _broken(path, error, start, text) from None
        start += len(line) + 1


def _broken(path: Path, error: ValueError, start: int, text: str) -> DatasetError:
    """Return the error of invalid JSON in what begins at a character of the text."""
    if not isinstance(error, json.JSONDecodeError):  # such as a number with too many digits
        return _unreadable(path, str(error), "correct it")
    position = start + error.pos
    line, byte = text.count("\n", 0, position) + 1, len(text[:position].encode())
    return _unreadable(path, f"line {line}, byte {byte}: {error.msg}", "correct the line")


def _prompts(
    table: Dataset,
    columns: Sequence[Column | None],
    metadata_columns: Sequence[Column],
    transcripts: bool,
) -> PromptSet:
    """Return the table's rows as prompts; ``columns`` name prompt, reference and query type."""
    column = _column_name(table, columns[0], "prompt_column")
    texts = _texts(table, column, required=True)
    if table.info.builder_name == "csv":
        _check_missing(texts, column)
    rest = [
        [None] * len(texts)
        if column is None
        else _texts(table, _column_name(table, column, argument), required=False)
        for column, argument in zip(
            columns[1:], ("reference_column", "query_type_column"), strict=True
        )
    ]
    names = [_column_name(table, column, "metadata_columns") for column in metadata_columns]
    further = table.select_columns(names) if names else [NO_METADATA] * len(texts)
    prompts = []
    for row, (text, reference, query_type, metadata) in enumerate(
        zip(texts, *rest, further, strict=True)
    ):
        written_out = read_transcript(text) if transcripts and isinstance(text, str) else None
        if written_out is not None:
            text, answer = written_out
            reference = reference or answer
        try:
            build = Prompt if isinstance(text, str) else Prompt.from_messages
            prompts.append(
                build(text, reference=reference, query_type=query_type, metadata=metadata)
            )
        except PromptError as error:
            raise DatasetError(f"row {row} of the data set: {error}") from error
    if not prompts:
        raise DatasetError("the data set has 0 rows; pass one with prompts")
    return PromptSet(prompts)


def _check_missing(texts: Sequence[Any], column: str) -> None:
    """Refuse the words that programs write for a missing value in a csv or tsv file."""
    for row, text in enumerate(texts):
        if isinstance(text, str) and text.strip().lower() in _MISSING:
            raise DatasetError(
                f"row {row} of column {column!r} is {text!r}, which stands for a missing prompt; "
                "filter such rows out, or write the word in a jsonl file if it is meant"
            )


def _column_name(table: Dataset, column: Column | None, argument: str) -> str:
    """Return the name of a column given by name or position."""
    names = table.column_names
    if column is None:
        if "prompt" in names:
            return "prompt"
        if len(names) == 1:
            return names[0]
        raise DatasetError(f"{argument}=None is ambiguous; name one of the columns {_names(table)}")
    if isinstance(column, int):
        if 0 <= column < len(names):
            return names[column]
        raise DatasetError(
            f"{argument}={column} is no position from 0 to {len(names) - 1}; the columns are "
            f"{_names(table)}"
        )
    if column not in names:
        raise DatasetError(
            f"{argument}={column!r} is no column; the columns are {_names(table)} "
            "(a position, such as 0, reads a csv or tsv file without header)"
        )
    return column


def _names(table: Dataset) -> str:
    return ", ".join(map(repr, table.column_names))


def _texts(table: Dataset, name: str, *, required: bool) -> list[Any]:
    """Return a column's texts, or conversations if required; optional empty ones become None."""
    values = list(table[name])
    for row, value in enumerate(values):
        if value is None or (isinstance(value, str) and not value.strip()):
            if required:
                raise DatasetError(
                    f"row {row} of column {name!r} is empty, got {value!r}; filter such rows out"
                )
            values[row] = None
        elif not isinstance(value, str) and not (required and is_messages(value)):
            raise DatasetError(
                f"column {name!r} must hold texts, row {row} has {type(value).__name__} "
                f"{reprlib.repr(value)}; choose one of the columns {_names(table)}"
            )
    return values


def _choose(tables: dict[str, PromptSet], split: Split) -> PromptSet:
    """Return one split of the loaded tables."""
    if split == "all":
        return PromptSet(prompt for table in tables.values() for prompt in table)
    if len(tables) > 1:
        names = ("train",) if split == "train" else ("test", "validation")
        for name in names:
            if name in tables:
                return tables[name]
        raise DatasetError(
            f"the data set has no split {split!r}, only {', '.join(map(repr, tables))}; "
            "pass split='all', or one table of it"
        )
    (table,) = tables.values()
    ranked = sorted(set(table.texts), key=_hash)
    if len(ranked) < 2:
        raise DatasetError(
            f"{len(ranked)} distinct prompt cannot be split into train and test; pass split='all'"
        )
    held_out = set(ranked[: max(1, round(TEST_FRACTION * len(ranked)))])
    return PromptSet(p for p in table if (p.text in held_out) == (split == "test"))


def _hash(text: str) -> bytes:
    return hashlib.sha256(f"{_SPLIT_SEED}:{text}".encode()).digest()
