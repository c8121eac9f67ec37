"""Token ids of many texts: in one array, encoded once for a process or for a comparison."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from tokengym.base.files import replacing
from tokengym.envs.prompts.tokenization import encodes_by_backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENCODED = "encoded"
"""Folder of a comparison's encoded prompts."""
FEWEST_SHARED = 20_000
"""Least number of texts whose ids are shared: those of fewer are encoded in less than a second."""


@dataclass(frozen=True, eq=False)
class TokenRows:
    """The token ids of many texts, one after another: no list and no padding for each."""

    flat: NDArray[np.int32]
    """(tokens,) the ids of all texts."""
    starts: NDArray[np.int64]
    """(rows,) position of each text's first id."""
    ends: NDArray[np.int64]
    """(rows,) position after each text's last id."""

    @classmethod
    def of(cls, parts: Iterable[Sequence[Sequence[int]]]) -> TokenRows:
        """Return the rows of texts that were encoded in parts."""
        flat, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for rows in parts:
            lengths.append(np.fromiter(map(len, rows), np.int64, len(rows)))
            flat.append(np.fromiter(chain.from_iterable(rows), np.int32, int(lengths[-1].sum())))
        ends = np.cumsum(np.concatenate(lengths))
        starts = ends - np.concatenate(lengths)
        return cls(np.concatenate(flat), starts, ends)

    def __post_init__(self) -> None:
        self.flat.flags.writeable = False

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        """Return a text's ids, (n,)."""
        return self.flat[self.starts[row] : self.ends[row]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(rows,) number of ids of each text."""
        return self.ends - self.starts

    def select(self, rows: NDArray[np.int64]) -> TokenRows:
        """Return some of the rows, by their numbers (n,); their ids stay where they are."""
        return TokenRows(self.flat, self.starts[rows], self.ends[rows])

    def last(self, width: int) -> TokenRows:
        """Return the rows cut to their last ids."""
        return TokenRows(self.flat, np.maximum(self.starts, self.ends - width), self.ends)

    def padded(
        self, rows: Sequence[int], width: int, pad_id: int
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return ids and mask of some rows, (len(rows), width) each, ending at the last column."""
        columns = self.ends[rows][:, None] + np.arange(-width, 0)
        mask = columns >= self.starts[rows][:, None]
        # Padding reads some id that there is, and is written over.
        return np.where(mask, self.flat[np.maximum(columns, 0)], pad_id), mask


_known: WeakValueDictionary[str, TokenRows] = WeakValueDictionary()
"""Ids that some environment of this process has, by what they depend on."""
_folders: list[Path] = []
"""The folder that ids are stored in, last; empty: they are not."""


@contextmanager
def rows_stored_in(folder: Path | None) -> Iterator[None]:
    """Store ids of large prompt sets in a folder within the block, and read them from there.

    Args:
        folder: The folder; None stores none.
    """
    if folder is None:
        yield
        return
    _folders.append(folder)
    try:
        yield
    finally:
        _folders.remove(folder)


def shared_rows(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    frame: str,
    encoded: Callable[[], TokenRows],
) -> TokenRows:
    """Return the ids of texts, which are encoded only if nobody has done so.

    Ids are those of the same texts, frame and rules of the tokenizer, whichever objects have them.
    In a file they are mapped into memory, so that processes share one copy.

    Args:
        texts: The texts.
        tokenizer: Encodes them.
        frame: Frame of the texts.
        encoded: Returns their ids.
    """
    if len(texts) < FEWEST_SHARED or not encodes_by_backend(tokenizer):
        return encoded()
    key = _key(texts, tokenizer, frame)
    rows = _known.get(key)
    if rows is None:
        file = _folders[-1] / f"{key}.npy" if _folders else None
        rows = None if file is None else _read(file, len(texts))
        if rows is None:
            rows = encoded()
            if file is not None:
                _write(file, rows)
        _known[key] = rows
    return rows


def _key(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, frame: str) -> str:
    """Return a hash of all that ids depend on."""
    import tokenizers

    backend: Any = tokenizer.backend_tokenizer
    rules = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    ends = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.split_special_tokens)
    parts = (tokenizers.__version__, rules, ends, frame)
    digest = hashlib.sha256(json.dumps(parts, default=str).encode())
    digest.update(np.fromiter(map(len, texts), np.int64, len(texts)).tobytes())
    for start in range(0, len(texts), FEWEST_SHARED):
        digest.update("".join(texts[start : start + FEWEST_SHARED]).encode())
    return digest.hexdigest()


def _write(file: Path, rows: TokenRows) -> None:
    """Write the lengths of the rows, and then all ids."""
    with replacing(file) as part, part.open("wb") as stream:
        np.save(stream, np.concatenate([rows.lengths.astype(np.int32), rows.flat]))


def _read(file: Path, count: int) -> TokenRows | None:
    """Return stored rows; None if there are none, or the file is damaged."""
    try:
        stored: NDArray[np.int32] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    lengths = stored[:count].astype(np.int64)
    ends = np.cumsum(lengths)
    if stored.dtype != np.int32 or len(lengths) < count or len(stored) != count + ends[-1]:
        return None
    return TokenRows(np.asarray(stored)[count:], ends - lengths, ends)
