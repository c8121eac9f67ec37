"""Every write of a command failing once, as on a disk that is full for a moment.

Counted are writes, new folders, renames and flushes to the disk below the command's folder, in the
order in which the process makes them. The n-th fails with ENOSPC, and the same command resumes.
"""

import builtins
import errno
import functools
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors.torch
import torch
from safetensors import SafetensorError

from tests.campaign.garbled import call, kept_folder
from tests.campaign.kills import is_done, results
from tests.campaign.outcome import LostError, Outcome, try_cases
from tokengym.base.files import is_leftover

FEW = ["--batch-size", "4", "--max-new-tokens", "4", "--eval-episodes", "4"]
UPDATES = ["--updates", "1", "--reference-samples", "16", *FEW]
COMMANDS = {
    "ppo": ["train", "--reward", "uniform", "--eval-every", "1", *UPDATES],
    "collect": ["collect", "--num-prompts", "6", "--n", "2", "--max-new-tokens", "4"],
    "compare": [
        "compare",
        "--rewards",
        "sparse",
        "uniform",
        "--seeds",
        "2",
        "--jobs",
        "1",
        *UPDATES,
    ],
    "dpo": [
        *("train", "--agent", "dpo", "--epochs", "1", "--num-prompts", "6", "--n", "2"),
        *("--reference-samples", "0", *FEW),
    ],
}
"""Commands whose writes fail; of a comparison those of its results, since runs have processes of
their own."""


class Disk:
    """Counts what is written below a folder, and fails once.

    Args:
        folder: The folder.
        fails_at: Number of the write that fails, from 1; None lets all pass.
    """

    def __init__(self, folder: Path, fails_at: int | None) -> None:
        self.folder, self.fails_at = str(folder.resolve()), fails_at
        self.writes = 0

    def fails(self, place: object) -> bool:
        """Count a write to a path, or to an open file by number; return whether it is to fail."""
        path = f"/proc/self/fd/{place}" if isinstance(place, int) else str(place)
        is_below = os.path.realpath(path).startswith(self.folder)
        self.writes += is_below
        return is_below and self.writes == self.fails_at

    def check(self, place: object) -> None:
        """Count a write, and fail where it is to fail.

        Raises:
            OSError: the system's of a full disk.
        """
        if self.fails(place):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))


