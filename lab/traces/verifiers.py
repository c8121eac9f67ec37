"""What verifiers and prime-rl write: graphs of messages with their tokens, and results of texts."""

from collections.abc import Mapping
from typing import Any

from tokengym.bridges import join_messages
from tokengym.lab.traces.record import Record, number_of, rest_of, text_of

NAME = "a trace of verifiers or prime-rl, or verifiers' results.jsonl"
RESULT = {"example_id", "prompt", "completion", "reward"}
"""Columns of each row of results.jsonl."""


def read(row: Mapping[str, Any]) -> Record | None:
    """Return a row's record, None if it is of another format.

    ``mask`` tells the sampled tokens, ``logprobs`` and ``advantages`` have an entry for each of
    these alone. The response of a row of results.jsonl is what the assistant said, a line for each
    message; calls of tools and their results are left out.
    """
    if row.keys() >= RESULT:
        return _of_result(row)
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
    values = [_value(reward) for reward in (row.get("rewards") or {}).values()]
    told = [value for value in values if value is not None]
    score = row.get("reward", told or None)
    return Record(
        **said._asdict(),
        log_probs=_spread(nodes, "logprobs", said.written),
        paid=_spread(nodes, "advantages", said.written),
        score=number_of(score),
    )


def _of_result(row: Mapping[str, Any]) -> Record:
    said, info = row["completion"], row.get("info")
    if isinstance(said, list):
        said = [m for m in said if isinstance(m, dict) and m.get("role") == "assistant"]
    answer = row.get("answer")
    return Record(
        prompt=text_of(row["prompt"]),
        response=text_of(said),
        score=number_of(row["reward"]),
        reference=None if answer is None else str(answer),
        columns={
            **(rest_of(info) if isinstance(info, dict) else {}),
            **rest_of(row, "prompt", "completion", "reward"),
        },
    )


def _value(reward: Any) -> float | None:
    """Return what a reward adds to the score: a record has its score and weight, not the product.

    None stands for a function that did not run.
    """
    if not isinstance(reward, dict):
        return number_of(reward)
    if "value" in reward:
        return number_of(reward["value"])
    return None if reward.get("score") is None else reward["score"] * reward.get("weight", 1.0)


def _spread(nodes: list[Any], name: str, written: list[int]) -> list[float] | None:
    """Return figures of the sampled tokens, (time,), 0 elsewhere; None if they are not there."""
    given = iter([float(v) for node in nodes for v in node.get(name) or ()])
    found = [next(given, None) if own else 0.0 for own in written]
    if None in found or next(given, None) is not None:
        return None
    return [float(value) for value in found if value is not None]
