"""Damaged files of the kinds that commands read: one line, or the numbers of the whole file."""

import atexit
import contextlib
import functools
import io
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from tests.campaign.outcome import LostError, Outcome, try_cases
from tokengym.scripts.cli import main

TINY = ["--updates", "2", "--batch-size", "4", "--max-new-tokens", "6"]
TINY += ["--eval-episodes", "4", "--reference-samples", "16"]
RULES = ["--rewards", "sparse", "uniform", "--seeds", "1"]
SMALL = ["--num-prompts", "8", "--n", "2", "--max-new-tokens", "6"]
WRONG = (
    *(b"", b"{}", b"[]", b"null", b"0", b'"text"', b'{"a": 1e999}', b"[[[]]]"),
    *(b'{"version": "1"}', b'{"files": 3, "version": 1}', b"\xff\xfe\x00", b"a,b\n1\n", b"\n\n"),
)
READS: dict[str, tuple[str, ...]] = {
    "agent": ("evaluate", "{base}/agent", "--num-episodes", "4", "--json", "{base}/figures.json"),
    "compared": ("report", "{base}/compared", "--out", "{base}/merged"),
    "pairs.jsonl": (
        *("train", "--agent", "dpo", "--pairs", "{base}/pairs.jsonl", "--epochs", "1"),
        *("--max-new-tokens", "6", "--out", "{base}/dpo"),
    ),
}
"""What is damaged, a file of it at random, and the command that reads it."""
RESULTS = {"agent": "figures.json", "compared": "merged/summary.json", "pairs.jsonl": "dpo"}


def call(arguments: list[str]) -> tuple[int, str]:
    """Run a command in this process; return its exit code and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
        try:
            return main(arguments), printed.getvalue()
        except SystemExit as end:
            return int(end.code or 0), printed.getvalue()


def kept_folder() -> Path:
    """Return a new folder that is deleted when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def whole() -> Path:
    """Return a folder of whole files, one of each kind, and the results of reading them."""
    base = kept_folder()
    for arguments in (
        ["train", *TINY, "--out", str(base / "trained")],
        ["compare", *RULES, *TINY, "--executor", "here", "--out", str(base / "compared")],
        ["collect", *SMALL, "--out", str(base / "pairs.jsonl")],
    ):
        status, errors = call(arguments)
        if status:
            raise RuntimeError(f"{arguments} fails on whole files: {errors}")
    (base / "trained" / "agent").rename(base / "agent")
    shutil.rmtree(base / "trained")
    return base


@functools.cache
def expected(kind: str) -> str:
    """Return the result of a command over whole files."""
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        shutil.copytree(whole(), base)
        status, errors = read(kind, base)
        if status:
            raise RuntimeError(f"{kind} is refused when whole: {errors}")
        return result(kind, base)


def read(kind: str, base: Path) -> tuple[int, str]:
    """Run the command that reads a kind of file."""
    return call([part.format(base=base) for part in READS[kind]])


def result(kind: str, base: Path) -> str:
    """Return the figures that a command wrote, without its times and paths."""
    path = base / RESULTS[kind]
    if path.is_dir():
        return ""
    return json.dumps(untimed(json.loads(path.read_text())), sort_keys=True).replace(str(base), "")


def untimed(value: object) -> object:
    """Return nested figures without times."""
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if not key.endswith("_s")}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def damage(path: Path, random: np.random.Generator) -> str:
    """Damage a file at random and say how."""
    data = path.read_bytes()
    how = str(random.choice(["cut", "bit", "emptied", "wrong", "deleted key"]))
    if how == "deleted key" and path.suffix == ".json":
        value = json.loads(data)
        key = str(random.choice(sorted(value)))
        value[key] = [None, -1, 10**30, "text", [], {}][random.integers(6)]
        path.write_text(json.dumps(value))
        return f"{key} = {value[key]!r}"
    if how == "bit":
        place = int(random.integers(len(data)))
        flipped = data[place] ^ (1 << int(random.integers(8)))
        path.write_bytes(data[:place] + bytes([flipped]) + data[place + 1 :])
        return f"a bit of byte {place} flipped"
    if how == "cut":
        place = int(random.integers(len(data)))
        path.write_bytes(data[:place])
        return f"cut at byte {place}"
    text = b"" if how == "emptied" else WRONG[random.integers(len(WRONG))]
    path.write_bytes(text)
    return f"replaced with {text!r}"


def one_file(random: np.random.Generator) -> None:
    """Damage one file and run the command that reads it."""
    kind = str(random.choice(list(READS)))
    right = expected(kind)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        shutil.copytree(whole(), base)
        top = base / kind
        files = sorted(path for path in top.rglob("*") if path.is_file() and path.stat().st_size)
        path = files[random.integers(len(files))] if files else top
        before = path.read_bytes()
        told = f"{path.relative_to(base)}, {damage(path, random)}"
        status, errors = read(kind, base)
        if status == 1 or "Traceback" in errors:
            raise LostError(f"{told}: {errors.strip()}")
        if status and len([line for line in errors.splitlines() if line.startswith("error")]) != 1:
            raise LostError(f"{told}: exit code {status} without one line of error")
        if not status and path.read_bytes() != before and result(kind, base) != right:
            raise LostError(f"{told}: other numbers, and no error")


def garbled(count: int, seed: int) -> Outcome:
    """Try ``count`` damaged files."""
    return try_cases("garbled", one_file, count, seed)
