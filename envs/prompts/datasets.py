"""Data sets as tables: objects, local files, names on the hub, lists of rows.

`datasets` reads, but for csv, which it types part by part, and json, of whose texts it makes dates,
and one type of mixed ones.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import logging
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from tokengym.base.chat import is_messages
from tokengym.base.errors import DatasetError, reason_of
from tokengym.base.files import odd_entry
from tokengym.base.stored.parts import hub_answers
from tokengym.envs.prompts.tables import Table

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = logging.getLogger(__name__)

DatasetSource: TypeAlias = Union["Dataset", "DatasetDict", str, Path, Sequence[Mapping[str, Any]]]
"""A data set, the path of a file, a name on the hub, or rows as mappings."""
MAX_UNPACKED_BYTES = 2**30
"""Most bytes that a compressed file may unpack to, unless its ratio allows more."""
MAX_UNPACKED_RATIO = 20
"""Most times its own size that a compressed file may unpack to, unless that is few bytes."""
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_KINDS = (*_SEPARATORS, ".json", ".jsonl", ".parquet", ".txt")
_MODULES = {
    **dict.fromkeys(_SEPARATORS, "csv"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
    ".parquet": "parquet",
    ".arrow": "arrow",
}
"""Kinds of tables that `datasets` reads from folders, and its reader of each.

