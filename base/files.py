"""Files and folders that are complete or absent: written under another name, then renamed."""

import csv
import errno
import glob
import hashlib
import io
import json
import logging
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from pathlib import Path
from threading import RLock
from types import UnionType
from typing import Any, Concatenate, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from tokengym.base.errors import SettingsError, StorageError

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
IF_KNOWN = {"if_known": True}
"""Metadata of a dataclass's field that JSON leaves out where it is None."""

_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""System errors of a disk that does not take what is written."""

_TORCH_SIGNS = ("PytorchStreamWriter", "inline_container", "iostream error")
"""Parts of the messages of ``torch.save``, which do not tell one failure from another."""


def odd_entry(folder: Path) -> Path | None:
    """Return a pipe or device in a folder, at any depth, which could be read for ever; or None."""
    entries = sorted(folder.rglob("*"))
    return next((path for path in entries if not (path.is_file() or path.is_dir())), None)


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn a failure to write within the block into one line; other exceptions pass.

    safetensors and PyTorch raise errors of their own for a full disk, which are no `OSError`.

    Args:
        path: The file or folder that is written, for the message.

    Raises:
        StorageError: if the disk is full, read-only or failing.
    """
    try:
        yield
    except Exception as error:
        failure = None if isinstance(error, StorageError) else _storage_error(path, error)
        if failure is None:
            raise
        raise failure from error


def _storage_error(path: Path | str, error: Exception) -> StorageError | None:
    """Return the error of a disk that took no more; None if an exception tells of no such thing."""
    number = error.errno if isinstance(error, OSError) else None
    if type(error).__name__ == "SafetensorError":
        said = re.search(r"os error (\d+)", str(error))
        number = int(said[1]) if said else None
    elif isinstance(error, RuntimeError) and any(sign in str(error) for sign in _TORCH_SIGNS):
        number = errno.ENOSPC
    if number is None or number not in _FAILURES:
        return None
    failure = StorageError(
        f"cannot write {path}: {os.strerror(number)}; free some space there and run the same "
        "command again, or name another folder; what was complete is kept"
    )
    failure.errno = number
    return failure


@contextmanager
def replacing(path: Path | str, *, keep_previous: bool = False) -> Iterator[Path]:
    """Yield a path to write a file or folder to; it takes its place when the block has succeeded.

    Whatever is at ``path`` stays until then, and stays if the block raises. A link there is
    replaced, never followed: a folder from somebody else may hold links to files of yours. A
    failure of the disk is a `StorageError`, see `writing`.

    Args:
        path: The file or folder to make; the folder that holds it is made if needed.
        keep_previous: Rename a folder that is replaced to ``<path>.previous`` instead of deleting
            it.
    """
    path = Path(path).absolute()
    is_folder = path.is_dir() and not path.is_symlink()
    if not path.is_symlink() and path.exists() and not (path.is_file() or is_folder):
        raise StorageError(f"cannot write {path}: it is a device or a pipe; name a file")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        _make_room(path, part)
    try:
        with writing(path):
            for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
                if left == part or is_leftover(left):
                    _remove(left)
            yield part
            for entry in (part, *(part.rglob("*") if part.is_dir() else ())):
                _sync_entry(entry)
            if part.is_dir() and (path.is_symlink() or path.exists()):
                replaced = previous_folder(path) if keep_previous else part.with_suffix(".replaced")
                _remove(replaced)
                path.rename(replaced)
                part.rename(path)
                if not keep_previous:
                    _remove(replaced)
            elif is_folder:
                raise StorageError(f"cannot write {path}: it is a folder; name a file")
            else:
                part.replace(path)
            _sync_entry(path.parent)
    finally:
        _remove(part)


