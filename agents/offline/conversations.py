"""Rows whose responses are chat messages, written out by the tokenizer's template."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from tokengym.agents.offline.rows import EncodedRow, RowError, skipped_row
from tokengym.envs.errors import TokenizerError
from tokengym.envs.prompts.prompt import is_messages
from tokengym.envs.tokenization import encode_chats
from tokengym.rewards.pairs import SkippedRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokengym.agents.offline.encoding import TextEncoding

Messages = list[dict[str, str]]


def holds_conversations(table: Any, columns: Sequence[str]) -> bool:
    """Say whether the first row's responses are lists of messages."""
    first = table[0] if len(table) else None
    return isinstance(first, Mapping) and all(is_messages(first.get(name)) for name in columns)


def encode_conversations(
    table: Any,
    columns: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    encoding: "TextEncoding",
) -> Iterator[EncodedRow | SkippedRow]:
    """Return rows of messages as ids.

    Args:
        table: Rows with the columns, and maybe "prompt", messages or a user's text; without it the
            prompt is what all columns begin with.
        columns: Where the responses are.
        tokenizer: Whose chat template writes them out.
        encoding: Says whether a response that the template does not end gets EOS.
    """
    for number, row in enumerate(table):
        try:
            prompt, responses = _split(row, columns)
            yield _encoded(number, prompt, responses, tokenizer, encoding)
        except RowError as fault:
            yield skipped_row(number, fault)
        except TokenizerError as error:
            yield skipped_row(number, RowError("chat template", str(error)))


def _split(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[Messages, list[Messages]]:
    """Return the prompt's messages, and those that each response adds to them."""
    responses: list[Messages] = []
    for name in columns:
        if not is_messages(row.get(name)):
            raise RowError("not messages", f"{name!r} must be messages, got {row.get(name)!r}")
        responses.append(list(row[name]))
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}], responses
    if prompt is not None:
        if not is_messages(prompt):
            raise RowError("not messages", f"'prompt' must be messages, got {prompt!r}")
        return list(prompt), responses
    shared = len(responses[0]) - 1  # of a single conversation, all but the last message
    if len(responses) > 1:
        together = zip(*responses, strict=False)
        shared = sum(1 for _ in takewhile(lambda m: all(one == m[0] for one in m), together))
    if not shared or any(len(messages) <= shared for messages in responses):
        raise RowError(
            "no shared prompt",
            f"the conversations share their first {shared} messages, which leaves no prompt or no "
            "response",
        )
    return responses[0][:shared], [messages[shared:] for messages in responses]


def _encoded(
    number: int,
    prompt: Messages,
    responses: Sequence[Messages],
    tokenizer: "PreTrainedTokenizerBase",
    encoding: "TextEncoding",
) -> EncodedRow:
    pairs = [(message["role"], message["content"]) for message in prompt]
    (prompt_ids,) = encode_chats(tokenizer, [pairs])
    found = []
    for messages in responses:
        text = tokenizer.apply_chat_template([*prompt, *messages], tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if ids[: len(prompt_ids)] != prompt_ids:
            raise RowError(
                "chat template",
                "the chat template writes the prompt another way when a response follows, so the "
                "two cannot be told apart",
            )
        response = ids[len(prompt_ids) :]
        eos = tokenizer.eos_token_id
        if encoding.append_eos and eos is not None and eos not in response:
            response = [*response, eos]
        found.append(tuple(response))
    return EncodedRow(row=number, prompt_ids=tuple(prompt_ids), responses=tuple(found))