A text beside tables is a licence or a description, and no table.
"""
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4")


def read_tables(
    dataset: DatasetSource,
    *,
    of: str = "data set",
    headerless: bool = False,
    texts: Collection[str | int] = (),
) -> dict[str, Table]:
    """Return the tables of a data set by split; a table without splits has the name "".

    Args:
        dataset: What `load_prompts` takes.
        of: What the rows are, for messages.
        headerless: Whether a csv or tsv file has no header; its columns are then positions.
        texts: Columns of a csv or tsv file that stay as they are written, by name or position, as
            an only column does. Any other has numbers where all of its values are numbers.
    """
    import datasets

    tables: Any
    if isinstance(dataset, str | Path):
        tables = _read(dataset, headerless=headerless, texts=texts)
    elif isinstance(dataset, Sequence) and is_messages(dataset):
        tables = _with_columns("dataset", list(dataset))
    else:
        tables = dataset
        for table in dataset.values() if isinstance(dataset, Mapping) and dataset else [dataset]:
            if not isinstance(table, datasets.Dataset):
                raise DatasetError(
                    "dataset must be a datasets.Dataset, a path, a hub name or a list of mappings, "
                    f"got {type(table).__name__}; wrap rows with datasets.Dataset.from_list, or "
                    "pass a list of texts as prompts="
                )
    tables = tables if isinstance(tables, Mapping) else {"": tables}
    return {name: Table(_unformatted(table), of) for name, table in tables.items()}


def _unformatted(table: Any) -> Any:
    """Return a table whose values are Python's, not arrays; a transform of the user's stays."""
    if isinstance(table, list) or table.format["type"] in (None, "custom"):
        return table
    return table.with_format(None, columns=table.format["columns"])


def _read(dataset: Path | str, *, headerless: bool, texts: Collection[str | int]) -> Any:
    """Return a table, or several by split, of a path or of a name on the hub."""
    try:
        return _loaded(Path(dataset), dataset, headerless=headerless, texts=texts)
    except DatasetError:
        raise
    except Exception as error:  # datasets raises a dozen kinds; all mean that it is unreadable
        cause: BaseException = error
        while cause.__cause__ is not None:  # datasets says only that an error occurred
            cause = cause.__cause__
        remedy = f"pass a file of {', '.join(_KINDS)}, or a name that datasets.load_dataset knows"
        raise _unreadable(dataset, reason_of(cause), remedy) from error


def _loaded(
    path: Path, dataset: Path | str, *, headerless: bool, texts: Collection[str | int]
) -> Any:
    """Return the rows of a file, a saved folder, or a name on the hub."""
    import datasets

    kind = path.with_suffix("").suffix if path.suffix.lower() == ".gz" else path.suffix
    kind = kind.lower()
    if kind in _KINDS and not path.is_file():
        raise DatasetError(f"dataset file {str(dataset)!r} does not exist; check the path")
    if kind == ".parquet":
        check_parquet(path)
        return datasets.load_dataset("parquet", data_files=str(path), split="train")
    if kind in _KINDS:
        text = _read_text(path)
        if kind == ".txt":
            return [{"text": line.rstrip("\n")} for line in io.StringIO(text, newline=None)]
        if kind in _SEPARATORS:
            return _read_csv(path, text, _SEPARATORS[kind], headerless=headerless, texts=texts)
        return _with_columns(path, list(_json_rows(path, text)))
    if path.is_file():
        raise DatasetError(
            f"dataset file {str(dataset)!r} is of no kind that is read; unpack it, or convert "
            f"it to one of {', '.join(_KINDS)}"
        )
    if path.is_dir():
        _check_folder(path)
    if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        return datasets.load_from_disk(str(path))
    name, _, config = str(dataset).partition(":")
    if Path(name).exists():
        _say_left_out(Path(name), config)
    else:
        hub_answers(name, "dataset")
    return datasets.load_dataset(name, config or None)


def _check_folder(folder: Path) -> None:
    """Refuse a folder by which files outside it would be read as its rows.

    It may be somebody else's, and its rows are shown and published with the episodes.
    """
    remedy = "name the data themselves, or put them into the folder"
    root, cache = folder, folder.resolve().parent.parent
    if (cache / "snapshots").is_dir() and (cache / "blobs").is_dir():
        root = cache  # of the hub, whose links lead into it
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise _unreadable(folder, f"{path} is a link to {path.readlink()}", remedy)
    if (odd := odd_entry(folder)) is not None:
        raise _unreadable(folder, f"{odd} is no file or folder", "take it out")
    for name in _paths_in(folder):
        parts = Path(name.replace("\\", "/")).parts
        if "://" in name or name[:1] in "/\\~" or ".." in parts or ":" in parts[0]:
            raise _unreadable(folder, f"it names {name!r}, which lies outside it", remedy)


def _paths_in(folder: Path) -> Iterator[str]:
    """Yield the paths of files that a folder's own metadata name: its README and state files."""
    import yaml

    if (readme := folder / "README.md").is_file():
        text = readme.read_text("utf-8", errors="replace")
        front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
        card = yaml.safe_load(front[1]) if front else None
        configs = card.get("configs") if isinstance(card, Mapping) else None
        for config in configs if isinstance(configs, list) else ():
            entries = config if isinstance(config, Mapping) else {}
            yield from _texts_in([entries.get("data_files"), entries.get("data_dir")])
    for state in folder.rglob("state.json"):
        stored = json.loads(state.read_text("utf-8"))
        yield from _texts_in(stored.get("_data_files") if isinstance(stored, Mapping) else None)


