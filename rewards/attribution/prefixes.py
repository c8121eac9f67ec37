"""Readers of growing texts: by how much each token moved the score."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode


class PrefixReader(ABC):
    """Says by how much each token moved the score of its text.

    A row is one episode among several that grow at the same time.
    """

    @abstractmethod
    def begin(self, rows: Sequence[int], episodes: Sequence[Episode]) -> None:
        """Take up new texts.

        Args:
            rows: Where; what was followed there before is forgotten.
            episodes: The prompts, with empty responses.
        """

    @abstractmethod
    def advance(self, rows: Sequence[int], episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Return how much the score of each text changed since its row was last looked at.

        Args:
            rows: Rows that were begun.
            episodes: Their texts so far: continuations of what they were, in general by one token.

        Returns:
            (rows,) R(now) - R(before).
        """


class DifferenceReader(PrefixReader):
    """A reader that scores what is there and subtracts what it scored before."""

    def __init__(self) -> None:
        self._last: dict[int, float] = {}

    def begin(self, rows: Sequence[int], episodes: Sequence[Episode]) -> None:
        """Score the empty responses."""
        self._last.update(zip(rows, self.read(rows, episodes).tolist(), strict=True))

    def advance(self, rows: Sequence[int], episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Score the texts and return the differences."""
        now = self.read(rows, episodes).astype(np.float64)
        before = np.array([self._last[row] for row in rows])
        self._last.update(zip(rows, now.tolist(), strict=True))
        return now - before

    @abstractmethod
    def read(self, rows: Sequence[int], episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return the score of each text, (rows,).

        Args:
            rows: Which texts these are.
            episodes: The texts so far; a response may be empty.
        """


class RescoringReader(DifferenceReader):
    """Scores the whole text at every step: for any scorer, at a full pass per step.

    Args:
        peek: Scores texts that nobody played, as `Scorer.peek`.
    """

    def __init__(self, peek: Callable[[Sequence[Episode]], NDArray[np.floating]]) -> None:
        super().__init__()
        self.peek = peek

    def read(self, rows: Sequence[int], episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return the score of each text."""
        return np.asarray(self.peek(episodes), dtype=np.float64)


class SumReader(PrefixReader):
    """The sum of several readers."""

    def __init__(self, readers: Sequence[PrefixReader]) -> None:
        self.readers = readers

    def begin(self, rows: Sequence[int], episodes: Sequence[Episode]) -> None:
        """Begin in every term."""
        for reader in self.readers:
            reader.begin(rows, episodes)

    def advance(self, rows: Sequence[int], episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Return the sum of the terms' changes."""
        return np.sum([reader.advance(rows, episodes) for reader in self.readers], axis=0)


class ScaledReader(PrefixReader):
    """A reader whose changes are multiplied by factors that may change over time.

    Args:
        reader: What is scaled.
        factors: Returns the factor of each episode, (batch,); called at every step.
    """

    def __init__(
        self, reader: PrefixReader, factors: Callable[[Sequence[Episode]], NDArray[np.float64]]
    ) -> None:
        self.reader = reader
        self.factors = factors

    def begin(self, rows: Sequence[int], episodes: Sequence[Episode]) -> None:
        """Begin in the reader."""
        self.reader.begin(rows, episodes)

    def advance(self, rows: Sequence[int], episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Return the reader's changes times the factors."""
        return self.factors(episodes) * self.reader.advance(rows, episodes)
