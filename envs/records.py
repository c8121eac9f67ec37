"""Episodes as plain data: what a line of ``episodes.jsonl`` says, and reading it back."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokengym.envs.episode import Episode

OPTIONAL = ("reference", "query_type", "score", "token_rewards", "log_probs", "finish_reason")


def episode_to_record(episode: Episode) -> dict[str, Any]:
    """Return an episode as JSON knows it; all but ``metadata``, which may be anything.

    Args:
        episode: Played or not; what it does not know is None.
    """
    rewards, log_probs = episode.token_rewards, episode.log_probs
    return {
        "prompt": episode.prompt,
        "response": episode.response,
        "prompt_ids": list(map(int, episode.prompt_ids)),
        "response_ids": list(map(int, episode.response_ids)),
        "reference": episode.reference,
        "query_type": episode.query_type,
        "score": None if episode.score is None else float(episode.score),
        "score_parts": {name: float(part) for name, part in episode.score_parts.items()},
        "token_rewards": None if rewards is None else rewards.tolist(),
        "log_probs": None if log_probs is None else log_probs.tolist(),
        "finish_reason": episode.finish_reason,
    }


def episode_from_record(
    record: Mapping[str, Any], *, prompt_ids: Sequence[int] | None = None
) -> Episode:
    """Return the episode of a record; fields it lacks are None, others it has are left alone.

    Args:
        record: As `episode_to_record` makes it.
        prompt_ids: For records that were written without them.

    Raises:
        ValueError: if prompt, response or their ids are missing, or a field is of a wrong kind.
    """
    known = dict(record)
    if known.get("prompt_ids") is None and prompt_ids is not None:
        known["prompt_ids"] = prompt_ids
    needed = ("prompt", "response", "prompt_ids", "response_ids")
    missing = [name for name in needed if known.get(name) is None]
    if missing:
        raise ValueError(
            f"a stored episode needs {', '.join(needed)}; this one lacks {', '.join(missing)}"
        )
    given: dict[str, Any] = {name: known.get(name) for name in (*needed, *OPTIONAL)}
    try:
        return Episode(
            **given,
            score_parts=dict(known.get("score_parts") or {}),
        )
    except TypeError as error:
        raise ValueError(
            f"a stored episode has a field of a wrong kind ({error}); write it as "
            "episode_to_record does"
        ) from error