def _texts_in(value: Any) -> Iterator[str]:
    """Yield the texts in nested lists and mappings, without the names of splits."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts_in(None if name == "split" else item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item)


def _say_left_out(folder: Path, config: str) -> None:
    """Warn of files of a folder that `datasets` does not read, and of those that it reads alike.

    It reads the most frequent kind alone, and once a name has a split in it, such names alone.
    """
    import datasets
    from datasets.data_files import FILES_TO_IGNORE

    files = [
        file
        for file in folder.rglob("*")
        if _kind(file) in _MODULES
        and file.is_file()
        and file.name not in (*FILES_TO_IGNORE, "dataset_infos.json")
        # `datasets` takes no hidden ones, such as a notebook's checkpoints.
        and not any(part.startswith((".", "__")) for part in file.relative_to(folder).parts)
    ]
    if len(files) < 2:
        return
    settings = datasets.load_dataset_builder(str(folder), config or None).config
    by_split = settings.data_files or {}
    read = {Path(name).resolve() for names in by_split.values() for name in names}
    others = sorted((file for file in files if file.resolve() not in read), key=lambda f: f.name)
    kinds = {_kind(file) for file in files if file.resolve() in read}
    if {*_SEPARATORS} <= kinds:
        logger.warning(
            "dataset folder %r: its .csv and .tsv files are all split at %r; keep one kind",
            str(folder),
            getattr(settings, "sep", ","),
        )
    if others and not any(_paths_in(folder)):  # a README that names files says what is read
        why, remedy = _why_unread(others, kinds)
        logger.warning(
            "dataset folder %r: %d of its %d files are not read, %s, since %s; name a file, or %s",
            str(folder),
            *(len(others), len(files), ", ".join(file.name for file in others[:3]), why, remedy),
        )


def _why_unread(files: Sequence[Path], kinds: Collection[str]) -> tuple[str, str]:
    """Return why `datasets` does not read files beside those of some kinds, and what to do."""
    suffixes = {part for file in files for part in file.suffixes}
    if not {_MODULES.get(_kind(file)) for file in files} <= {_MODULES.get(kind) for kind in kinds}:
        return f"one kind alone is read, here {', '.join(sorted(kinds))}", "keep one kind"
    if any(part.lower() in _MODULES and part != part.lower() for part in suffixes):
        return "their suffix is in capitals", "write it in small letters"
    return "others have a split in their names", "have a split in all names or in none"


def _kind(file: Path) -> str:
    """Return the suffix of a table in small letters, without that of its compression."""
    *_, before, last = ("", "", *map(str.lower, file.suffixes))
    return before if last in _COMPRESSED else last


def _read_csv(
    path: Path, text: str, separator: str, *, headerless: bool, texts: Collection[str | int]
) -> Dataset:
    """Return a csv or tsv file as a table, each column typed by all of its rows."""
    import datasets
    import pandas

    width = _check_widths(path, text, separator, headerless=headerless)
    frame = pandas.read_csv(
        io.StringIO(text),
        sep=separator,
        header=None if headerless else "infer",
        dtype=str if width == 1 else dict.fromkeys(texts, str),
        keep_default_na=False,  # "NA" is a word, and an empty reference is allowed
        low_memory=False,  # or "007" among texts would be read as 7 where a part has numbers only
    )
    if frame.empty:
        raise _unreadable(path, "it has a header and no rows", "add some")
    for name, column in frame.items():
        if column.dtype == object and isinstance(column.iloc[0], int):  # of more than 64 bits
            frame[name] = column.astype(str)
    info = datasets.DatasetInfo(builder_name="csv")
    return datasets.Dataset.from_pandas(frame, info=info, preserve_index=False)


def _check_widths(path: Path, text: str, separator: str, *, headerless: bool) -> int:
    """Return the number of columns, refusing a header or a row whose fields do not tell them."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    limit = csv.field_size_limit(len(text) + 1)
    try:
        filled = (row for row in rows if len(row) > 1 or any(map(str.strip, row)))  # or blank
        names = next(filled)
        odd = next(((rows.line_num, len(row)) for row in filled if len(row) != len(names)), None)
    except csv.Error as error:
        raise _unreadable(
            path,
            f"line {rows.line_num}: {error}",
            "put a text that begins with a quotation mark in quotation marks, its own doubled",
        ) from None
    finally:
        csv.field_size_limit(limit)
    twice = [name for name in names if name and names.count(name) > 1]
    if twice and not headerless:
        cause = f"its header has the column {twice[0]!r} twice"
        raise _unreadable(path, cause, "rename one, or leave it out")
    others = [other for other in ";\t," if other != separator and other in names[0]]
    if len(names) == 1 and others and not headerless:
        cause = f"its header is one column, {names[0]!r}"
        remedy = f"separate columns by {separator!r}, not by {others[0]!r}, or rename the column"
        raise _unreadable(path, cause, remedy)
    if odd is not None:
        raise _unreadable(
            path,
            f"line {odd[0]} has {odd[1]} fields, its header {len(names)}",
            f"write {separator!r} before each empty field too, and put a csv file's texts that "
            "have it, or line breaks, in double quotation marks",
        )
    return len(names)


