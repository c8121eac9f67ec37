"""The one writer: a file or folder is complete, or what was there before."""

import math
import os
import subprocess
import sys
import weakref
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import tokengym.base.files
from tokengym.base.errors import CheckpointError, StorageError
from tokengym.base.files import (
    behind_link,
    is_leftover,
    jsonl_rows,
    parse_json,
    previous_folder,
    read_hashed,
    read_json,
    read_jsonl,
    read_once,
    replacing,
    write_json,
    write_text,
)
from tokengym.base.folders import read_folder


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_failed_write_leaves_what_was_there(tmp_path):
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


def test_a_folder_replaces_another_and_nothing_is_left_over(tmp_path):
    path = tmp_path / "folder"
    (tmp_path / "folder.previous").mkdir()
    for content in ("1", "2"):
        with replacing(path) as part:
            part.mkdir()
            (part / content).write_text(content)
    assert (names(path), names(tmp_path)) == (["2"], ["folder", "folder.previous"])


def test_a_folder_that_takes_no_file_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write.*file/agent.*name"):
        write_text(tmp_path / "file" / "agent", "text")


def test_numbers_that_json_lacks_become_null(tmp_path):
    write_json(tmp_path / "a.json", {"x": math.nan, "y": [math.inf, 1.5], "p": tmp_path})
    assert read_json(tmp_path / "a.json") == {"x": None, "y": [None, 1.5], "p": str(tmp_path)}


# --- one writer per folder ------------------------------------------------------------------------


def test_what_is_written_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
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


def test_what_a_killed_process_left_is_removed_and_that_of_a_live_one_stays(tmp_path):
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


def test_a_line_of_json_that_is_no_object_is_said(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n[[]]\n')
    with pytest.raises(ValueError, match=r"a\.jsonl.*no JSON object"):
        read_jsonl(tmp_path / "a.jsonl")


def test_what_was_read_of_a_file_is_let_go_when_it_changes(tmp_path):
    alive, before = weakref.WeakSet[Read](), list[int]()
    asked, place = list[tuple[str, str]](), ["one"]

    @read_once(maxsize=3, also=lambda: place[0])
    def read(path, *, kind="a"):
        before.append(len(alive))
        asked.append((path.name, kind))
        made = Read()
        alive.add(made)
        return made

    file = tmp_path / "a"
    for stamp in range(12):
        file.write_text("")
        os.utime(file, ns=(stamp, stamp))
        assert read(file) is read(str(file))
    assert before == [0] * 12  # never two at once
    asked.clear()
    assert read(file, kind="b") is not read(file)  # other arguments are read beside it
    place[0] = "two"
    assert read(file) is read(file)
    place[0] = "one"
    assert read(file) is read(file)
    assert (len(alive), len(asked)) == (3, 2)
    (tmp_path / "b").write_text("")
    asked.clear()
    read(tmp_path / "b")  # in the place of what was asked for longest ago
    read(file)
    read(file, kind="b")
    assert asked == [("b", "a"), ("a", "b")]


@pytest.mark.parametrize("first", ['{"a": 1}\n', ""])
def test_bytes_that_are_no_text_are_said_with_their_file(tmp_path, first):
    (tmp_path / "a.jsonl").write_bytes(first.encode() + b'{"b": "\xff"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl is damaged after line .* as UTF-8") as caught:
        read_jsonl(tmp_path / "a.jsonl")
    assert type(caught.value) is ValueError


class Read:
    """A thing that was read."""


def test_rows_are_read_as_they_are_asked_for(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\r\n\n{"b": "\xc2\x85"}\r{"c": "\xe2\x80\xa8"}\n{"d": 4}')
    rows: list[dict[str, Any]] = [{"a": 1}, {"b": "\x85"}, {"c": "\u2028"}, {"d": 4}]
    assert read_jsonl(path) == rows == list(jsonl_rows(path))
    assert list(jsonl_rows(tmp_path / "absent.jsonl")) == []
    parsed = []

    def counting(text):
        parsed.append(text)
        return parse_json(text)

    monkeypatch.setattr(tokengym.base.files, "parse_json", counting)
    assert list(islice(jsonl_rows(path), 2)) == rows[:2]
    assert len(parsed) == 2


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 70 + "1" + "}" * 70])
def test_json_that_is_nested_too_deeply_is_damaged(tmp_path, text):
    for name, read in (("a.json", read_json), ("a.jsonl", read_jsonl), ("a.json", read_hashed)):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name} .*nested.*64"):
            read(tmp_path / name)
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "record.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"record\.json.*nested"):
        read_folder(folder, "record.json", 1, {}, lambda *_: None)
    write_text(tmp_path / "b.json", "[" * 63 + "1" + "]" * 63)
    assert read_json(tmp_path / "b.json")


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "yours").mkdir()
    (tmp_path / "yours" / "a.json").write_text("precious")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "a.json").symlink_to(tmp_path / "yours" / "a.json")
    (tmp_path / "agent").symlink_to(tmp_path / "yours")
    for name in ("a.json", "loop"):
        with replacing(tmp_path / name) as part:
            part.write_text("2")
        assert not (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_text() == "2"
    with replacing(tmp_path / "agent", keep_previous=True) as part:
        part.mkdir()
        (part / "b").write_text("2")
    assert (tmp_path / "agent" / "b").read_text() == "2"
    assert previous_folder(tmp_path / "agent").is_symlink()
    assert {path.name: path.read_text() for path in (tmp_path / "yours").iterdir()} == {
        "a.json": "precious"
    }


def test_a_link_that_a_user_named_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "agent").symlink_to(tmp_path / "disk")
    assert behind_link(tmp_path / "agent") == Path(os.path.realpath(tmp_path / "disk"))
    assert behind_link("as/given") == Path("as/given")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_and_a_folder_are_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, said in (("pipe", "a device or a pipe; name a file"), ("folder", "a folder; name a")):
        with pytest.raises(StorageError, match=said), replacing(tmp_path / name) as part:
            part.write_text("")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "folder").is_dir()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_in_place_of_a_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.json")  # which nobody writes: reading it would never end
    with pytest.raises(ValueError, match="is a pipe or a device"):
        read_json(tmp_path / "a.json")
