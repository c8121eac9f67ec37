"""Infos: their type, and writing and reading those of a batch by Gymnasium's conventions."""

from __future__ import annotations

from collections.abc import Container, Mapping
from types import ModuleType
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from tokengym.base.prompt import Metadata, Prompt
from tokengym.envs.batch import EpisodeBatch, Rows
from tokengym.envs.episode import Episode
from tokengym.envs.prompts.table import EncodedPrompt, as_objects

_EPISODE_KEYS = (
    "prompt",
    "prompt_ids",
    "reference",
    "query_type",
    "metadata",
    "response",
    "response_ids",
    "score",
    "finish_reason",
)


_PER_TOKEN = {"token_rewards": np.float32, "written": np.int8}
"""Entries with one value per token after the prompt, and their types."""


class Info(dict[str, Any]):
    """An info that Gymnasium's vector environments can stack and its array conversions can convert.

    ``SyncVectorEnv`` and ``AsyncVectorEnv`` read a copy's info by `items` and assume that the
    arrays of an entry have one shape in all rows. Those with one value per response token do not:
    `items` alone shows them padded with zeros to the width.

    Gymnasium 1.4 takes a ``str`` for an iterable of arrays, which turns a prompt into the name of a
    generator, and refuses arrays of objects, which is how its own batches keep texts. The
    conversion is a ``functools.singledispatch`` function: how an `Info` is converted is registered
    for this type alone.
    """

    width: int | None = None
    """Length that `items` pads to; None in an info of a batch."""

    def items(self) -> Any:
        """Return the entries, those with one value per token padded to the width."""
        if self.width is None:
            return super().items()
        return dict(self, **_padded(self, self.width)).items()

    def __reduce__(self) -> tuple[Any, ...]:
        return Info, (dict(self),), vars(self)  # copies and pickles would be made from `items`


def _padded(info: Mapping[str, Any], width: int) -> dict[str, NDArray[Any]]:
    """Return the entries with one value per token, padded with zeros."""
    padded = {key: np.zeros(width, kind) for key, kind in _PER_TOKEN.items() if key in info}
    for key, values in padded.items():
        values[: len(info[key])] = info[key]
    return padded


def convert_texts() -> None:
    """Register the conversion of `Info`, and of prompts in reset's options, with Gymnasium."""
    from gymnasium.wrappers.array_conversion import array_conversion

    def convert(value: Any, xp: ModuleType, device: Any = None) -> Any:
        if isinstance(value, dict):
            entries = dict.items(value)  # as they are, not padded
            return type(value)((key, convert(item, xp, device)) for key, item in entries)
        if isinstance(value, str):
            return value
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                return value
            if not value.flags.writeable:
                value = value.copy()  # a tensor would share its memory and could write to it
        return array_conversion(value, xp, device)

    array_conversion.register(Info, convert)
    for kind in (Prompt, EncodedPrompt, Metadata):
        array_conversion.register(kind, lambda value, xp, device=None: value)


def episodes_from_infos(
    infos: Mapping[str, Any], *, unscored: Container[int] = ()
) -> dict[int, Episode]:
    """Return the episodes that ended in a step of a batched environment, by row.

    Works in every autoreset mode, over the native batch and over ``SyncVectorEnv``: in SAME_STEP
    mode the terminal infos are in ``infos["final_info"]``, else in ``infos`` itself.

    Args:
        infos: The step's.
        unscored: Rows whose episodes have no score yet, only zeros in its place.

    Returns:
        row -> episode; empty when no row ended.
    """
    source = infos.get("final_info", infos)
    episodes: dict[int, Episode] = {}
    for row in np.flatnonzero(source.get("_finish_reason", ())).tolist():
        scored = row not in unscored
        info = {key: source[key][row] for key in _EPISODE_KEYS}
        if "turns" in source:
            info["turns"] = source["turns"][row]
        for key in _PER_TOKEN:
            if key in source:
                info[key] = source[key][row][: len(info["response_ids"])]
        if scored:
            parts = source["score_parts"]
            info["score_parts"] = {
                name: float(parts[name][row])
                for name in parts
                if not name.startswith("_") and parts[f"_{name}"][row]
            }
        episodes[row] = Episode.from_info(info, scored=scored)
    return episodes


