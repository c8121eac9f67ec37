"""Choice of the next prompt: drawn, in permutations, in order, or named in reset's options."""

import reprlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import index
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tokengym.base.errors import PromptError, SettingsError, StateError
from tokengym.base.registry import did_you_mean
from tokengym.envs.prompts.table import EncodedPrompt, PromptTable
from tokengym.envs.settings import PromptSampling


class PromptSampler:
    """Source of one environment row's prompt ids, one per episode.

    In order ("sequential") it takes prompts row, row + rows, ... of ``shard``, (row, rows); in
    permutations ("epoch") it takes the same places of an order that rows share whose seeds rise
    by one, as those of a batch do.
    """

    def __init__(
        self, sampling: PromptSampling, num_prompts: int, shard: tuple[int, int] = (0, 1)
    ) -> None:
        try:
            self._row, self._rows = map(index, shard)
            is_shard = 0 <= self._row < self._rows
        except (TypeError, ValueError):
            is_shard = False
        if not is_shard:
            raise SettingsError(
                f"prompt_shard must be (row, rows) with 0 <= row < rows, got {shard!r}"
            )
        self._sampling = sampling
        self._num_prompts = num_prompts
        self._drawn = 0
        self._seed: int | None = None
        """Seed of the permutations, from the first draw on."""

    def restart(self) -> None:
        """Restart the order, as a seeded reset does."""
        self._drawn, self._seed = 0, None

    def draw(self, rng: Generator, seed: int | None, group_size: int = 1) -> int:
        """Return the next prompt id.

        Args:
            rng: The row's generator, for draws with replacement.
            seed: The row's seed, for permutations.
            group_size: Rows that share a prompt: the groups are counted.
        """
        if self._sampling == "uniform":
            return draw_uniform([rng], self._num_prompts)[0]
        group, groups = self._row // group_size, self._rows // group_size
        epoch, place = divmod(group + self._drawn * groups, self._num_prompts)
        self._drawn += 1
        if self._sampling == "sequential":
            return place
        if self._seed is None:
            self._seed = (seed or 0) - self._row
        return int(_permutation(self._seed, epoch, self._num_prompts)[place])

    def get_state(self) -> dict[str, Any]:
        """Return the position in the order as plain data; the order is drawn again from it."""
        return {"drawn": self._drawn, "seed": self._seed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a position that ``get_state`` returned."""
        seed = None
        try:
            drawn, seed = index(state["drawn"]), state.get("seed")
            seed = None if seed is None else index(seed)
        except (TypeError, KeyError, AttributeError):
            drawn = -1
        if drawn < 0 or (self._sampling == "epoch" and drawn > 0 and seed is None):
            raise StateError(
                f"the state's sampler must be what get_state() returned with prompt_sampling="
                f"{self._sampling!r} and {self._num_prompts} prompts, got {reprlib.repr(state)}; "
                "restore it where it was made"
            )
        self._drawn, self._seed = drawn, seed


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int32]:
    """Return the order of prompts in an epoch, (count,)."""
    rng = np.random.default_rng([seed % 2**64, epoch])
    return rng.permutation(count).astype(np.int32)


def draw_uniform(rngs: Sequence[Generator], num_prompts: int) -> list[int]:
    """Return one prompt id from each generator, with replacement.

    One uniform float per draw takes a third of the time of ``integers``; its bias, below
    num_prompts / 2**53, is negligible.
    """
    return [int(rng.random() * num_prompts) for rng in rngs]


# --- prompts named in reset's options -------------------------------------------------------------


def chosen_prompt(
    table: PromptTable, options: Mapping[str, Any], also: Sequence[str] = ()
) -> EncodedPrompt | None:
    """Return the prompt that a single environment's reset options ask for, or None to draw one.

    Args:
        table: The environment's prompts.
        options: Those that say which prompt.
        also: Names of others, which reset has taken, for messages.
    """
    if not options:
        return None
    _check_options(options, ("prompt", "prompt_id"), also)
    if "prompt" in options:
        return table.encode(options["prompt"])
    return table.lookup(options["prompt_id"])


def chosen_prompts(
    table: PromptTable, options: Mapping[str, Any], rows: Sequence[int], num_envs: int
) -> list[EncodedPrompt] | None:
    """Return the prompts, (len(rows),), that a batch's reset options ask for, or None to draw them.

    Entries of rows that are not reset are ignored.
    """
    if not options:
        return None
    names = ("prompt", "prompt_id", "prompts", "prompt_ids", "group_size")
    _check_options(options, names, also=("responses", "reset_mask"))
    if "group_size" in options:
        return None
    for name in ("prompts", "prompt_ids"):
        if name in options:
            entries = per_row(options[name], name, num_envs)
            if name == "prompt_ids":
                return [table.lookup(entries[row]) for row in rows]
            return [table.encode(entries[row], f"options['prompts'][{row}]") for row in rows]
    prompt = chosen_prompt(table, options)
    assert prompt is not None
    return [prompt] * len(rows)


def per_row(option: Any, name: str, num_envs: int) -> Sequence[Any]:
    """Return the entries of a reset option, one per row."""
    has_order = hasattr(option, "__len__") and hasattr(option, "__getitem__")
    has_order &= not isinstance(option, str | Mapping)  # of a mapping the keys would be looked up
    count = len(option) if has_order else repr(option)
    if count != num_envs:
        raise SettingsError(
            f"options[{name!r}] must have one entry per row, {num_envs}, got {count}; with "
            "reset_mask too"
        )
    entries: Sequence[Any] = option
    return entries


def checked_group_size(group_size: Any, rows: Sequence[int], num_envs: int) -> int:
    """Return how many consecutive rows share a prompt, refusing what makes no whole groups."""
    try:
        size = 0 if isinstance(group_size, bool) else index(group_size)
    except TypeError:
        size = 0
    if size < 1 or num_envs % size:
        raise SettingsError(
            f"options['group_size'] must divide the batch's {num_envs} rows, got {group_size!r}; "
            "change it or num_envs"
        )
    if size == 1:
        return 1
    whole = [row for first in rows if first % size == 0 for row in range(first, first + size)]
    if list(rows) != whole:
        raise SettingsError(
            f"options['reset_mask'] must select whole groups of group_size={size} rows; set all "
            "rows of a group alike"
        )
    return size


def as_options(options: object) -> dict[str, Any]:
    """Return reset's options as a dictionary of the caller's own."""
    if options is not None and not isinstance(options, Mapping):
        raise SettingsError(
            f"reset takes options as a dictionary, got {options!r}; e.g. {{'prompt_id': 3}}"
        )
    return dict(options or {})


def _check_options(
    options: Mapping[str, Any], accepted: Sequence[str], also: Sequence[str] = ()
) -> None:
    """Refuse reset options that do not exist, or more than one of them; ``also`` are others."""
    for name in options:
        if name not in accepted:
            known = [*accepted, *also]
            hint = did_you_mean(str(name), known, n=1) or f"it has {', '.join(map(repr, known))}"
            raise SettingsError(f"reset has no option {name!r}; {hint.rstrip()}")
    if len(options) > 1:
        names = " or ".join(map(repr, options))
        raise PromptError(f"options may name {names}, got both; leave one of them out")
