"""Folders of results: written by one process at a time, and read whole, as they were written."""

import errno
import io
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tokengym.base.errors import CheckpointError, FolderInUseError, StorageError
from tokengym.base.files import (
    folder_hashes,
    parse_json,
    previous_folder,
    read_text,
    record_hash,
    replacing,
    to_json,
    writing,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")

LOCK = ".lock"
"""File that names the process that writes a folder; without that process it means nothing."""
MAX_MISSING = 1000
"""Times that a folder may be missing just after it was made."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing a folder of results while the block runs.

    The lock is the operating system's and ends with the process, however that ends. Whatever
    writes inside the block, transformers' Trainer too, finds no link there to write through.

    Args:
        folder: The folder; made with its parents if it does not exist. It, and what was made of
            them, is removed again if it stays empty. It may itself be a link.

    Raises:
        CheckpointError: if a link lies inside the folder, at any depth.
        FolderInUseError: if another process, or another block of this one, has it.
        StorageError: if no file can be written or locked there.
    """
    path = folder / LOCK
    check_links(folder)
    parents = [parent for parent in folder.parents if not parent.exists()]
    try:
        file = _acquire(path)
    except OSError as error:
        _remove_empty(folder, *parents)
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
        _remove_empty(folder, *parents)
        file.close()


def _remove_empty(*folders: Path) -> None:
    """Remove folders up to the first that holds something."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _acquire(path: Path) -> io.TextIOWrapper:
    """Return the lock file, open and locked."""
    num_missing = 0
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        except FileNotFoundError:  # the last owner has just removed the empty folder
            num_missing += 1
            if num_missing == MAX_MISSING:  # no: a drive that is missing, a removed working folder
                raise
            continue
        try:
            _lock(file)
        except BlockingIOError:
            with file:
                file.seek(0)
                owner = file.read() or "another process"
            raise FolderInUseError(
                f"{path.parent} is in use by {owner}; wait for it to end or stop it, or name "
                "another folder"
            ) from None
        except OSError:  # a file system without locks
            file.close()
            path.unlink(missing_ok=True)
            raise
        # The last owner may have deleted the file between opening and locking.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                return file
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


# --- folders with a record of their files ---------------------------------------------------------

TRIES = 10
"""Number of times that a folder is read while another process replaces it."""


def write_folder(path: Path, record_name: str, fill: Callable[[Path], dict[str, Any]]) -> None:
    """Write a folder atomically; a folder that is replaced becomes ``<path>.previous``.

    Args:
        path: The folder to make.
        record_name: The JSON file that holds the record, every other file's hash, and its own.
        fill: Writes the files into the folder it is given and returns the record.
    """
    is_empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not is_empty and not (path / record_name).is_file():
        raise StorageError(
            f"{path.absolute()} holds other files than {record_name}, which would be replaced; "
            f"name a folder of its own, such as {path.absolute() / 'agent'}"
        )
    with replacing(path, keep_previous=True) as part:
        part.mkdir()
        fill_folder(part, record_name, fill)


def fill_folder(part: Path, record_name: str, fill: Callable[[Path], dict[str, Any]]) -> None:
    """Write the files and the record of a folder into an empty one; see `write_folder`."""
    record = to_json(fill(part) | {"files": folder_hashes(part)})
    record["hash"] = record_hash(record)
    (part / record_name).write_text(json.dumps(record, indent=1))


def read_folder(
    path: Path,
    record_name: str,
    version: int,
    kinds: Mapping[str, Any],
    load: Callable[[Path, dict[str, Any]], T],
) -> T:
    """Return what ``load`` makes of a folder that `write_folder` wrote, and of its record.

    If a file is damaged, the previous folder is read. If another process replaces the folder
    meanwhile, ``load`` is called again, so that no result holds files of two folders.

    Args:
        path: The folder.
        record_name: Name of its record.
        version: The value that the record's "format" must have.
        kinds: Types of the entries that the record must have besides; it may have no others.
        load: Called with the folder and its record.
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
    previous = previous_folder(path)
    try:
        if not path.is_dir():
            raise CheckpointError(
                f"there is no checkpoint at {path}; pass the path save() was given"
            )
        return path, _read_record(path, record_name, version, kinds)
    except CheckpointError as error:
        if not previous.exists():
            raise
        logger.warning("%s; falling back to %s", error, previous)
        return previous, _read_record(previous, record_name, version, kinds)


def _read_record(
    folder: Path, record_name: str, version: int, kinds: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the record of a folder whose files are unchanged."""
    file = folder / record_name
    check_links(folder)
    try:
        record = parse_json(read_text(file))
        found_version, hashes = record["format"], dict(record["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); use an earlier checkpoint") from error
    if found_version != version:
        raise CheckpointError(
            f"{file} has format {found_version}, this version reads {version}; load it with the "
            "version that saved it"
        )
    if record.get("hash") != record_hash(record):
        raise CheckpointError(f"{file} is damaged (its hash differs); use an earlier checkpoint")
    hashes_now = folder_hashes(folder)
    for name, expected in hashes.items():
        if hashes_now.get(name) != expected:
            state = "missing" if name not in hashes_now else "damaged"
            raise CheckpointError(f"{folder / name} is {state}; use an earlier checkpoint")
    recorded = {file, *(folder / name for name in hashes)}
    recorded |= {parent for entry in recorded for parent in entry.parents}
    if extra := sorted(set(folder.rglob("*")) - recorded):
        raise CheckpointError(f"{extra[0]} was not saved with the checkpoint; remove it")
    check_entries(record, {**kinds, "format": int, "files": dict, "hash": str}, str(file))
    return record


def check_links(folder: Path) -> None:
    """Refuse links in a folder to files outside it; those of the hub's cache into itself pass."""
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
    """Refuse what was read from JSON unless it has entries of these types, and no others."""
    if not isinstance(record, dict):
        raise CheckpointError(f"{name} must be an object, got {record!r}")
    if differ := sorted(record.keys() ^ kinds.keys()):
        state = "unknown" if differ[0] in record else "missing"
        raise CheckpointError(
            f"{name} must hold {', '.join(kinds)}, and {differ[0]} is {state}; use a checkpoint "
            "that save() wrote"
        )
    for entry, kind in kinds.items():
        value = record[entry]
        if isinstance(value, bool) or not isinstance(value, kind):
            wanted = getattr(kind, "__name__", kind)
            raise CheckpointError(f"{entry} of {name} must be {wanted}, got {value!r}")
