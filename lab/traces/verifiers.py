"""Traces of verifiers and prime-rl: a graph of messages, each with its tokens."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

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
    ids = [*chain.from_iterable(node.get("token_ids") or () for node in nodes)]
    masks = (node.get("mask") or [0] * len(node.get("token_ids") or ()) for node in nodes)
    mask = [int(own) for own in chain.from_iterable(masks)]
    if not any(mask) or len(mask) != len(ids):
        raise ValueError(
            f"the trace has {len(ids)} tokens, {sum(mask)} of them sampled; record it with tokens"
        )
    first = mask.index(1)
    rewards = row.get("rewards") or {}
    values = [one.get("value") if isinstance(one, dict) else one for one in rewards.values()]
    score = row.get("reward")
    return Record(
        prompt_ids=ids[:first],
        response_ids=ids[first:],
        written=mask[first:],
        log_probs=_spread(nodes, "logprobs", mask[first:]),
        paid=_spread(nodes, "advantages", mask[first:]),
        score=number_of(score if score is not None else [v for v in values if v is not None]),
    )


def _spread(nodes: list[Any], name: str, written: list[int]) -> list[float] | None:
    """Return figures of the sampled tokens, (time,), 0 elsewhere; None if they are not there."""
    given = iter([float(v) for node in nodes for v in node.get(name) or ()])
    found = [next(given, None) if own else 0.0 for own in written]
    if None in found or next(given, None) is not None:
        return None
    return [float(value) for value in found if value is not None]
