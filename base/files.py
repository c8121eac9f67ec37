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
import socket
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from tokengym.base.errors import CheckpointError, FolderInUseError, StorageError

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""System errors of a disk that does not take what is written."""

_TORCH_SIGNS = ("PytorchStreamWriter", "inline_container", "iostream error")
"""Parts of the messages of ``torch.save``, which do not tell one failure from another."""


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
    except StorageError:
        raise
    except Exception as error:
        number = _system_error(error)
        if number is None:
            raise
        failure = StorageError(
            f"cannot write {path}: {os.strerror(number)}; free some space there and run the same "
            "command again, or name another folder; what was complete is kept"
        )
        failure.errno = number
        raise failure from error


LOCK = ".lock"
"""File that names the process that writes a folder; without that process it means nothing."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing a folder of results while the block runs.

    The lock is the operating system's and ends with the process, however that ends.

    Args:
        folder: The folder; made if it does not exist, and removed again if it stays empty.

    Raises:
        FolderInUseError: if another process, or another block of this one, has it.
        StorageError: if the folder cannot be made or takes no file, or no file there can be locked.
    """
    path = folder / LOCK
    try:
        file = _acquire(path)
    except (FolderInUseError, StorageError):
        raise
    except OSError as error:
        raise StorageError(
            f"cannot write to {folder}: {error.strerror or error}; name another folder"
        ) from error
    try:
        with writing(folder):
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with suppress(PermissionError):  # Windows keeps what is open
            path.unlink(missing_ok=True)
        with suppress(OSError):  # it is not empty
            folder.rmdir()
        file.close()


def _acquire(path: Path) -> io.TextIOWrapper:
    """Return the lock file, open and locked."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+", encoding="utf-8")
        except FileNotFoundError:  # the last owner has just removed the empty folder
            continue
        try:
            _lock(file)
        except BlockingIOError:
            file.seek(0)
            owner = file.read() or "another process"
            file.close()
            raise FolderInUseError(
                f"{path.parent} is in use by {owner}; wait for it to end or stop it, or name "
                "another folder"
            ) from None
        except OSError as error:
            file.close()
            path.unlink(missing_ok=True)
            with suppress(OSError):  # it was not empty
                path.parent.rmdir()
            raise StorageError(
                f"the file system of {path.parent} has no locks ({error.strerror or error}), and "
                "without them two processes could write there at once; name a folder on another one"
            ) from error
        try:  # the last owner may have deleted the file between opening and locking
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                return file
        except FileNotFoundError:
            pass
        file.close()


def _lock(file: io.TextIOWrapper) -> None:
    """Lock an open file without waiting; `BlockingIOError` says that another process has it."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(1 << 30)  # a byte that nobody reads: locked ones cannot be
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK)) from error
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _system_error(error: BaseException) -> int | None:
    """Return the number of the failed write that an exception tells of; None for any other."""
    if isinstance(error, OSError):
        return error.errno if error.errno in _FAILURES else None
    if type(error).__name__ == "SafetensorError" and (
        error_number := re.search(r"os error (\d+)", str(error))
    ):
        return int(error_number[1]) if int(error_number[1]) in _FAILURES else None
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _TORCH_SIGNS):
        return errno.ENOSPC
    return None


@contextmanager
def replacing(path: Path | str, *, keep_previous: bool = False) -> Iterator[Path]:
    """Yield a path to write a file or folder to; it takes its place when the block has succeeded.

    Whatever is at ``path`` stays until then, and stays if the block raises. A failure of the disk
    is a `StorageError`, see `writing`.

    Args:
        path: The file or folder to make; the folder that holds it is made if needed.
        keep_previous: Rename a folder that is replaced to ``<path>.previous`` instead of deleting
            it.
    """
    path = Path(path).absolute()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        _make_room(path, part)
    try:
        with writing(path):
            for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
                if left == part or is_leftover(left):
                    _remove(left)
            yield part
            _sync(part)
            if part.is_dir() and path.exists():
                replaced = previous_folder(path) if keep_previous else part.with_suffix(".replaced")
                _remove(replaced)
                path.rename(replaced)
                part.rename(path)
                if not keep_previous:
                    _remove(replaced)
            else:
                part.replace(path)
            _sync_entry(path.parent)
    finally:
        _remove(part)


def _make_room(path: Path, part: Path) -> None:
    """Make the folder that will hold a path, and see that it takes files.

    Raises:
        StorageError: if it does not.
    """
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
    """Return whether a path lies in what a process was writing that no longer runs.

    Example:
        >>> is_leftover(Path("runs/a/.agent.999999999.part/model.safetensors"))
        True
    """
    for name in path.parts:
        if leftover := _PART.fullmatch(name):
            try:
                os.kill(int(leftover[1]), 0)
            except (ProcessLookupError, OverflowError):
                return True
            except PermissionError:
                return False
    return False


def _sync(path: Path) -> None:
    """Bring a file, or a folder with all that is in it, to the disk before it takes its place."""
    for entry in (path, *(path.rglob("*") if path.is_dir() else ())):
        _sync_entry(entry)


def _sync_entry(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno in _FAILURES:
            raise
    finally:
        os.close(number)


def _remove(path: Path) -> None:
    """Delete a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def previous_folder(path: Path) -> Path:
    """Return where `write_folder` keeps the folder that it replaces."""
    return path.with_name(f"{path.name}.previous")


