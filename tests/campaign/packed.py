"""Hostile and broken files of saved agents: one line, nothing run and nothing written elsewhere."""

import functools
import json
import pickle
import re
import stat
import struct
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, ZipFile, ZipInfo

import gymnasium as gym
import numpy as np
import torch

from tests.campaign.foreign import Payload, one_of, working_in
from tests.campaign.garbled import WRONG, kept_folder
from tests.campaign.outcome import LostError, Outcome, try_cases
from tokengym.agents import PPO

Entry = tuple[ZipInfo | str, bytes]
RECORD, NAMELESS = "checkpoint.json", "nameless"
PLACES = (
    *("../evil", "../../evil", "/evil", "a/../../evil", "..", ".", "", "\\evil", "..\\evil"),
    *("C:\\evil", "C:/evil", "//host/evil", "evil\x00.json", "e" * 300, "evil/" * 200 + "x"),
    *("checkpoint.json/evil", "model", "model/config.json/evil", "CON", "\u202e\x1b[2J"),
)
"""Names of entries that no archive should have."""
MOST_BYTES = 64 * 2**20
"""Memory that reading a hostile file of a few MB may take."""


@functools.cache
def saved() -> Path:
    """Return the file of an agent that nobody has changed."""
    path = kept_folder() / "agent.zip"
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=2, reward="sparse", max_new_tokens=4)
    PPO("CausalLMPolicy", envs, seed=0, device="cpu", n_minibatches=1).save(path)
    return path


@functools.cache
def entries() -> dict[str, bytes]:
    """Return the files in it by name."""
    with ZipFile(saved()) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(path: Path, parts: Sequence[Entry], kind: int = ZIP_STORED) -> None:
    """Write an archive of parts."""
    with ZipFile(path, "w", kind) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names that are there twice
        for name, content in parts:
            archive.writestr(name, content, kind)


def a_place(path: Path, random: np.random.Generator) -> str:
    """Add an entry whose name is a place elsewhere, or that of another entry."""
    name = str(one_of(random, (*PLACES, *entries())))
    parts: list[Entry] = [*entries().items()]
    parts.insert(int(random.integers(len(parts) + 1)), (name or NAMELESS, b"evil"))
    written(path, parts)
    if not name:  # which no writer writes: its letters become an extra field
        path.write_bytes(
            re.sub(
                rb"(PK\x01\x02.{24}|PK\x03\x04.{22})\x08\0\0\0(?=.{0,14}nameless)",
                lambda found: found[1] + b"\0\0\x08\0",
                path.read_bytes(),
                flags=re.DOTALL,
            )
        )
    return f"entry {name[:40]!r}"


def a_link(path: Path, random: np.random.Generator) -> str:
    """Have an entry be a symbolic link, a device or a pipe."""
    name = str(one_of(random, ("evil", *entries())))
    kind = one_of(random, (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK))
    info = ZipInfo(name)
    info.create_system, info.external_attr = 3, (int(kind) | 0o777) << 16
    parts: list[Entry] = [part for part in entries().items() if part[0] != name]
    written(path, [*parts, (info, str(one_of(random, ("/etc/passwd", "../ran"))).encode())])
    return f"{name} as {stat.filemode(int(kind))}"


def a_bomb(path: Path, random: np.random.Generator) -> str:
    """Have a file of a few MB be more when it is unpacked, or have many entries."""
    how = str(one_of(random, ("deflated", "bzip2", "lzma", "many", "overlap")))
    parts: list[Entry] = [*entries().items()]
    if how == "many":
        written(path, [*parts, *((f"many/{number}", b"") for number in range(40_000))])
    elif how == "overlap":  # every entry's content is that of the largest one
        written(path, parts)
        content, largest = path.read_bytes(), max(len(part) for part in entries().values())
        sizes = struct.pack("<II", largest, largest)
        place = content.rindex(b"PK\x01\x02")
        path.write_bytes(content[: place + 20] + sizes + content[place + 28 :])
    else:
        kind = {"deflated": ZIP_DEFLATED, "bzip2": ZIP_BZIP2, "lzma": ZIP_LZMA}[how]
        name = str(one_of(random, ("bomb", *entries())))
        parts = [part for part in parts if part[0] != name]
        written(path, [*parts, (name, bytes(2**27))], kind)
    return how


def bits(path: Path, random: np.random.Generator) -> str:
    """Cut the file, or change some of its bytes, of its directory mostly."""
    content = bytearray(saved().read_bytes())
    if random.integers(3) == 0:
        end = int(random.integers(len(content)))
        path.write_bytes(content[:end])
        return f"cut at {end}"
    start = content.index(b"PK\x01\x02") if random.integers(4) else 0
    places = random.integers(start, len(content), size=int(random.integers(1, 4)))
    for place in places:
        content[place] = int(random.integers(256))
    path.write_bytes(content)
    return f"bytes {places.tolist()}"


