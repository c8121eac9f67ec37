"""A prompt that is too long, cut once to another prompt, which is what everyone reads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tokengym.base.chat import Chat
from tokengym.base.prompt import Prompt
from tokengym.envs.prompts.tokenization import decode, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def without_beginning(
    prompt: Prompt, tokenizer: PreTrainedTokenizerBase, count: int
) -> Prompt | None:
    """Return a prompt without about ``count`` tokens of its beginning; None where none is left.

    It is encoded again as any prompt is, so that what its tokenizer, its template or a frame put
    before it stays. A conversation loses its oldest messages whole, but for the system's; the last
    one is cut as a text is.
    """
    messages = prompt.messages.messages
    if not messages:
        text = _last_part(prompt.text, tokenizer, count)
        return replace(prompt, text=text) if text.strip() else None
    first = int(messages[0]["role"] == "system")
    begun, rest = messages[:first], messages[first:]
    if len(rest) > 1:
        users = (n for n in range(1, len(rest)) if rest[n]["role"] == "user")
        rest = rest[next(users, len(rest) - 1) :]
    elif rest and (text := _last_part(rest[0]["content"], tokenizer, count)).strip():
        rest = [{**rest[0], "content": text}]
    else:
        return None
    return Prompt.from_messages(
        Chat([*begun, *rest], **prompt.messages.beside),
        reference=prompt.reference,
        query_type=prompt.query_type,
        metadata=prompt.metadata,
    )


def _last_part(text: str, tokenizer: PreTrainedTokenizerBase, count: int) -> str:
    """Return the characters of a text behind its first tokens; at least one character is gone."""
    (tokens,) = tokenize(tokenizer, [text], spans=tokenizer.is_fast)
    if not tokenizer.is_fast:
        return decode(tokenizer, [tokens.ids[count:]])[0]
    return text[next((start for start, _ in tokens.spans[count:] if start), len(text)) :]