def opener(disk: Disk, opened: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``open`` with a raw file below that counts each write to the system."""

    class Raw(io.FileIO):
        def write(self, data: Any, /) -> int:
            disk.check(self.name)
            return super().write(data)

    def open_counted(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return opened(file, mode, *arguments, **options)
        raw = Raw(os.fspath(file), mode.replace("b", "").replace("t", ""))
        buffered: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        names = ("buffering", "encoding", "errors", "newline")
        given = dict(zip(names, arguments, strict=False)) | options
        given.pop("buffering", None)
        return io.TextIOWrapper(buffered, **given)

    return open_counted


@contextmanager
def failing(folder: Path, fails_at: int | None = None) -> Iterator[Disk]:
    """Count what the block writes below a folder, and let one write of it fail."""
    disk = Disk(folder, fails_at)

    def checked(function: Callable[..., Any], place: int = 0) -> Callable[..., Any]:
        @functools.wraps(function)
        def checking(*arguments: Any, **options: Any) -> Any:
            if function.__name__ != "mkdir" or not os.path.isdir(arguments[0]):
                disk.check(arguments[place])
            return function(*arguments, **options)

        return checking

    def library(function: Callable[..., Any], place: int, failure: Exception) -> Callable[..., Any]:
        """Return what writes a file by itself, which a failure leaves cut short."""

        @functools.wraps(function)
        def writing(*arguments: Any, **options: Any) -> Any:
            path = arguments[place]
            if not isinstance(path, str | os.PathLike) or not disk.fails(path):
                return function(*arguments, **options)
            function(*arguments, **options)
            os.truncate(path, os.path.getsize(path) // 2)
            raise failure

        return writing

    full = SafetensorError("Error while serializing: I/O error: full (os error 28)")
    torn = RuntimeError("[enforce fail at inline_container.cc] PytorchStreamWriter failed writing")
    with ExitStack() as stack:
        for owner, name in ((io, "open"), (builtins, "open")):
            stack.enter_context(mock.patch.object(owner, name, opener(disk, open)))
        for name, place in (
            ("mkdir", 0),
            ("rename", 1),
            ("replace", 1),
            ("write", 0),
            ("fsync", 0),
        ):
            stack.enter_context(mock.patch.object(os, name, checked(getattr(os, name), place)))
        for owner, name, failure in (
            (safetensors.torch, "serialize_file", full),
            (torch, "save", torn),
        ):
            stack.enter_context(
                mock.patch.object(owner, name, library(getattr(owner, name), 1, failure))
            )
        yield disk


def arguments(name: str, folder: Path) -> list[str]:
    """Return a command that writes below a folder."""
    return [*COMMANDS[name], "--out", str(folder / ("run.jsonl" if name == "collect" else "run"))]


def began(name: str, folder: Path) -> None:
    """Put into a folder what a command finds there: of a comparison, the runs that are done."""
    folder.mkdir()
    if name == "compare":
        shutil.copytree(compared(), folder / "run")


@functools.cache
def compared() -> Path:
    """Return a comparison without its results."""
    folder = kept_folder()
    status, printed = call(arguments("compare", folder))
    if status:
        raise RuntimeError(f"compare fails on a whole disk: {printed}")
    for file in (folder / "run").iterdir():
        if file.is_file():
            file.unlink()
    return folder / "run"


def left(folder: Path) -> dict[str, Any]:
    """Return the files of a folder, with what does not depend on times.

    An agent that was saved before the failure is kept beside the one that the command saves again,
    and the parts of a result that has taken its place may be left.
    """
    files = {str(path.relative_to(folder)): None for path in folder.rglob("*") if path.is_file()}
    found = files | results(folder)
    return {
        name: content
        for name, content in found.items()
        if not (is_leftover(Path(name)) or ".previous/" in name or ".parts/" in name)
    }


@functools.cache
def unfailed(name: str) -> tuple[dict[str, Any], int]:
    """Return what a command leaves on a disk that has space, and how often it writes."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve() / "here"
        began(name, folder)
        with failing(folder) as disk:
            status, printed = call(arguments(name, folder))
        if status:
            raise RuntimeError(f"{name} fails on a disk with space: {printed}")
        return left(folder), disk.writes


def one_write(name: str, number: int) -> None:
    """Let one write of a command fail, run the same command again and compare what is left."""
    whole, _ = unfailed(name)
    told = f"write {number} of {name}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve() / "here"
        began(name, folder)
        with failing(folder, number) as disk:
            status, printed = call(arguments(name, folder))
        if disk.writes < number:
            raise LostError(f"{told}: it writes {disk.writes} times only")
        errors = [line for line in printed.splitlines() if line.startswith("error: ")]
        if "Traceback" in printed or status not in (0, 2) or len(errors) != (status == 2):
            raise LostError(f"{told}: exit code {status}: {printed[-500:]!r}")
        if status and not (name == "collect" and is_done(name, folder)):  # it writes one file
            again, printed = call(arguments(name, folder))
            if again:
                raise LostError(f"{told}: does not resume: {printed[-500:]!r}")
        if (found := left(folder)) != whole:
            names = {**found, **whole}
            differ = [f for f in names if found.get(f, 0) != whole.get(f, 0)]
            raise LostError(f"{told}: {', '.join(differ[:4])} differ")


def cases() -> list[tuple[str, int]]:
    """Return all commands and writes."""
    return [(name, n) for name in COMMANDS for n in range(1, unfailed(name)[1] + 1)]


def writes(count: int, seed: int) -> Outcome:
    """Try ``count`` of the writes, in order from write ``seed`` on; there may be fewer."""
    chosen = iter(cases()[seed : seed + count])
    left_over = len(cases()[seed : seed + count])
    return try_cases("writes", lambda _: one_write(*next(chosen)), left_over, seed)
