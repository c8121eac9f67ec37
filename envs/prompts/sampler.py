"""Choice of the next prompt: with replacement, in permutations, or in order."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.random import Generator

from tokengym.envs.errors import SettingsError, StateError
from tokengym.envs.settings import PromptSampling


class PromptSampler:
    """Source of one environment row's prompt ids, one per episode.

    Args:
        sampling: "uniform" draws with replacement; "epoch" draws a new permutation for
            each pass; "sequential" takes ``shard``'s prompts in order and starts over at the end.
        num_prompts: Size of the prompt set.
        shard: ``(row, rows)``: a sequential sampler takes prompts row, row + rows, ...

    Raises:
        SettingsError: if ``shard`` is not a row and a larger number of rows.
    """

    def __init__(
        self, sampling: PromptSampling, num_prompts: int, shard: tuple[int, int] = (0, 1)
    ) -> None:
        self._row, self._rows = shard
        if not 0 <= self._row < self._rows:
            raise SettingsError(
                f"prompt_shard must be (row, rows) with 0 <= row < rows, got {shard!r}"
            )
        self._sampling = sampling
        self._num_prompts = num_prompts
        self.restart()

    def restart(self) -> None:
        """Restart the order, as a seeded reset does."""
        self._drawn = 0
        self._order: list[int] = []

    def draw(self, rng: Generator, group_size: int = 1) -> int:
        """Return the next prompt id, taking randomness from ``rng`` alone.

        Args:
            rng: The row's generator.
            group_size: Consecutive rows that share a prompt; a sequential sampler counts groups.
        """
        if self._sampling == "uniform":
            return draw_uniform([rng], self._num_prompts)[0]
        drawn = self._drawn
        self._drawn = drawn + 1
        if self._sampling == "sequential":
            group, groups = self._row // group_size, self._rows // group_size
            return (group + drawn * groups) % self._num_prompts
        if drawn % self._num_prompts == 0:
            self._order = rng.permutation(self._num_prompts).tolist()
        return self._order[drawn % self._num_prompts]

    def get_state(self) -> dict[str, Any]:
        """Return the position in the order as plain data."""
        return {"drawn": self._drawn, "order": list(self._order)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a position that ``get_state`` returned.

        Raises:
            StateError: if it belongs to a prompt set of another size.
        """
        order = list(state["order"])
        if order and len(order) != self._num_prompts:
            raise StateError(
                f"the state's order has {len(order)} prompts, the environment {self._num_prompts}; "
                "restore it into an environment with the same prompts"
            )
        self._drawn, self._order = int(state["drawn"]), order


def draw_uniform(rngs: Sequence[Generator], num_prompts: int) -> list[int]:
    """Return one prompt id from each generator, with replacement.

    One uniform float per draw takes a third of the time of ``integers``; its bias, below
    num_prompts / 2**53, is negligible.
    """
    return [int(rng.random() * num_prompts) for rng in rngs]


def generator_from(state: dict[str, Any]) -> Generator:
    """Return a generator that continues from a saved state.

    Raises:
        StateError: if the state is of another kind of generator.
    """
    bits = np.random.PCG64(0)
    try:
        bits.state = cast(Any, state)
    except (TypeError, ValueError, KeyError) as error:
        raise StateError(
            f"np_random state cannot be restored ({error}); pass what get_state() returned"
        ) from error
    return Generator(bits)
