"""What a reader finds in one row of another trainer's file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Record:
    """A prompt and what followed it, as text or as tokens, and what the trainer knew of it."""

    prompt: str | None = None
    """Text of the prompt; None where there are only tokens."""
    response: str | None = None
    """Text of the response; None where there are only tokens."""
    prompt_ids: Sequence[int] | None = None
    """Tokens of the prompt, which are never encoded again; None where there is only text."""
    response_ids: Sequence[int] | None = None
    """Tokens after the prompt, those of tools and users included."""
    written: Sequence[int] | None = None
    """(time,) 1 at each response token that the policy wrote; None where it wrote all."""
    log_probs: Sequence[float] | None = None
    """(time,) nats, as sampled; 0 at what the policy did not write."""
    paid: Sequence[float] | float | None = None
    """Rewards or advantages that the trainer gave the tokens, (time,), or gave all of them."""
    score: float | None = None
    """Score of the whole, reward units."""
    reference: str | None = None
    """Ground truth."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What else the row has, for a scoring function that names it."""


def text_of(said: object) -> str | None:
    """Return a text, or what the messages of a conversation say, a line each; None of others."""
    if said is None or isinstance(said, str):
        return said
    if not isinstance(said, (list, tuple)):
        return None
    lines = []
    for message in said:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            parts = (p.get("text", "") for p in content if isinstance(p, dict))
            content = "".join(parts)
        if isinstance(content, str) and content:
            lines.append(content)
    return "\n".join(lines)


def number_of(value: object) -> float | None:
    """Return a number, or the sum of numbers, as scores are stored; None of others."""
    if isinstance(value, bool) or value is None:
        return None if value is None else float(value)
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, (list, tuple)) and all(isinstance(one, (int, float)) for one in value):
        return float(sum(value))
    return None


def rest_of(row: Mapping[str, Any], *known: str) -> dict[str, Any]:
    """Return the columns of a row that are texts or numbers, but for those that are known."""
    kinds = (str, int, float, bool)
    return {n: value for n, value in row.items() if n not in known and isinstance(value, kinds)}
