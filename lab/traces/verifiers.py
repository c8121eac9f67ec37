"""Traces of verifiers and prime-rl: a graph of messages, each with its tokens."""

from collections.abc import Mapping
from typing import Any

from tokengym.bridges import join_messages
from tokengym.lab.traces.record import Record, number_of

NAME = "a trace of verifiers or prime-rl"


def read(row: Mapping[str, Any]) -> Record | None:
    """Return a row's record, None if it is of another format.

    ``mask`` tells the sampled tokens, ``logprobs`` and ``advantages`` have an entry for each of
    these alone.

    Raises:
        ValueError: if the trace branches, or has no tokens.
    """
    nodes = row.get("nodes")
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
        return None
    parents = [node.get("parent") for node in nodes]
    if any(parent not in (place - 1, None) for place, parent in enumerate(parents)):
        raise ValueError("the trace branches; write each branch as a trace of its own")
    said = join_messages((node.get("token_ids"), node.get("mask")) for node in nodes)
    if not said.response_ids:
        raise ValueError(
            f"none of the trace's {len(said.prompt_ids)} tokens is sampled; record it with tokens"
        )
    rewards = row.get("rewards") or {}
    values = [one.get("value") if isinstance(one, dict) else one for one in rewards.values()]
    score = row.get("reward")
    return Record(
        **said._asdict(),
        log_probs=_spread(nodes, "logprobs", said.written),
        paid=_spread(nodes, "advantages", said.written),
        score=number_of(score if score is not None else [v for v in values if v is not None]),
    )


def _spread(nodes: list[Any], name: str, written: list[int]) -> list[float] | None:
    """Return figures of the sampled tokens, (time,), 0 elsewhere; None if they are not there."""
    given = iter([float(v) for node in nodes for v in node.get(name) or ()])
    found = [next(given, None) if own else 0.0 for own in written]
    if None in found or next(given, None) is not None:
        return None
    return [float(value) for value in found if value is not None]