def _make_room(path: Path, part: Path) -> None:
    """Make the folder that will hold a path, and see that it takes files."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)  # of a block that this process could not end
        part.touch()
        part.unlink()
    except OSError as error:
        if error.errno in _FAILURES:
            raise
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; name a path in a folder that you may "
            "write to"
        ) from error


_PART = re.compile(r"\..+\.(\d+)\.(?:part|replaced)$")


def is_leftover(path: Path) -> bool:
    """Return whether a path is part of an unfinished file or folder of a process that has ended.

    Example:
        >>> is_leftover(Path("runs/a/.agent.999999999.part/model.safetensors"))
        True
    """
    for name in path.parts:
        if leftover := _PART.fullmatch(name):
            import psutil  # takes as long as half of this package

            try:
                return not psutil.pid_exists(int(leftover[1]))
            except OverflowError:
                return True
    return False


def _sync_entry(path: Path) -> None:
    """Bring a file or folder to the disk before it takes its place."""
    if sys.platform == "win32" and path.is_dir():
        return  # which cannot be opened there
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno in _FAILURES:
            raise
    finally:
        os.close(number)


def _remove(path: Path) -> None:
    """Delete a file, a link or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def behind_link(path: Path | str) -> Path:
    """Return what a link leads to that a user named, or the path itself.

    For the borders where a path is named; inside a folder no link is followed, see `replacing`.
    """
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


def previous_folder(path: Path) -> Path:
    """Return where `write_folder` keeps the folder that it replaces."""
    return path.with_name(f"{path.name}.previous")


# --- files ----------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; a lone surrogate, which UTF-8 lacks, becomes its escape."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically; its folder is made if needed."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, indented; infinity and NaN, which JSON lacks, become null."""
    write_text(path, json.dumps(to_json(value, nulls=True), indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, atomically."""
    lines = [json.dumps(to_json(row, nulls=True), ensure_ascii=False) + "\n" for row in rows]
    write_text(path, "".join(lines))


def read_text(path: Path) -> str:
    """Return the text of a file."""
    check_regular(path)
    return path.read_text(encoding="utf-8")


def check_regular(path: Path) -> None:
    """Refuse a pipe or a device in place of a file: reading it might never end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is a pipe or a device, not a file; put the file itself there")


def read_json(path: Path) -> Any:
    """Read a JSON file; one that is missing or damaged is a ``ValueError``."""
    check_regular(path)
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is not there") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run again") from None


MAX_JSON_DEPTH = 64
"""Deepest JSON that is read: what walks through it would run out of stack far below this."""


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text."""
    too_deep = f"it is nested more than {MAX_JSON_DEPTH} deep"
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(too_deep) from None
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        inside = (item for item in level if isinstance(item, dict | list))
        level = [part for v in inside for part in (v.values() if isinstance(v, dict) else v)]
        if not level:
            return value
    raise ValueError(too_deep)


def write_hashed(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with a hash of its contents; see `read_hashed`."""
    plain = to_json(record, nulls=True)
    write_json(path, plain | {"hash": record_hash(plain)})


def read_hashed(path: Path) -> dict[str, Any]:
    """Read what `write_hashed` wrote, without the hash; refuse it if it was changed since."""
    record = read_json(path)
    if not isinstance(record, dict):
        raise ValueError(f"{path} is damaged; delete {path.parent} and run again")
    if record.pop("hash", None) != record_hash(record):
        raise ValueError(
            f"{path} was changed since it was written (its hash differs); restore it, or delete "
            f"{path.parent} and run again"
        )
    return record


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line; a missing file has none."""
    return list(jsonl_rows(path))


def jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows that `read_jsonl` returns, each read when it is asked for."""
    if not path.exists():
        return
    check_regular(path)
    number = 0
    with path.open(encoding="utf-8") as lines:
        try:
            for number, text in enumerate(lines, 1):
                line = text.removesuffix("\n")
                if line:
                    yield _object_of(line, path, number)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is damaged after line {number} ({error}); write it as UTF-8, or make the "
                "file again"
            ) from None


def _object_of(line: str, path: Path, number: int) -> dict[str, Any]:
    """Return the JSON object that a line of a file is."""
    row, fault = None, ""
    try:
        row = parse_json(line)
    except ValueError as error:
        fault = f" ({error})"
    if not isinstance(row, dict):
        raise ValueError(
            f"{path} is damaged: line {number} is no JSON object{fault}; mend or remove that line, "
            "or make the file again"
        )
    return row


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as CSV atomically; a missing or unknown value is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    write_text(path, text.getvalue())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else format(value, ".8g")
    return str(value)