def put(
    infos: dict[str, Any],
    batch: EpisodeBatch,
    rows: Rows,
    entries: Mapping[str, tuple[Any, Any]],
) -> None:
    """Write the rows' values under their keys and masks, as ``VectorEnv._add_info`` would.

    Args:
        infos: Infos to write to.
        batch: Whose rows they are.
        rows: Rows that have a value.
        entries: By key the (rows,) values, None where the array holds them already, and the array
            (or nested infos) to begin with when the key is new.
    """
    present = np.zeros(batch.num_envs, dtype=np.bool_)
    present[rows] = True
    for key, (values, empty) in entries.items():
        if key in infos:
            infos[f"_{key}"] |= present
        else:
            infos[key], infos[f"_{key}"] = empty, present.copy()
        if values is not None:
            infos[key][rows] = values


def add_prompts(infos: dict[str, Any], batch: EpisodeBatch, rows: Rows) -> None:
    """Add the rows' prompts and prompt ids: all of a reset's info except the action mask."""
    count = batch.num_envs
    prompts, ids = batch.column("prompt", rows), batch.prompt_ids[rows]
    entries = {
        "prompt": (prompts, np.empty(count, dtype=object)),
        "prompt_id": (ids, np.zeros(count, dtype=np.int64)),
    }
    put(infos, batch, rows, entries)


def add_action_masks(
    infos: dict[str, Any], batch: EpisodeBatch, rows: Rows, *, serve_all: bool = False
) -> None:
    """Add the rows' action masks: one row broadcast where the whole batch agrees.

    Other rows are zero, as in Gymnasium; with ``serve_all`` they have a mask too, so that a frozen
    row can be sampled from.
    """
    masks = batch.action_masks()
    if not serve_all and len(rows) < batch.num_envs:
        served = np.zeros(masks.shape, dtype=np.int8)
        served[rows] = masks[rows]
        masks = served
    present = np.zeros(batch.num_envs, dtype=np.bool_)
    present[rows] = True
    infos["action_mask"], infos["_action_mask"] = masks, present


def add_terminal(
    infos: dict[str, Any], batch: EpisodeBatch, rows: Rows, reasons: NDArray[np.object_]
) -> None:
    """Add the terminal info of the rows' episodes except the action mask; scores are 0."""
    count = batch.num_envs
    texts, responses, lengths = batch.responses(rows)
    add_prompts(infos, batch, rows)
    columns = ("prompt_ids", "reference", "query_type", "metadata")
    objects = {
        **{name: batch.column(name, rows) for name in columns},
        "response": texts,
        "response_ids": responses,
        "finish_reason": reasons,
    }
    per_token = (count, batch.mdp.settings.max_new_tokens)
    entries: dict[str, tuple[Any, Any]] = {
        **{name: (values, np.empty(count, dtype=object)) for name, values in objects.items()},
        "score": (None, np.zeros(count, dtype=np.float64)),
        "score_parts": (None, {}),
        "token_rewards": (None, np.zeros(per_token, dtype=np.float32)),
    }
    if batch.conversations:
        talks = [batch.conversations[row] for row in rows.tolist()]
        turns = as_objects([tuple(talk.turns) for talk in talks])
        written = np.zeros(per_token, dtype=np.int8)
        for row, talk, length in zip(rows.tolist(), talks, lengths.tolist(), strict=True):
            written[row, :length] = talk.written(length)
        entries["turns"] = turns, np.empty(count, dtype=object)
        entries["written"] = None, written
    put(infos, batch, rows, entries)


def add_final(
    infos: dict[str, Any], batch: EpisodeBatch, rows: Rows, reasons: NDArray[np.object_]
) -> None:
    """Add ``final_obs`` and ``final_info`` of rows that are reset in the step they end in."""
    final: dict[str, Any] = {}
    add_terminal(final, batch, rows, reasons)
    add_action_masks(final, batch, rows)
    observations = [
        {"attention_mask": attention, "input_ids": ids}  # rows of fresh arrays: the gathers copy
        for attention, ids in zip(batch.attention[rows], batch.ids[rows], strict=True)
    ]
    empty = np.empty(batch.num_envs, dtype=object)
    entries = {"final_obs": (as_objects(observations), empty), "final_info": (None, final)}
    put(infos, batch, rows, entries)


class PadTokenRewards(gymnasium.Wrapper[ObsType, ActType, ObsType, ActType], RecordConstructorArgs):
    """Pads the terminal info's values per token (`token_rewards`) with zeros to ``max_new_tokens``.

    For batches other than Gymnasium's, which need no wrapper, that stack arrays of one shape.
    """

    def __init__(self, env: gymnasium.Env[ObsType, ActType]) -> None:
        """Wrap a `TokenGenerationEnv`, itself wrapped or not."""
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        self._width = int(env.get_wrapper_attr("max_new_tokens"))

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and pad the values per token where there are any."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info.update(_padded(info, self._width))
        return observation, reward, terminated, truncated, info
