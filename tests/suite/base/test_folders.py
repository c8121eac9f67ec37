"""Folders of results: one writer at a time, and read as they were written."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tokengym.base.errors import CheckpointError, FolderInUseError, StorageError
from tokengym.base.folders import LOCK, locked, read_folder, write_folder


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def save(path: Path, number: int) -> None:
    """Write a folder whose record and whose file hold a number."""

    def write(folder: Path) -> dict[str, int]:
        (folder / "data").write_text(str(number))
        return {"format": 1, "number": number}

    write_folder(path, "record.json", write)


def test_a_damaged_folder_falls_back_to_the_previous_one(tmp_path):
    path = tmp_path / "saved"

    def read(path: Path, version: int = 1) -> tuple[Path, int]:
        kinds = {"number": int}
        return read_folder(
            path, "record.json", version, kinds, lambda *read: (read[0], read[1]["number"])
        )

    save(path, 1)
    save(path, 2)
    assert read(path) == (path, 2)
    (path / "data").write_text("changed")
    folder, number = read(path)
    assert (folder.name, number) == ("saved.previous", 1)
    with pytest.raises(CheckpointError, match=r"format 1.*reads 2"):
        read(folder, 2)
    (folder / "data").unlink()
    with pytest.raises(CheckpointError, match="data is missing"):
        read(folder)


@pytest.mark.parametrize("is_file", [False, True])
def test_what_no_checkpoint_is_stays(tmp_path, is_file):
    """``agent.save(".")`` would put a home folder aside, and the second time delete it."""
    path = tmp_path / "work"
    thesis = path if is_file else path / "thesis.tex"
    thesis.parent.mkdir(exist_ok=True)
    thesis.write_text("years")
    with pytest.raises(StorageError, match=r"other files than record\.json"):
        write_folder(path, "record.json", lambda folder: {"format": 1})
    assert thesis.read_text() == "years"
    thesis.unlink()
    path.mkdir(exist_ok=True)
    for _ in range(2):  # an empty folder may be taken, and a checkpoint replaced
        write_folder(path, "record.json", lambda folder: {"format": 1})
    assert names(path) == ["record.json"]


def test_what_is_loaded_is_what_was_hashed(tmp_path):
    """Another process replaces the folder while it is read."""
    path, seen = tmp_path / "saved", []

    def load(folder: Path, record: dict[str, int]) -> tuple[int, int]:
        seen.append(record["number"])
        if len(seen) < 4:
            save(path, len(seen) + 1)
        if len(seen) == 3:  # it is renamed between two reads
            raise FileNotFoundError("data")
        return record["number"], int((folder / "data").read_text())

    save(path, 1)
    assert read_folder(path, "record.json", 1, {"number": int}, load) == (4, 4)
    assert seen == [1, 2, 3, 4]

    def there_and_back(folder: Path, record: dict[str, int]) -> tuple[int, int]:
        if len(seen) == 4:
            seen.append(0)
            save(path, 5)
            data = int((folder / "data").read_text())
            save(path, record["number"])
            return record["number"], data
        return record["number"], int((folder / "data").read_text())

    save(path, 5)
    save(path, 4)
    assert read_folder(path, "record.json", 1, {"number": int}, there_and_back) == (4, 4)

    def never(folder: Path, record: dict[str, int]) -> None:
        save(path, record["number"] + 1)

    with pytest.raises(CheckpointError, match="replaced 10 times"):
        read_folder(path, "record.json", 1, {"number": int}, never)


HOLD = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from tokengym.base.folders import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_folder_that_another_process_writes_is_refused_until_it_dies(tmp_path):
    folder = tmp_path / "results"
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout.readline() == "locked\n"
        with pytest.raises(FolderInUseError, match=rf"results.*in use.*{owner.pid} on"):
            with locked(folder):
                pass
    finally:
        owner.kill()
        owner.communicate()
    assert (folder / LOCK).exists()  # killed, it left the file, which means nothing
    with locked(folder):
        with pytest.raises(FolderInUseError, match=f"process {os.getpid()} on"), locked(folder):
            pass
    assert not folder.exists()  # nothing was written


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        pytest.raises(StorageError, match=r"/x: No locks"),
        locked(tmp_path / "x"),
    ):
        pass
    assert names(tmp_path) == []


def test_windows_has_locks_of_its_own(tmp_path, monkeypatch):
    held: list[int] = []

    def locking(file: int, mode: int, count: int) -> None:
        if held:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        held.append(file)

    monkeypatch.setitem(sys.modules, "fcntl", None)  # as there
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=locking))
    monkeypatch.setattr("sys.platform", "win32")
    with (
        locked(tmp_path / "x"),
        pytest.raises(FolderInUseError, match=r"x is in use.*\d+ on"),
        locked(tmp_path / "x"),
    ):
        pass
    assert len(held) == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match=r"cannot write.*file/x: Not a dir"),
        locked(tmp_path / "file" / "x"),
    ):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="a working folder cannot be removed there")
def test_a_folder_that_cannot_be_made_is_no_race(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with (
        pytest.raises(StorageError, match=r"cannot write.*runs: No such"),
        locked(Path("runs")),
    ):
        pass


def test_what_wrote_nothing_leaves_no_folder(tmp_path):
    """`tokengym train` with a model that is not there had left an empty folder of runs."""
    with locked(tmp_path / "runs" / "2026" / "one"):
        pass
    assert not names(tmp_path)
    (tmp_path / "runs").mkdir()
    with locked(tmp_path / "runs" / "2026" / "one"):
        pass
    assert names(tmp_path) == ["runs"]  # it was there before
    with locked(tmp_path / "runs" / "one"):
        (tmp_path / "runs" / "one" / "curve.csv").touch()
    assert names(tmp_path / "runs" / "one") == ["curve.csv"]