def to_json(value: Any, *, nulls: bool = False) -> Any:
    """Return a value as JSON has it: dicts, lists, texts, numbers, truth values and None.

    Dataclasses and mappings become dicts, arrays and tuples lists, paths texts. A field that is
    `IF_KNOWN` and None is left out.

    Args:
        value: The value.
        nulls: Whether infinity and NaN, which JSON lacks, become None.

    Raises:
        SettingsError: if it holds anything else, such as a function.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): to_json(item, nulls=nulls) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item, nulls=nulls) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return None if nulls and isinstance(value, float) and not math.isfinite(value) else value
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {
            one.name: to_json(getattr(value, one.name), nulls=nulls)
            for one in fields(value)
            if not ("if_known" in one.metadata and getattr(value, one.name) is None)
        }
    raise SettingsError(f"what is saved must be numbers or texts, got {value!r}")


def of_json(kind: Any, value: Any) -> Any:
    """Return what `to_json` made of a value of a kind: a dataclass, and what its fields are.

    Known are dataclasses, mappings, sequences, texts, and each of these or None; what is of any
    other kind is returned as it is. A dataclass's fields that are absent have their defaults.

    Raises:
        KeyError, TypeError, AttributeError: if a field is missing, or a part is of another kind.
    """
    inner = get_args(kind)
    if is_dataclass(kind):
        hints, here = get_type_hints(kind), value.keys()
        given = {
            one.name: of_json(hints[one.name], value[one.name])
            for one in fields(kind)
            if one.name in here or (one.default is MISSING and one.default_factory is MISSING)
        }
        return kind(**given)  # type: ignore[operator]
    if isinstance(kind, UnionType):
        return None if value is None else of_json(inner[0], value)
    if get_origin(kind) is Mapping:
        return {name: of_json(inner[1], item) for name, item in value.items()}
    if get_origin(kind) is Sequence:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{value!r} is no list")
        return [of_json(inner[0], item) for item in value]
    if kind is str and not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


# --- what was read --------------------------------------------------------------------------------


def read_once(
    maxsize: int | None = 8, also: Callable[[], Hashable] = tuple
) -> Callable[[Callable[Concatenate[Any, P], T]], Callable[Concatenate[str | Path, P], T]]:
    """Have a reader of a path read again only when a file there, or what ``also`` says, changes.

    What was read last of each path, for the same arguments and ``also``, is kept, of the
    ``maxsize`` that were asked for last; what was read before the files changed is let go.
    """

    def decorated(
        read: Callable[Concatenate[Any, P], T],
    ) -> Callable[Concatenate[str | Path, P], T]:
        kept: dict[Hashable, tuple[Hashable, T]] = {}
        lock = RLock()

        @wraps(read)
        def reader(path: str | Path, *args: Any, **options: Any) -> T:
            place = Path(path)
            files = sorted(place.iterdir()) if place.is_dir() else [place]
            states = [file.stat() for file in files if file.exists()]
            # A file that is written anew has another time, size or inode.
            stamps = tuple((file.st_mtime_ns, file.st_size, file.st_ino) for file in states)
            path = place.resolve() if states else path
            key = (path, also(), args, *sorted(options.items()))
            with lock:
                entry = kept.pop(key, None)
                if entry is not None and entry[0] == stamps:
                    kept[key] = entry  # at the end, as the last that was asked for
                    return entry[1]
            del entry  # before another is read: both may be all that a device can hold
            value = read(path, *args, **options)
            with lock:
                kept.pop(key, None)
                kept[key] = stamps, value
                while maxsize is not None and len(kept) > maxsize:
                    del kept[next(iter(kept))]
            return value

        return reader

    return decorated


# --- hashes ---------------------------------------------------------------------------------------


def json_hash(value: Any) -> str:
    """Return the SHA-256 of a value's JSON, whose names are sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def record_hash(record: Mapping[str, Any]) -> str:
    """Return the hash of a record that was read, apart from its entry "hash"."""
    return json_hash({name: value for name, value in record.items() if name != "hash"})


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and the SHA-256 of a folder's files."""
    check_regular(path)
    if not path.is_dir():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    hashes = folder_hashes(path)
    lines = [f"{digest}  {name}\n" for name, digest in hashes.items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def folder_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder and its subfolders, by relative name."""
    return {
        file.relative_to(folder).as_posix(): content_hash(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
