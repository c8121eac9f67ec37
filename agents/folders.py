"""Folders of files that are whole or not there: written beside their place, hashed, renamed."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tokengym.agents.errors import CheckpointError

logger = logging.getLogger(__name__)


def write_folder(path: Path, record_name: str, fill: Callable[[Path], dict[str, Any]]) -> None:
    """Write a folder atomically; what was there becomes ``<path>.previous``.

    Args:
        path: The folder to make.
        record_name: The JSON file that holds the record and every other file's hash.
        fill: Writes the files into the folder it is given and returns the record.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        record = fill(temporary)
        record = record | {"files": _hashes(temporary)}
        (temporary / record_name).write_text(json.dumps(record, indent=1, default=_plain))
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if path.exists():
        previous = _previous(path)
        shutil.rmtree(previous, ignore_errors=True)
        path.rename(previous)
    temporary.rename(path)


def read_folder(path: Path, record_name: str, version: int) -> tuple[Path, dict[str, Any]]:
    """Return a folder whose files are all as they were written, and its record.

    Args:
        path: What `write_folder` was given; where a file is damaged, the previous one is taken.
        record_name: Likewise.
        version: What the record's "format" must be.

    Raises:
        CheckpointError: if there is no whole folder of this version.
    """
    path = path.absolute()
    try:
        return path, _read_record(path, record_name, version)
    except CheckpointError as error:
        previous = _previous(path)
        if not previous.exists():
            raise
        logger.warning("%s; falling back to %s", error, previous)
        return previous, _read_record(previous, record_name, version)


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _read_record(folder: Path, record_name: str, version: int) -> dict[str, Any]:
    """Return the record of a folder whose files are all as they were written."""
    file = folder / record_name
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint at {folder}; pass the path save() was given")
    try:
        record = json.loads(file.read_text())
        found_version, hashes = record["format"], record["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); use an earlier checkpoint") from error
    if found_version != version:
        raise CheckpointError(
            f"{file} has format {found_version}, this version reads {version}; load it with the "
            "version that saved it"
        )
    found = _hashes(folder)
    for name, expected in hashes.items():
        if found.get(name) != expected:
            state = "missing" if name not in found else "damaged"
            raise CheckpointError(f"{folder / name} is {state}; use an earlier checkpoint")
    return record


def _hashes(folder: Path) -> dict[str, str]:
    """Return the hash of every file below the folder, by relative name."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
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
