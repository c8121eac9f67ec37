"""Reading the infos of a batched environment."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tokengym.envs.episode import Episode

_KEYS = (
    "prompt",
    "prompt_ids",
    "reference",
    "query_type",
    "response",
    "response_ids",
    "score",
    "finish_reason",
)


def episodes_from_infos(infos: Mapping[str, Any]) -> dict[int, Episode]:
    """Return the episodes that ended in a step of a batched environment, by row.

    Works in every autoreset mode, over the native batch and over ``SyncVectorEnv``: in SAME_STEP
    mode the terminal infos are in ``infos["final_info"]``, else in ``infos`` itself.

    Args:
        infos: What ``envs.step`` returned last.

    Returns:
        row -> episode; empty when no row ended.
    """
    source = infos.get("final_info", infos)
    ended = source.get("_finish_reason")
    if ended is None:
        return {}
    return {int(row): _episode(source, row) for row in np.flatnonzero(ended)}


def _episode(infos: Mapping[str, Any], row: int) -> Episode:
    """Return one row's episode."""
    info = {key: infos[key][row] for key in _KEYS}
    parts = infos["score_parts"]
    info["score_parts"] = {
        name: float(parts[name][row])
        for name in parts
        if not name.startswith("_") and parts[f"_{name}"][row]
    }
    info["token_rewards"] = infos["token_rewards"][row][: len(info["response_ids"])]
    return Episode.from_info(info)
