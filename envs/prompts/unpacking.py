"""How large a compressed file of data becomes, found out before it is read."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from tokengym.envs.errors import DatasetError

MOST_UNPACKED = 2**30
"""Most bytes that a compressed file may unpack to, or `MOST_TIMES` its own size if that is more."""
MOST_TIMES = 20


def read_gzip(path: Path) -> bytes:
    """Return the contents of a gzipped file.

    Raises:
        DatasetError: if they are more than `MOST_UNPACKED` allows.
        OSError, EOFError: if the file is damaged.
    """
    most = _most(path)
    with gzip.open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise _too_large(path, most, "unpack it with gunzip, or split it")
    return data


def check_parquet(path: Path) -> None:
    """Refuse a parquet file whose tables are larger than `MOST_UNPACKED` allows.

    Sizes and numbers of values stand in the file's metadata, but for texts that repeat: these are
    passed over once, as indices into the file's dictionaries where it has them.

    Raises:
        DatasetError: naming the limit.
        OSError, ValueError: if the file is damaged.
    """
    import pyarrow.parquet as pq

    most = _most(path)
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
    texts = {name: found for name, found in encodings.items() if not found.isdisjoint(repeating)}
    deltas = [name for name, found in texts.items() if any(e.startswith("DELTA") for e in found)]
    others = [name for name in texts if name not in deltas]
    # No text is longer than all of them together, so that no batch is larger than the limit.
    for columns, kept, rows in ((others, others, 2**16), (deltas, [], max(most // (size + 1), 1))):
        if columns and size <= most:
            with pq.ParquetFile(path, read_dictionary=kept) as file:
                for batch in file.iter_batches(rows, columns=columns):
                    size += sum(map(_expanded, batch.columns))
                    if size > most:
                        break
    if size > most:
        raise _too_large(path, most, "read the rows that you need yourself, as a datasets.Dataset")


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


def _most(path: Path) -> int:
    return max(MOST_UNPACKED, MOST_TIMES * path.stat().st_size)


def _too_large(path: Path, most: int, remedy: str) -> DatasetError:
    return DatasetError(
        f"{str(path)!r}, {path.stat().st_size} bytes, unpacks to more than {most} bytes, the most "
        f"that is read of it; {remedy}"
    )
