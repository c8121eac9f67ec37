"""Conversations with all that a row of data says of them, and how they are written out as text."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from tokengym.base.errors import PromptError

Messages = Sequence[Mapping[str, Any]]
"""A conversation in the form of `transformers`: {"role": ..., "content": ...} each, with what else
a chat template reads of a message ("tool_calls", "tool_call_id", "name", "reasoning_content")."""

ROW_FIELDS = ("tools", "documents", "chat_template_kwargs")
"""Columns beside the messages that a chat template reads."""

MAX_DEPTH = 100
"""Most lists and mappings inside each other in a conversation."""

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_SPEAKERS = {"user": "Human", "assistant": "Assistant"}


class Chat(Sequence[dict[str, Any]]):
    """An immutable conversation: its messages, and what its row says beside them.

    A sequence of messages, each of which is a copy that may be changed.

    Args:
        messages: {"role": ..., "content": ...} each, oldest first. Entries that are None are left
            out, which is how tables fill messages that lack them.
        tools: Descriptions of functions, as mappings or the JSON of their list.
        documents: Texts to answer from, as mappings.
        chat_template_kwargs: Further arguments of the chat template, such as ``enable_thinking``.

    Raises:
        PromptError: if a message is not of this form, or something cannot be written as JSON or is
            nested deeper than `MAX_DEPTH`.

    Example:
        >>> chat = Chat([{"role": "user", "content": "Why?"}])
        >>> len(chat), chat[0]["role"], chat.text
        (1, 'user', 'Why?')
    """

    __slots__ = ("_json", "_size")

    def __init__(
        self,
        messages: Messages = (),
        *,
        tools: Sequence[Mapping[str, Any]] | str | None = None,
        documents: Sequence[Mapping[str, Any]] | str | None = None,
        chat_template_kwargs: Mapping[str, Any] | str | None = None,
    ) -> None:
        talk = [as_message(position, item) for position, item in enumerate(messages)]
        given = zip(ROW_FIELDS, (tools, documents, chat_template_kwargs), strict=True)
        read = {name: _beside(name, value) for name, value in given}
        beside = {name: value for name, value in read.items() if value}
        for name, value in (("messages", talk), *beside.items()):
            if _is_deep(value):
                raise _nested(name)
        try:
            self._json = json.dumps([talk, beside], ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise PromptError(
                f"a conversation must hold texts, numbers, lists and mappings alone ({error}); "
                f"convert the rest, got {reprlib.repr([*messages])}"
            ) from None
        self._size = len(talk)

    @classmethod
    def of_row(cls, messages: Messages, row: Mapping[str, Any]) -> Chat:
        """Return the conversation of a row of data, with its columns `ROW_FIELDS`."""
        return cls(messages, **{name: row.get(name) for name in ROW_FIELDS})

    @classmethod
    def of_text(cls, text: str) -> Chat:
        """Return a text as the user's message, a written-out dialogue turn by turn.

        One that ends with an answer is a message of the user's: no turn of it is left out.
        """
        turns, answer = read_transcript(text) or ([], None)
        is_open = bool(turns) and answer is None
        return cls(turns if is_open else [{"role": "user", "content": text}])

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All messages, copied."""
        messages: list[dict[str, Any]] = json.loads(self._json)[0]
        return messages

    @property
    def beside(self) -> dict[str, Any]:
        """Tools, documents and arguments of the template by the names of `ROW_FIELDS`."""
        beside: dict[str, Any] = json.loads(self._json)[1]
        return beside

    @property
    def text(self) -> str:
        """The conversation as text, which readers without a chat template read.

        One message is its content. Several are written out as in HH-RLHF, a paragraph each, up to
        the beginning of the assistant's answer.
        """
        messages = self.messages
        if len(messages) == 1:
            return str(messages[0]["content"])
        parts = [_written_out(message, at_start=not n) for n, message in enumerate(messages)]
        return "\n\n".join([*parts, "Assistant: "])

    def then(self, messages: Messages) -> Chat:
        """Return the conversation continued."""
        return Chat([*self.messages, *messages], **self.beside)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: Any) -> Any:
        return self.messages[index]

    def __eq__(self, other: object) -> bool:
        return self._json == other._json if isinstance(other, Chat) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._json)

    def __repr__(self) -> str:
        beside = "".join(f", {name}={value!r}" for name, value in self.beside.items())
        return f"Chat({self.messages!r}{beside})"

    def to_record(self) -> dict[str, Any]:
        """Return it as plain data, which `of_record` reads."""
        return {"messages": self.messages, **self.beside}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Chat:
        """Return the conversation of what `to_record` returned, or of a record without one."""
        return cls.of_row(record.get("messages") or (), record)


