"""Prompts that episodes start from, and the immutable set that an environment draws from."""

from __future__ import annotations

import logging
import operator
import reprlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, overload

from typing_extensions import Self

from tokengym.base.chat import NO_CHAT, Chat, Messages, is_messages
from tokengym.base.errors import PromptError
from tokengym.base.text import lone_surrogate

logger = logging.getLogger(__name__)

QueryType = Literal["OPENENDED", "CONSTRAINED"]


class Metadata(Mapping[str, Any]):
    """Further columns of a prompt's row. No ``dict``, which batches would spread over arrays."""

    def __init__(self, columns: Mapping[str, Any] | None = None) -> None:
        self._columns = dict(columns or {})

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return repr(self._columns)


NO_METADATA = Metadata()


@dataclass(frozen=True)
class Prompt:
    """One prompt with its data set's annotations.

    Raises:
        PromptError: if the text is empty, a text has a lone surrogate, or ``query_type`` is
            unknown.
    """

    text: str
    """The text that the policy continues."""
    reference: str | None = None
    """A reference answer."""
    query_type: QueryType | None = None
    """R3's annotation: "OPENENDED", "CONSTRAINED" or None."""
    metadata: Mapping[str, Any] = field(default_factory=lambda: NO_METADATA, hash=False)
    """Further columns of its row, for verifiers: `Episode.metadata`."""
    messages: Chat = NO_CHAT
    """The conversation, for a prompt made by `from_messages`; ``text`` is then its `Chat.text`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "metadata", Metadata(self.metadata))
        if not isinstance(self.text, str):
            raise TypeError(f"a prompt's text must be a str, got {self.text!r}; convert it first")
        if not self.text.strip():
            raise PromptError(f"a prompt must not be empty, got {self.text!r}; drop it or fill it")
        for text in (self.text, self.reference or ""):
            if (position := lone_surrogate(text)) is not None:
                raise PromptError(
                    f"a prompt must be Unicode text, got the lone surrogate {text[position]!r} at "
                    f"character {position}, which no tokenizer reads; read the text as UTF-8 again"
                )
        check_query_type(self.query_type, error=PromptError)

    @classmethod
    def from_messages(
        cls,
        messages: Messages,
        *,
        reference: str | None = None,
        query_type: QueryType | None = None,
        metadata: Mapping[str, Any] = NO_METADATA,
    ) -> Prompt:
        """Return a conversation as a prompt: the policy writes the next message.

        Args:
            messages: {"role": ..., "content": ...} each, oldest first; a `Chat` has tools and
                arguments of the template too.
            reference: A reference answer.
            query_type: R3's annotation.
            metadata: Further columns of its row.

        Raises:
            PromptError: if a message is not of this form, or the last one is the assistant's.

        Example:
            >>> Prompt.from_messages([{"role": "user", "content": "Why?"}]).text
            'Why?'
        """
        chat = messages if isinstance(messages, Chat) else Chat(messages)
        roles = [message["role"] for message in chat]
        if not roles or roles[-1] == "assistant":
            raise PromptError(
                f"a conversation must end before the assistant's turn, got the roles {roles}; the "
                "policy writes that turn"
            )
        if roles[-1] != "tool" and not chat[-1]["content"].strip():
            raise PromptError(
                f"a prompt must not be empty, got {chat[-1]['content']!r} as the last message; "
                "drop it or fill it"
            )
        return cls(chat.text, reference, query_type, metadata, chat)


def check_query_type(value: object, *, error: type[ValueError] = ValueError) -> None:
    """Raise an error if a value is no query type.

    Args:
        value: "OPENENDED", "CONSTRAINED" or None.
        error: Class of the error.
    """
    if value not in (None, *get_args(QueryType)):
        raise error(
            f"query_type must be 'OPENENDED', 'CONSTRAINED' or None, got {value!r}; None reads as "
            "OPENENDED"
        )


@dataclass(frozen=True, kw_only=True)
class PromptColumns(Sequence[Prompt]):
    """Prompts as checked columns, which take a fraction of the memory of `Prompt` objects."""

    texts: tuple[str, ...]
    """The texts."""
    references: Sequence[str | None] | None = None
    """(len(texts),) reference answers; None: none."""
    query_types: Sequence[Any] | None = None
    """(len(texts),) R3's annotations; None: none."""
    metadata: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """(len(texts),) values of each further column by name."""

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, position: Any) -> Any:
        return Prompt(
            self.texts[position],
            None if self.references is None else self.references[position],
            None if self.query_types is None else self.query_types[position],
            {name: values[position] for name, values in self.metadata.items()},
        )

    def select(self, positions: Sequence[int]) -> Self:
        """Return the prompts at some positions."""

        def chosen(values: Sequence[Any] | None) -> list[Any] | None:
            return None if values is None else [values[position] for position in positions]

        return replace(
            self,
            texts=tuple(chosen(self.texts) or ()),
            references=chosen(self.references),
            query_types=chosen(self.query_types),
            metadata={name: chosen(values) or [] for name, values in self.metadata.items()},
        )


