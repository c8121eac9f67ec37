"""Rounds of several processes as one round, row after row."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tokengym.agents.policy.sequences import IN_ANOTHER_PROCESS, ActionMasks, few_forbidden
from tokengym.agents.rollouts.playing import TENSORS, RolloutBatch


def joined(rounds: Sequence[RolloutBatch]) -> RolloutBatch:
    """Return rounds on the CPU as one, row after row."""
    rows = [len(played.episodes) for played in rounds]
    time = max(len(e.response_ids) for played in rounds for e in played.episodes)
    tensors: dict[str, Any] = {}
    for name in TENSORS:  # (rows, own time) each -> (batch, time)
        parts: list[Any] = [getattr(played, name) for played in rounds]
        is_known = parts[0] is not None
        padded = [F.pad(part, (0, time - part.shape[1])) for part in parts if is_known]
        tensors[name] = torch.cat(padded) if is_known else None
    return RolloutBatch(
        episodes=tuple(episode for played in rounds for episode in played.episodes),
        truncated=np.concatenate([played.truncated for played in rounds]),
        action_masks=joined_masks([played.action_masks for played in rounds], rows, time),
        **tensors,
    )


def moved(played: RolloutBatch, device: torch.device | str) -> RolloutBatch:
    """Return a round with its tensors on a device."""
    tensors: dict[str, Any] = {}
    for name in ("action_masks", *TENSORS):
        if (given := getattr(played, name)) is not None:
            tensors[name] = given.to(device)
    return replace(played, **tensors)


def joined_masks(
    parts: Sequence[ActionMasks | None], rows: Sequence[int], time: int
) -> ActionMasks | None:
    """Return the masks of several batches as those of one.

    Args:
        parts: Their masks on the CPU; None where all tokens are allowed.
        rows: Rows of each.
        time: Longest response of all.
    """
    first = next((part for part in parts if part is not None), None)
    if first is None:
        return None
    tables, indices, before = [], [], 0
    for part, count in zip(parts, rows, strict=True):
        table = torch.ones_like(first.table[:1]) if part is None else part.table
        index = torch.zeros(count, time, dtype=torch.int64)
        if part is not None:
            index[:, : part.index.shape[1]] = part.index
        tables.append(table)
        indices.append(index + before)
        before += len(table)
    table, index = torch.cat(tables), torch.cat(indices)
    if first.vocab_size:  # every step has a mask of its own
        return ActionMasks(table=table, index=index, vocab_size=first.vocab_size)
    # Processes have the same few masks, in orders of their own: each is kept once again.
    table, places = table.unique(dim=0, return_inverse=True)
    return ActionMasks(table=table, index=places[index], columns=few_forbidden(table))


def masks_among(masks: ActionMasks, before: int, rows: int, time: int) -> ActionMasks:
    """Return masks as those of some rows of a larger batch; the others' are elsewhere.

    Args:
        masks: The masks of some rows.
        before: Rows of the batch before these.
        rows: Rows of the batch.
        time: Longest response of the batch.
    """
    index = masks.index.new_full((rows, time), IN_ANOTHER_PROCESS)
    here = index[before : before + len(masks.index)]
    here[:] = 0
    here[:, : masks.index.shape[1]] = masks.index
    return replace(masks, index=index, has_all=False)