def a_header(path: Path, random: np.random.Generator) -> str:
    """Change a field of an entry in the directory, or in front of the entry."""
    content = bytearray(saved().read_bytes())
    sign, field = one_of(
        random,
        [(b"PK\x01\x02", at) for at in (6, 8, 10, 16, 20, 24, 28, 30, 32, 38, 42)]
        + [(b"PK\x03\x04", at) for at in (4, 6, 8, 14, 18, 22, 26, 28)]
        + [(b"PK\x05\x06", at) for at in (4, 6, 8, 10, 12, 16, 20)],
    )
    places = [found.start() for found in re.finditer(re.escape(sign), content)]
    place = int(one_of(random, places)) + int(field)
    value = one_of(random, (0, 1, 9, 0x7FFF, 0xFFFF))
    content[place : place + 2] = struct.pack("<H", int(value))
    path.write_bytes(content)
    return f"{bytes(sign)!r}+{field} = {value}"


def a_text(path: Path, random: np.random.Generator) -> str:
    """Put wrong JSON in place of a file of JSON, or leave a file out."""
    parts = dict(entries())
    name = str(one_of(random, [name for name in parts if name.endswith(".json")]))
    deep = (b"[" * 100_000, b'{"a":' * 300 + b"1" + b"}" * 300, b"1" * 10_000)
    content = one_of(random, (None, *WRONG, *deep))
    if content is None:
        name = str(one_of(random, parts))
        del parts[name]
    else:
        parts[name] = content
    written(path, [*parts.items()])
    return f"{name} as {content if content is None else content[:20]!r}"


def a_pickle(path: Path, random: np.random.Generator) -> str:
    """Put a pickle in place of a file, beside it, or have PyTorch or SB3 name the file."""
    parts, evil = dict(entries()), pickle.dumps(Payload(path.parent / "evil.py"))
    names = ("data", "pytorch_model.bin", "model/pytorch_model.bin", "policy.optimizer.pth")
    name = str(one_of(random, (*names, "a.pkl", "archive/data.pkl", "version", *parts)))
    parts[name] = evil
    if random.integers(2):
        parts.pop("model/model.safetensors", None)
    if random.integers(3) == 0:
        parts["_stable_baselines3_version"] = b"2.9.2"
    if random.integers(3) == 0:
        record = json.loads(entries()[RECORD])
        parts[RECORD] = json.dumps({**record, "algorithm": "evil:Evil"}).encode()
    written(path, [*parts.items()])
    return f"pickle as {name}"


def another_file(path: Path, random: np.random.Generator) -> str:
    """Name something that is no archive of `save`."""
    how = str(one_of(random, ("torch", "pickle", "empty", "text", "folder", "zip", "twice")))
    if how == "torch":
        torch.save(Payload(path.parent / "evil.py"), path)
    elif how == "folder":
        path.mkdir()
    elif how == "zip":
        written(path, [])
    elif how == "twice":  # an archive behind another one
        path.write_bytes(saved().read_bytes() * 2)
    else:
        evil = pickle.dumps(Payload(path.parent / "evil.py"))
        path.write_bytes({"pickle": evil, "empty": b"", "text": b"PK\x03\x04 text"}[how])
    return how


Attack = Callable[[Path, np.random.Generator], str]
ATTACKS: tuple[Attack, ...] = (
    *(a_place, a_link, a_bomb, bits, a_header, a_text, a_pickle, another_file),
)


def one_file(random: np.random.Generator, attacks: Sequence[Attack] | None = None) -> None:
    """Load an agent from a file that somebody has made."""
    entries()  # before the folder is another
    with tempfile.TemporaryDirectory() as scratch, working_in(scratch):
        base = Path(scratch)
        path, ran = base / "in" / "agent.zip", base / "ran"
        (base / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nEvil = None\n")
        path.parent.mkdir()
        (path.parent / "evil.py").write_text((base / "evil.py").read_text())
        attack = one_of(random, attacks or ATTACKS)
        told = f"{attack.__name__}, {attack(path, random)}"
        place: Any = str(path) if random.integers(2) else path.with_suffix("")
        before = sorted(base.rglob("*"))
        if attack is a_bomb:  # tracing is slow
            tracemalloc.start()
        try:
            PPO.load(place, device="cpu")
        except (ValueError, OSError) as error:
            if "\n" in str(error).strip() or not str(error).strip():
                raise LostError(f"{told}: no line: {error!r}") from error
            if isinstance(error, UnicodeError | json.JSONDecodeError):
                raise LostError(f"{told}: {error!r}") from error
        except BaseException as error:
            raise LostError(f"{told}: {type(error).__name__}: {error}") from error
        finally:
            most = tracemalloc.get_traced_memory()[1] if tracemalloc.is_tracing() else 0
            tracemalloc.stop()
        if ran.exists():
            raise LostError(f"{told}: its code ran")
        if sorted(base.rglob("*")) != before:
            raise LostError(f"{told}: files were written beside it")
        if most > MOST_BYTES:
            raise LostError(f"{told}: took {most / 2**20:.0f} MiB")


def packed(count: int, seed: int) -> Outcome:
    """Try ``count`` files of agents that somebody has made."""
    return try_cases("packed", one_file, count, seed)
