"""The one writer: a file or folder is complete, or what was there before."""

import errno
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tokengym.base.errors import CheckpointError, FolderInUseError, StorageError
from tokengym.base.files import (
    LOCK,
    is_leftover,
    locked,
    read_folder,
    read_hashed,
    read_json,
    read_jsonl,
    replacing,
    write_folder,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "a" / "text.txt"
    write_text(file, "old")

    def half(path: Path, *, folder: bool) -> None:
        with replacing(path) as part:
            if folder:
                part.mkdir()
            (part / "one" if folder else part).write_text("new")
            raise RuntimeError("half")

    for path in (file, tmp_path / "folder"):
        with pytest.raises(RuntimeError, match="half"):
            half(path, folder=path is not file)
    assert (file.read_text(), names(file.parent)) == ("old", ["text.txt"])
    assert names(tmp_path) == ["a"]


def test_a_folder_replaces_another_and_nothing_is_left_over(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    (tmp_path / "folder.previous").mkdir()
    for content in ("1", "2"):
        with replacing(path) as part:
            part.mkdir()
            (part / content).write_text(content)
    assert (names(path), names(tmp_path)) == (["2"], ["folder", "folder.previous"])


def test_a_folder_that_takes_no_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*file/agent: .*; name a path in a fold"):
        write_text(tmp_path / "file" / "agent", "text")


def test_a_damaged_folder_falls_back_to_the_previous_one(tmp_path: Path) -> None:
    path = tmp_path / "saved"

    def fill(number: int) -> None:
        def write(folder: Path) -> dict[str, int]:
            (folder / "data").write_text(str(number))
            return {"format": 1, "number": number}

        write_folder(path, "record.json", write)

    def read(path: Path, version: int = 1) -> tuple[Path, int]:
        kinds = {"number": int}
        return read_folder(
            path, "record.json", version, kinds, lambda *read: (read[0], read[1]["number"])
        )

    fill(1)
    fill(2)
    assert read(path) == (path, 2)
    (path / "data").write_text("changed")
    folder, number = read(path)
    assert (folder.name, number) == ("saved.previous", 1)
    with pytest.raises(CheckpointError, match="has format 1, this version reads 2; load it with"):
        read(folder, 2)
    (folder / "data").unlink()
    with pytest.raises(CheckpointError, match=r"data is missing; use an earlier checkpoint"):
        read(folder)


def test_what_is_loaded_is_what_was_hashed(tmp_path: Path) -> None:
    """Another process replaces the folder while it is read."""
    path, seen = tmp_path / "saved", []

    def save(number: int) -> None:
        def write(folder: Path) -> dict[str, int]:
            (folder / "data").write_text(str(number))
            return {"format": 1, "number": number}

        write_folder(path, "record.json", write)

    def load(folder: Path, record: dict[str, int]) -> tuple[int, int]:
        seen.append(record["number"])
        if len(seen) < 4:
            save(len(seen) + 1)
        if len(seen) == 3:  # it is renamed between two reads
            raise FileNotFoundError("data")
        return record["number"], int((folder / "data").read_text())

    save(1)
    assert read_folder(path, "record.json", 1, {"number": int}, load) == (4, 4)
    assert seen == [1, 2, 3, 4]

    def there_and_back(folder: Path, record: dict[str, int]) -> tuple[int, int]:
        if len(seen) == 4:
            seen.append(0)
            save(5)
            data = int((folder / "data").read_text())
            save(record["number"])
            return record["number"], data
        return record["number"], int((folder / "data").read_text())

    save(5)
    save(4)
    assert read_folder(path, "record.json", 1, {"number": int}, there_and_back) == (4, 4)

    def never(folder: Path, record: dict[str, int]) -> None:
        save(record["number"] + 1)

    with pytest.raises(CheckpointError, match="was replaced 10 times while it was read; read it"):
        read_folder(path, "record.json", 1, {"number": int}, never)


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": math.nan, "y": [math.inf, 1.5], "p": tmp_path})
    assert read_json(tmp_path / "a.json") == {"x": None, "y": [None, 1.5], "p": str(tmp_path)}


# --- one writer per folder ------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from tokengym.base.files import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_folder_that_another_process_writes_is_refused_until_it_dies(tmp_path: Path):
    folder = tmp_path / "results"
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "locked\n"
        with pytest.raises(FolderInUseError, match=f"results is in use by process {owner.pid} on "):
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


def test_what_is_written_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, rename = os.fsync, Path.replace

    def fsync(number: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{number}").rpartition("/")[2])
        sync(number)

    def replace(self: Path, target: Path) -> Path:
        done.append("renamed")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_text(tmp_path / "a.txt", "a")
    assert done == [f".a.txt.{os.getpid()}.part", "renamed", tmp_path.name]


def test_what_a_killed_process_left_is_removed_and_that_of_a_live_one_stays(
    tmp_path: Path,
) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead = tmp_path / f".a.txt.{process.pid}.part"
    alive = tmp_path / f".a.txt.{os.getppid()}.part"
    other = tmp_path / f".b.txt.{process.pid}.part"
    replaced = tmp_path / f".a.txt.{process.pid}.replaced"
    for path in (dead, alive, other, replaced):
        path.write_text("half")
    assert [is_leftover(path) for path in (dead, alive, other)] == [True, False, True]
    write_text(tmp_path / "a.txt", "a")
    assert not dead.exists()
    assert not replaced.exists()
    assert alive.exists()
    assert other.exists()


def test_a_line_of_json_that_is_no_object_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n[[]]\n')
    with pytest.raises(ValueError, match=r"a\.jsonl is damaged \(a line is no object\); delete"):
        read_jsonl(tmp_path / "a.jsonl")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 70 + "1" + "}" * 70])
def test_json_that_is_nested_too_deeply_is_damaged(tmp_path: Path, text: str) -> None:
    for name, read in (("a.json", read_json), ("a.jsonl", read_jsonl), ("a.json", read_hashed)):
        (tmp_path / name).write_text(text)
        with pytest.raises(
            ValueError, match=rf"{name} is damaged \(it is nested more than 64 deep"
        ):
            read(tmp_path / name)
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "record.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"record\.json is damaged \(it is nested"):
        read_folder(folder, "record.json", 1, {}, lambda *_: None)
    write_text(tmp_path / "b.json", "[" * 63 + "1" + "]" * 63)
    assert read_json(tmp_path / "b.json")


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        pytest.raises(StorageError, match=r"file system of .*/x has no locks \(No locks.*another"),
        locked(tmp_path / "x"),
    ):
        pass
    assert names(tmp_path) == []


def test_windows_has_locks_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        pytest.raises(FolderInUseError, match=r"x is in use by process \d+ on "),
        locked(tmp_path / "x"),
    ):
        pass
    assert len(held) == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match=r"cannot write to .*file/x: Not a dir.*; name another"),
        locked(tmp_path / "file" / "x"),
    ):
        pass