def _unreadable(dataset: Any, cause: str, remedy: str) -> DatasetError:
    return DatasetError(f"dataset {str(dataset)!r} cannot be read ({cause}); {remedy}")


def _read_text(path: Path) -> str:
    """Return the text of a file, gzipped or not; refuse an empty one and other encodings."""
    limit = max_unpacked(path)
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                data = file.read(limit + 1)
        else:
            data = path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, str(error), "check the file") from None
    if len(data) > limit:
        raise too_large(path, limit, "unpack it with gunzip, or split it")
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
    if not text or text.isspace():
        raise _unreadable(path, f"it is empty, {len(data)} bytes", "pass a file with prompts")
    return text


def _with_columns(source: Path | str, rows: list[Any]) -> list[Any]:
    """Return rows, of which one at least must have a column."""
    if not any(rows):
        cause = f"it has {len(rows)} rows and no columns"
        raise _unreadable(source, cause, "pass one object per prompt")
    return rows


def _json_rows(path: Path, text: str) -> Iterator[Any]:
    """Yield the rows of JSON, or of JSON lines."""
    try:
        whole = json.loads(text)
    except ValueError as error:
        if text.lstrip().startswith("["):
            raise _broken(path, error, 0, text) from None
    else:
        yield from whole if isinstance(whole, list) else [whole]
        return
    start = 0
    for line in io.StringIO(text):  # all lines at once would be a second copy
        if not line.isspace():
            try:
                yield json.loads(line.removesuffix("\n"))
            except ValueError as error:
                raise _broken(path, error, start, text) from None
        start += len(line)


def _broken(path: Path, error: ValueError, start: int, text: str) -> DatasetError:
    """Return the error of invalid JSON in what begins at a character of the text."""
    if not isinstance(error, json.JSONDecodeError):  # such as a number with too many digits
        return _unreadable(path, str(error), "correct it")
    position = start + error.pos
    line, byte = text.count("\n", 0, position) + 1, len(text[:position].encode())
    return _unreadable(path, f"line {line}, byte {byte}: {error.msg}", "correct the line")


# --- what small files unpack to -------------------------------------------------------------------


def check_parquet(path: Path) -> None:
    """Refuse a parquet file whose tables are larger than `MAX_UNPACKED_BYTES` allows.

    Sizes and numbers of values stand in the file's metadata, but for texts that repeat: these are
    passed over once, as indices into the file's dictionaries where it has them.
    """
    import pyarrow.parquet as pq

    limit = max_unpacked(path)
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
    few = max(limit // (size + 1), 1)
    for columns, dicts, rows in ((others, others, 2**16), (deltas, [], few)):
        if columns and size <= limit:
            with pq.ParquetFile(path, read_dictionary=dicts) as file:
                for batch in file.iter_batches(rows, columns=columns):
                    size += sum(map(_expanded, batch.columns))
                    if size > limit:
                        break
    if size > limit:
        raise too_large(path, limit, "read the rows that you need yourself, as a datasets.Dataset")


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


def max_unpacked(path: Path) -> int:
    """Return the most bytes that a compressed file may unpack to."""
    return max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * path.stat().st_size)


def too_large(path: Path, limit: int, remedy: str) -> DatasetError:
    """Return the error of a compressed file that unpacks to more than a limit, bytes."""
    return DatasetError(
        f"{str(path)!r}, {path.stat().st_size} bytes, unpacks to more than {limit} bytes, the most "
        f"that is read of it; {remedy}"
    )
