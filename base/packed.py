"""Saved folders as one file, where Stable-Baselines3's names of saved agents ask for one.

The file is a zip archive whose entries are stored as they are, so that it takes no more memory to
read than its own size says, and ``python -m zipfile -e agent.zip FOLDER`` gives the folder.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo, is_zipfile

from tokengym.base.errors import CheckpointError, StorageError
from tokengym.base.files import behind_link, previous_folder, replacing, writing

SUFFIX = ".zip"
BEST = "best_model"
"""Name that SB3's ``EvalCallback`` gives to what it announces as best_model.zip."""
OF_SB3 = "_stable_baselines3_version"
"""Entry that tells a file of Stable-Baselines3's own."""
MAX_ENTRIES = 1000
"""Most files of a saved agent; its weights may be in hundreds."""
Place = str | Path | IO[bytes]
"""Where something is saved: the path of a folder or a file, or an open binary file."""


def with_suffix(path: Path) -> Path:
    """Return the name with ".zip" behind it."""
    return path.with_name(path.name + SUFFIX)


def file_for(path: Path, record_name: str) -> Path | None:
    """Return the file that an agent is saved to at a path; None where it is a folder.

    It is one file under names that end in ".zip" or are `BEST`, and beside a folder that holds
    other things. A folder that `folders.write_folder` made there stays one.

    Raises:
        StorageError: if another kind of file has that name.
    """
    if any((folder / record_name).is_file() for folder in (path, previous_folder(path))):
        return None
    is_taken = path.is_dir() and any(path.iterdir())
    named = path.name.endswith(SUFFIX)
    if path.exists() and not path.is_dir() and not named:
        raise StorageError(f"{path.absolute()} is a file; name a folder, or a file {path.name}.zip")
    if not (named or is_taken or path.name == BEST):
        return None
    file = path if named and not is_taken else with_suffix(path)
    if file.exists() and not _holds(file, record_name):
        raise StorageError(
            f"{file.absolute()} is no saved agent of tokengym, and would be replaced; name another"
        )
    return file


def _holds(file: Path, record_name: str) -> bool:
    if not (file.is_file() and is_zipfile(file)):
        return False
    with ZipFile(file) as archive:
        return record_name in archive.namelist()


@contextmanager
def packing(file: Path | IO[bytes]) -> Iterator[Path]:
    """Yield an empty folder whose files become one file when the block has succeeded.

    Args:
        file: A path, whose file is replaced as a whole, or an open binary file.
    """
    if not isinstance(file, Path):
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)
            _pack(Path(made), file)
        return
    with replacing(file) as part:
        folder = part.with_suffix(".replaced")  # beside it, where there is room; see is_leftover
        folder.mkdir()
        try:
            yield folder
            with part.open("wb") as stream:
                _pack(folder, stream)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _pack(folder: Path, stream: IO[bytes]) -> None:
    with ZipFile(stream, "w", ZIP_STORED, strict_timestamps=False) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())


@contextmanager
def unpacked(place: Place, record_name: str) -> Iterator[Path]:
    """Yield the folder that is saved at a place, under its name with or without ".zip".

    Of one file it is a temporary one, which goes with the block.

    Raises:
        CheckpointError: if a file is no saved folder, or one of Stable-Baselines3's.
    """
    if isinstance(place, str | Path):
        place = _there(behind_link(place), record_name)
        if not place.is_file():  # a folder, or nothing: who reads it says so
            yield place
            return
    name = place.name if isinstance(place, Path) else "agent"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        folder = Path(made) / name
        _unpack(place, folder, record_name)
        yield folder


def _there(path: Path, record_name: str) -> Path:
    """Return the path under which something is saved: as given, or with or without ".zip"."""
    others = [with_suffix(path)]
    if path.name.endswith(SUFFIX) and path.stem:
        others.append(path.with_name(path.stem))
    for one in (path, *others):
        is_folder = any((f / record_name).is_file() for f in (one, previous_folder(one)))
        if is_folder or (one.is_file() and (one == path or is_zipfile(one))):
            return one
    return path


def _unpack(place: Path | IO[bytes], folder: Path, record_name: str) -> None:
    said = f"{place}" if isinstance(place, Path) else "the stream"
    try:
        with ZipFile(place) as archive:
            entries, names = archive.infolist(), archive.namelist()
            if OF_SB3 in names:
                raise CheckpointError(
                    f"{said} was saved by Stable-Baselines3's own class; load it with that class, "
                    "such as stable_baselines3.PPO.load(path)"
                )
            if record_name not in names:
                raise CheckpointError(
                    f"{said} holds no {record_name}; pass the path save() was given"
                )
            # What is unpacked is no more than what is there: no entry is compressed, or read twice.
            is_ours = len(entries) <= MAX_ENTRIES and all(map(_is_plain, entries))
            if not is_ours or sum(entry.file_size for entry in entries) > archive.start_dir:
                raise CheckpointError(f"{said} is no file that save() writes; use another one")
            with writing(folder):
                archive.extractall(folder)
    except (BadZipFile, EOFError, NotImplementedError) as error:
        raise CheckpointError(
            f"{said} is no saved agent, or damaged ({error}); pass the path save() was given"
        ) from error


def _is_plain(entry: ZipInfo) -> bool:
    """Return whether an entry has a name, and is stored as it is, without a password."""
    return bool(entry.filename) and entry.compress_type == ZIP_STORED and not entry.flag_bits & 1
