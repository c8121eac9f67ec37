"""Sequences of different lengths as padded batches, with as little padding as sorting gives."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

PaddingSide = Literal["left", "right"]


class PaddedBatch(NamedTuple):
    """Some sequences of a longer list as one array."""

    indices: NDArray[np.int64]
    """(batch,) where in the list each row comes from."""
    input_ids: NDArray[np.int64]
    """(batch, time); ``pad_id`` where the mask is 0."""
    attention_mask: NDArray[np.int64]
    """(batch, time); from the lengths, never from the ids."""
    position_ids: NDArray[np.int64]
    """(batch, time): 0, 1, 2, ... from each sequence's first token; 0 on padding."""
    starts: NDArray[np.int64]
    """(batch,) column of each sequence's first token."""


def length_buckets(lengths: Sequence[int], batch_size: int) -> list[NDArray[np.int64]]:
    """Return the indices of each batch: sequences of like length together, longest first.

    Args:
        lengths: Tokens of each sequence.
        batch_size: Most sequences in a batch, at least 1.

    Example:
        >>> [bucket.tolist() for bucket in length_buckets([5, 9, 5, 8], 2)]
        [[1, 3], [0, 2]]
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def padded_batches(
    sequences: Sequence[Sequence[int]],
    *,
    batch_size: int,
    pad_id: int = 0,
    padding_side: PaddingSide = "right",
) -> Iterator[PaddedBatch]:
    """Yield the sequences as padded batches, each index exactly once.

    Args:
        sequences: Token ids, any lengths.
        batch_size: Most sequences in a batch.
        pad_id: What fills the rest; masked.
        padding_side: Where the rest is.
    """
    for indices in length_buckets([len(sequence) for sequence in sequences], batch_size):
        time = max(len(sequences[index]) for index in indices)
        shape = (len(indices), time)
        input_ids = np.full(shape, pad_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        positions = np.zeros(shape, dtype=np.int64)
        starts = np.zeros(len(indices), dtype=np.int64)
        for row, index in enumerate(indices):
            size = len(sequences[index])
            starts[row] = time - size if padding_side == "left" else 0
            columns = slice(starts[row], starts[row] + size)
            input_ids[row, columns] = sequences[index]
            mask[row, columns] = 1
            positions[row, columns] = np.arange(size)
        yield PaddedBatch(indices, input_ids, mask, positions, starts)
