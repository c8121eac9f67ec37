"""Dialogues written out as one text, in the manner of Anthropic's HH-RLHF data."""

from __future__ import annotations

import re

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def read_transcript(text: str) -> tuple[list[dict[str, str]], str | None] | None:
    r"""Return a transcript's messages before the assistant's last turn, and that turn.

    Args:
        text: Turns that begin with "Human:" or "Assistant:", each after an empty line; turns of
            the same speaker in a row are one.

    Returns:
        The messages, and the assistant's answer to them (None if it is the user's turn to be
        answered, or the answer is empty). None for a text that does not begin with a turn.

    Example:
        >>> read_transcript("\n\nHuman: Why?\n\nAssistant: Because.")
        ([{'role': 'user', 'content': 'Why?'}], 'Because.')
    """
    lead, *pieces = _TURN.split(text.strip())
    if lead or not pieces:
        return None
    messages: list[dict[str, str]] = []
    for speaker, said in zip(pieces[::2], pieces[1::2], strict=True):
        role, content = _ROLES[speaker], said.strip()
        if messages and messages[-1]["role"] == role:  # the data has turns written in two
            messages[-1]["content"] = f"{messages[-1]['content']}\n\n{content}".strip()
        else:
            messages.append({"role": role, "content": content})
    answer = messages.pop()["content"] if messages[-1]["role"] == "assistant" else None
    return messages, answer or None


def prompt_messages(text: str) -> list[tuple[str, str]]:
    r"""Return the turns of a written-out dialogue as (role, content), or a text as the user's turn.

    Args:
        text: A prompt as data sets write it.

    Example:
        >>> prompt_messages("\n\nHuman: Why?\n\nAssistant:")
        [('user', 'Why?')]
        >>> prompt_messages("Why?")
        [('user', 'Why?')]
    """
    found = read_transcript(text)
    if found is None:
        return [("user", text)]
    return [(message["role"], message["content"]) for message in found[0]]