def text_of(message: Mapping[str, Any]) -> str:
    """Return what a message says as text: its content, and its calls of tools as JSON."""
    calls = [json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return "\n".join([*filter(None, [str(message["content"])]), *calls])


def _written_out(message: Mapping[str, Any], *, at_start: bool) -> str:
    """Return a message as a paragraph; a system's at the start needs no name."""
    role = message["role"]
    if at_start and role == "system":
        return text_of(message)
    return f"{_SPEAKERS.get(role, role.capitalize())}: {text_of(message)}"


def _beside(name: str, value: Any) -> Any:
    """Return what a row says beside its messages, which may be given as JSON."""
    try:
        parsed = json.loads(value) if isinstance(value, str) and value.strip() else value
    except ValueError as error:
        raise PromptError(
            f"{name} is a text that is no JSON ({error}), got {reprlib.repr(value)}; correct it"
        ) from None
    except RecursionError:
        raise _nested(name) from None
    is_one = name == "chat_template_kwargs"
    items = [parsed or {}] if is_one else parsed or []
    if not isinstance(items, list | tuple) or not all(isinstance(i, Mapping) for i in items):
        wanted = "a mapping" if is_one else "a list of mappings"
        raise PromptError(f"{name} must be {wanted}, or its JSON, got {reprlib.repr(value)}")
    if is_one:
        return {str(key): item for key, item in items[0].items() if item is not None}
    return [*items]


def _is_deep(value: Any) -> bool:
    """Return whether lists and mappings are nested deeper than `MAX_DEPTH`."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [[*v.values()] if isinstance(v, Mapping) else v for v in level]
        level = [inside for v in level if isinstance(v, list | tuple) for inside in v]
    return bool(level)


def _nested(name: str) -> PromptError:
    return PromptError(f"{name} has lists and mappings nested deeper than {MAX_DEPTH}; flatten it")


def is_messages(item: object) -> bool:
    """Return whether something is a conversation: a non-empty sequence of mappings."""
    return (
        isinstance(item, Sequence)
        and len(item) > 0
        and all(isinstance(message, Mapping) for message in item)
    )


def as_message(position: int, item: Any) -> dict[str, Any]:
    """Return a message, which may call tools and say nothing; a content's texts are joined.

    Example:
        >>> parts = [{"type": "text", "text": "Why"}, {"type": "text", "text": "?"}]
        >>> as_message(0, {"role": "user", "content": parts})
        {'role': 'user', 'content': 'Why?'}
    """
    if isinstance(item, Mapping):
        entries = {str(name): value for name, value in item.items() if value is not None}
        message = {"role": None, "content": None, **entries}  # in this order, whatever the data's
        message["content"] = _joined_parts(message["content"])
        if message["content"] is None and not message.keys() <= {"role", "content"}:
            message["content"] = ""
        if isinstance(message.get("role"), str) and isinstance(message["content"], str):
            return message
    raise PromptError(
        f"message {position} must be {{'role': str, 'content': str}}, got {reprlib.repr(item)}; a "
        "content may be in parts of type 'text'"
    )


def _joined_parts(content: Any) -> Any:
    """Return the text of a content in parts; anything else as it is."""
    if not is_messages(content) or any(part.get("type") != "text" for part in content):
        return content
    texts = [part.get("text") for part in content]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else content


def without_filled(value: Any) -> Any:
    """Return a value of a table without the None that Arrow gives mappings which lack a key."""
    if isinstance(value, Mapping):
        return {k: without_filled(v) for k, v in value.items() if v is not None}
    return [*map(without_filled, value)] if isinstance(value, list | tuple) else value


def read_transcript(text: str) -> tuple[list[dict[str, str]], str | None] | None:
    r"""Return a transcript's messages before the assistant's last turn, and that turn or None.

    Turns begin with "Human:" or "Assistant:" after an empty line; those of one speaker in a row are
    joined. A text that does not begin with a turn is None.

    Example:
        >>> read_transcript("\n\nHuman: Why?\n\nAssistant: Because.")
        ([{'role': 'user', 'content': 'Why?'}], 'Because.')
    """
    lead, *pieces = _TURN.split(text.strip())
    if lead or not pieces:
        return None
    messages: list[dict[str, str]] = []
    for speaker, turn in zip(pieces[::2], pieces[1::2], strict=True):
        role, content = _ROLES[speaker], turn.strip()
        if messages and messages[-1]["role"] == role:  # the data has turns written in two
            messages[-1]["content"] = f"{messages[-1]['content']}\n\n{content}".strip()
        else:
            messages.append({"role": role, "content": content})
    answer = messages.pop()["content"] if messages[-1]["role"] == "assistant" else None
    return messages, answer or None


NO_CHAT = Chat()
"""The conversation of a prompt that is a plain text."""
