"""Damaged and hostile GGUF files: one line within seconds, and no part of a model is kept."""

import functools
import os
import signal
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.campaign.garbled import kept_folder
from tests.campaign.outcome import LostError, Outcome, try_cases
from tests.lab.tiny_gguf import write_gguf
from tokengym.base.errors import PretrainedError
from tokengym.base.models import located

LIMIT_S = 20
"""Longest that reading one file may take, seconds; the whole file takes a tenth of one."""
HUGE = (2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
COUNTS = {"tensors": 8, "settings": 16}
"""Places of the counts in a header, bytes from the file's begin."""


@functools.cache
def whole() -> bytes:
    """Return a file that can be read."""
    file = kept_folder() / "tiny.gguf"
    write_gguf(file)
    return file.read_bytes()


def cut(data: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """Cut a file short, in its header or in its weights."""
    end = int(random.integers(len(data) if random.integers(2) else 200))
    return data[:end], f"cut at byte {end}"


def huge_count(data: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """Have the header announce more than there is."""
    name = str(random.choice(list(COUNTS)))
    value, place = HUGE[random.integers(len(HUGE))], COUNTS[name]
    return data[:place] + struct.pack("<Q", value) + data[place + 8 :], f"{value} {name}"


def huge_length(data: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """Have a text, a list or a tensor announce more than there is."""
    places = [
        place
        for place in range(24, min(len(data), 4000) - 8)
        if 0 < struct.unpack_from("<Q", data, place)[0] < 100
    ]
    place, value = places[random.integers(len(places))], HUGE[random.integers(len(HUGE))]
    return data[:place] + struct.pack("<Q", value) + data[place + 8 :], f"{value} at byte {place}"


def flipped(data: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """Flip one bit of the header."""
    place, bit = int(random.integers(min(len(data), 4000))), int(random.integers(8))
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :], (
        f"bit {bit} of byte {place}"
    )


def other_bytes(data: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """Replace the file with something else that is named so."""
    kinds = {
        "nothing": b"",
        "a pickle": b"\x80\x04cposix\nsystem\n(S'touch ran'\ntR.",
        "an archive": b"PK\x03\x04" + data[:100],
        "the magic alone": b"GGUF",
        "another byte order": b"GGUF" + struct.pack(">I", 3) + data[8:],
        "another version": b"GGUF" + struct.pack("<I", 99) + data[8:],
        "zeros": b"GGUF" + bytes(400),
    }
    name = str(random.choice(list(kinds)))
    return kinds[name], name


CHANGES: tuple[Callable[[bytes, np.random.Generator], tuple[bytes, str]], ...] = (
    *(cut, huge_count, huge_length, flipped, other_bytes),
)


class LateError(BaseException):
    """The time is over; no ``except Exception`` of the reader's makes it something else."""


@contextmanager
def within_limit(told: str) -> Iterator[None]:
    """Lose the case if the block takes too long."""

    def late(*_: Any) -> None:
        raise LateError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT_S)
    try:
        yield
    except LateError:
        raise LostError(f"{told}: still read after {LIMIT_S} s") from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def one_model(random: np.random.Generator) -> None:
    """Name one file as a model."""
    changed, told = CHANGES[random.integers(len(CHANGES))](whole(), random)
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch, "cache")
        file = Path(scratch, "model.gguf")
        file.write_bytes(changed)
        with (
            mock.patch.dict(os.environ, {"TOKENGYM_CACHE": str(cache)}),
            warnings.catch_warnings(),
            within_limit(told),
        ):
            warnings.simplefilter("ignore")
            try:
                located(file)
            except PretrainedError as error:
                if "\n" in str(error):
                    raise LostError(f"{told}: {error}") from error
                if any(cache.rglob("*.safetensors")):
                    raise LostError(f"{told}: a part of it is kept") from error


def models(count: int, seed: int) -> Outcome:
    """Try ``count`` files named as models."""
    return try_cases("models", one_model, count, seed)
