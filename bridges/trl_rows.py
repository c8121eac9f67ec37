"""What TRL's trainers hand over beside tokens: prompts, and the columns of their data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokengym.base.chat import ROW_FIELDS, Chat
from tokengym.bridges.doors import OF_SCORER

NO_SCORER: Mapping[str, str] = {
    name: "pass TokenCreditGRPOTrainer(scorer=...), whose scorer says it" for name in OF_SCORER
}
"""Names that TRL's reward functions do not give, with what does."""


def columns_of(data: Any) -> frozenset[str]:
    """Return the columns of a data set, but the prompt."""
    names = getattr(data, "column_names", None) or ()
    return frozenset(names) - {"prompt"}


def read_prompt(prompt: Any, row: Mapping[str, Any]) -> str | Chat:
    """Return a prompt as a text or conversation, of whose contents texts alone are scored.

    Args:
        prompt: As TRL has it.
        row: Its columns, of which those that belong to a conversation are read with it.
    """
    if isinstance(prompt, str):
        return prompt
    said = []
    for message in prompt:
        content = message.get("content") or ""  # a message that only calls tools says nothing
        if not isinstance(content, str):
            content = "".join(part["text"] for part in content if part.get("type") == "text")
        said.append({**message, "content": content})
    return Chat.of_row(said, {name: row[name] for name in ROW_FIELDS if name in row})