class PromptSet(Sequence[Prompt]):
    """An immutable, non-empty sequence of prompts; a prompt's id is its position.

    Args:
        prompts: `Prompt` objects, plain strings, or conversations for `Prompt.from_messages`.

    Raises:
        PromptError: if the set is empty, or a prompt is (the message names its position).

    Example:
        >>> prompts = PromptSet(["Once upon", Prompt("Why?", query_type="OPENENDED")])
        >>> len(prompts), prompts[0].text, prompts[1].query_type
        (2, 'Once upon', 'OPENENDED')
    """

    def __init__(self, prompts: Iterable[str | Prompt | Messages]) -> None:
        # The order of a set is another in each process, and with it what a seed draws.
        # Of a mapping the keys alone would be taken.
        is_other = isinstance(prompts, str | set | frozenset | Mapping)
        if is_other or not isinstance(prompts, Iterable):
            raise TypeError(
                f"prompts must be a sequence of prompts, got {type(prompts).__name__} "
                f"{reprlib.repr(prompts)}; put them in a list, or name a file of them by dataset="
            )
        self._prompts: Sequence[Prompt] = tuple(
            _as_prompt(position, item) for position, item in enumerate(prompts)
        )
        self._check()

    @classmethod
    def of_columns(cls, columns: PromptColumns) -> Self:
        """Return the prompts of a table's columns, each of which is built when it is asked for."""
        prompts = cls.__new__(cls)
        prompts._prompts = columns
        prompts._check()
        return prompts

    def _check(self) -> None:
        if not self._prompts:
            raise PromptError("the prompt set is empty, 0 prompts; pass at least one")

    def __len__(self) -> int:
        return len(self._prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: int | slice) -> Prompt | Self:
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        return self._prompts[index]

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self._prompts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PromptSet):
            return NotImplemented
        if self is other:
            return True
        try:
            return len(self) == len(other) and all(map(operator.eq, self, other))
        except Exception:  # values of metadata need not compare: equal arrays have no one truth
            return False

    def __hash__(self) -> int:
        return hash(self.texts)

    def __repr__(self) -> str:
        first = reprlib.repr(self._prompts[0].text)
        return f"PromptSet({len(self)} prompts, the first {first})"

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts' texts, in order."""
        if isinstance(self._prompts, PromptColumns):
            return self._prompts.texts
        return tuple(prompt.text for prompt in self._prompts)

    @property
    def num_conversations(self) -> int:
        """How many of the prompts are conversations."""
        if isinstance(self._prompts, PromptColumns):
            return 0
        return sum(bool(prompt.messages) for prompt in self._prompts)

    def select(self, positions: Sequence[int]) -> Self:
        """Return the prompts at some positions, at least one, in the order of these."""
        if isinstance(self._prompts, PromptColumns):
            return self.of_columns(self._prompts.select(positions))
        return type(self)(self._prompts[position] for position in positions)

    def with_texts(self, texts: Sequence[str]) -> Self:
        """Return the prompts with other texts, (len(self),), in the same order."""
        if len(texts) != len(self):
            raise PromptError(f"texts must be {len(self)}, one a prompt, got {len(texts)}")
        if isinstance(self._prompts, PromptColumns):
            for text in texts:
                if not text or text.isspace():
                    Prompt(text)  # refuses it
            return self.of_columns(replace(self._prompts, texts=tuple(texts)))
        pairs = zip(self._prompts, texts, strict=True)
        return type(self)(replace(prompt, text=text) for prompt, text in pairs)


def _as_prompt(position: int, item: Any) -> Prompt:
    """Return ``item`` as a `Prompt`, naming its position if it is invalid."""
    if isinstance(item, Prompt):
        return item
    if is_messages(item):
        return Prompt.from_messages(item)
    if not isinstance(item, str):
        raise TypeError(
            f"prompt {position} must be a str or a Prompt, got {type(item).__name__}; convert it "
            "(a conversation is a list of messages)"
        )
    try:
        return Prompt(item)
    except PromptError as error:
        raise PromptError(f"prompt {position}: {error}") from None


def say_shared(trained: Iterable[Hashable], held_out: Sequence[Hashable]) -> None:
    """Warn where rows that are held out have prompts that are learned from.

    Args:
        trained: Prompts, or whole rows without one, that are learned from.
        held_out: Those that the model is measured on.
    """
    known = set(trained)
    if shared := sum(one in known for one in held_out):
        logger.warning(
            "%d of %d held-out rows have a prompt that is learned from, which flatters the "
            "model; take such rows out of one of the two",
            shared,
            len(held_out),
        )