# --- files ----------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; its folder is made if needed."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically; its folder is made if needed."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, indented; infinity and NaN, which JSON lacks, become null."""
    write_text(path, json.dumps(_jsonable(value), indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, atomically."""
    lines = [json.dumps(_jsonable(row), ensure_ascii=False) + "\n" for row in rows]
    write_text(path, "".join(lines))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: if it is missing or damaged.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is not there") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run again") from None


MAX_JSON_DEPTH = 64
"""Deepest JSON that is read: what walks through it would run out of stack far below this."""


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: if it is none, or nested more deeply than `MAX_JSON_DEPTH`.
    """
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
    plain = _jsonable(record)
    write_json(path, plain | {"hash": _record_hash(plain)})


def read_hashed(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Read what `write_hashed` wrote, without the hash.

    Args:
        path: The file.
        optional: Read an object without a hash too, as an earlier version may have written it.

    Raises:
        ValueError: if it is missing, damaged, or was changed since it was written.
    """
    record = read_json(path)
    if not isinstance(record, dict):
        raise ValueError(f"{path} is damaged; delete {path.parent} and run again")
    if optional and "hash" not in record:
        return record
    if record.pop("hash", None) != _record_hash(record):
        raise ValueError(
            f"{path} was changed since it was written (its hash differs); restore it, or delete "
            f"{path.parent} and run again"
        )
    return record


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line; a missing file has none."""
    if not path.exists():
        return []
    try:
        rows = [parse_json(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run again") from None
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} is damaged (a line is no object); delete it and run again")
    return rows


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


def _jsonable(value: Any) -> Any:
    """Return the value with paths as text, arrays and tuples as lists, no number JSON lacks."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return _jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# --- what was read --------------------------------------------------------------------------------


def read_once(
    maxsize: int | None = 8, also: Callable[[], Hashable] = tuple
) -> Callable[[Callable[Concatenate[Any, P], T]], Callable[Concatenate[str | Path, P], T]]:
    """Return a decorator of readers of a file or folder, which reads anew only what has changed.

    The reader's first argument is the path, or a name of no file; the others can be hashed.

    Args:
        maxsize: Most results that are kept for the process; None keeps all.
        also: Returns what else a result depends on.
    """

    def decorated(
        read: Callable[Concatenate[Any, P], T],
    ) -> Callable[Concatenate[str | Path, P], T]:
        @lru_cache(maxsize)
        def remembered(path: str | Path, state: Hashable, /, *args: Any, **options: Any) -> T:
            return read(path, *args, **options)

        @wraps(read)
        def reader(path: str | Path, *args: Any, **options: Any) -> T:
            place = Path(path)
            files = sorted(place.iterdir()) if place.is_dir() else [place]
            found = [file.stat() for file in files if file.exists()]
            # A file that is written anew has another time, size or inode.
            stamps = tuple((file.st_mtime_ns, file.st_size, file.st_ino) for file in found)
            path = place.resolve() if found else path
            return remembered(path, (stamps, also()), *args, **options)

        return reader

    return decorated


# --- folders --------------------------------------------------------------------------------------

TRIES = 10
"""Number of times that a folder is read while another process replaces it."""


def write_folder(path: Path, record_name: str, fill: Callable[[Path], dict[str, Any]]) -> None:
    """Write a folder atomically; a folder that is replaced becomes ``<path>.previous``.

    Args:
        path: The folder to make.
        record_name: The JSON file that holds the record, every other file's hash, and its own.
        fill: Writes the files into the folder it is given and returns the record.
    """
    with replacing(path, keep_previous=True) as part:
        part.mkdir()
        record = fill(part) | {"files": _hashes(part)}
        record = json.loads(json.dumps(record, default=_plain))
        record["hash"] = _record_hash(record)
        (part / record_name).write_text(json.dumps(record, indent=1))


def read_folder(
    path: Path,
    record_name: str,
    version: int,
    kinds: Mapping[str, Any],
    load: Callable[[Path, dict[str, Any]], T],
) -> T:
    """Return what ``load`` makes of a folder whose files are unchanged since they were written.

    If another process replaces the folder meanwhile, ``load`` is called again, so that no result
    holds files of two folders.

    Args:
        path: The path given to `write_folder`; if a file is damaged, the previous folder is read.
        record_name: The name given to `write_folder`.
        version: The value that the record's "format" must have.
        kinds: Types of the entries that the record must have besides; it may have no others.
        load: Called with the folder and its record.

    Raises:
        CheckpointError: if there is no complete folder of this version, or it changes every time.
    """
    path = path.absolute()

    def records() -> list[tuple[int, int] | None]:  # equal contents may have come and gone
        return [_identity(folder / record_name) for folder in (path, previous_folder(path))]

    for _ in range(TRIES):
        before = None
        try:
            before = records()
            loaded = load(*_whole_folder(path, record_name, version, kinds))
            if before == records():
                return loaded
        except Exception:
            if before == records():
                raise
    raise CheckpointError(
        f"{path} was replaced {TRIES} times while it was read; read it when the process that "
        "writes it has ended"
    )


def _identity(file: Path) -> tuple[int, int] | None:
    """Return what no other file that was ever at this path has; None if there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def _whole_folder(
    path: Path, record_name: str, version: int, kinds: Mapping[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """Return the folder, or else the one before it, and its record."""
    try:
        return path, _read_record(path, record_name, version, kinds)
    except CheckpointError as error:
        previous = previous_folder(path)
        if not previous.exists():
            raise
        logger.warning("%s; falling back to %s", error, previous)
        return previous, _read_record(previous, record_name, version, kinds)


def _read_record(
    folder: Path, record_name: str, version: int, kinds: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the record of a folder whose files are unchanged."""
    file = folder / record_name
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint at {folder}; pass the path save() was given")
    check_links(folder)
    try:
        record = parse_json(file.read_text())
        found_version, hashes = record["format"], dict(record["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); use an earlier checkpoint") from error
    if found_version != version:
        raise CheckpointError(
            f"{file} has format {found_version}, this version reads {version}; load it with the "
            "version that saved it"
        )
    if record.get("hash") != _record_hash(record):
        raise CheckpointError(f"{file} is damaged (its hash differs); use an earlier checkpoint")
    hashes_now = _hashes(folder)
    for name, expected in hashes.items():
        if hashes_now.get(name) != expected:
            state = "missing" if name not in hashes_now else "damaged"
            raise CheckpointError(f"{folder / name} is {state}; use an earlier checkpoint")
    kept = {
        file,
        *(entry for name in hashes for entry in (folder / name, *(folder / name).parents)),
    }
    if extra := sorted(set(folder.rglob("*")) - kept):
        raise CheckpointError(f"{extra[0]} was not saved with the checkpoint; remove it")
    check_entries(record, {**kinds, "format": int, "files": dict, "hash": str}, str(file))
    return record


def check_links(folder: Path) -> None:
    """Refuse links in a folder, by which files outside it would be read as its own.

    The hub's cache, which is made of links into itself, passes.

    Raises:
        CheckpointError: naming a link.
    """
    links = [path for path in sorted(folder.rglob("*")) if path.is_symlink()]
    if not links:
        return
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).resolve()
    for link in links:
        if not all(path.resolve().is_relative_to(cache) for path in (folder, link)):
            raise CheckpointError(
                f"{link} is a link to {link.readlink()}; put the file itself there if it is yours"
            )


def check_entries(record: object, kinds: Mapping[str, Any], name: str) -> None:
    """Refuse what was read from JSON unless it has these entries and no others.

    Args:
        record: What was read.
        kinds: The type of each entry, or types, as ``isinstance`` takes them.
        name: What it is, for the message.

    Raises:
        CheckpointError: if it is no object, or another one.
    """
    if not isinstance(record, dict):
        raise CheckpointError(f"{name} must be an object, got {record!r}")
    if differ := sorted(record.keys() ^ kinds.keys()):
        state = "unknown" if differ[0] in record else "missing"
        raise CheckpointError(
            f"{name} must hold {', '.join(kinds)}, and {differ[0]} is {state}; use a checkpoint "
            "that save() wrote"
        )
    for entry, kind in kinds.items():
        is_kind = isinstance(record[entry], kind) and not isinstance(record[entry], bool)
        if not is_kind:
            raise CheckpointError(
                f"{entry} of {name} must be {getattr(kind, '__name__', kind)}, got "
                f"{record[entry]!r}"
            )


def _record_hash(record: Mapping[str, Any]) -> str:
    """Return a hash of a record that was read, apart from its entry "hash"."""
    content = {name: value for name, value in record.items() if name != "hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hashes(folder: Path) -> dict[str, str]:
    """Return the hash of every file in the folder and its subfolders, by relative name."""
    return {
        file.relative_to(folder).as_posix(): file_hash(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _plain(value: Any) -> Any:
    """Return NumPy's numbers and arrays, and paths, as JSON can hold them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}: {value!r}")
