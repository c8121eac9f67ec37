"""Prompts: what an episode starts from, and the immutable set of them an environment draws from."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from tokengym.envs.episode import QueryType
from tokengym.envs.errors import PromptError


@dataclass(frozen=True)
class Prompt:
    """One prompt and what its data set knows about it.

    Raises:
        PromptError: if the text is empty or ``query_type`` is unknown.
    """

    text: str
    """What the policy continues."""
    reference: str | None = None
    """A reference answer."""
    query_type: QueryType | None = None
    """R3's annotation: "OPENENDED", "CONSTRAINED" or None."""

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"a prompt's text must be a str, got {self.text!r}; convert it first")
        if not self.text.strip():
            raise PromptError(f"a prompt must not be empty, got {self.text!r}; drop it or fill it")
        if self.query_type not in (None, "OPENENDED", "CONSTRAINED"):
            raise PromptError(
                f"query_type must be 'OPENENDED', 'CONSTRAINED' or None, got {self.query_type!r}; "
                "None reads as OPENENDED"
            )


class PromptSet(Sequence[Prompt]):
    """An immutable, non-empty sequence of prompts; a prompt's id is its position.

    Args:
        prompts: `Prompt` objects, or plain strings.

    Raises:
        PromptError: if there are none, or one is empty (the message names its position).

    Example:
        >>> prompts = PromptSet(["Once upon", Prompt("Why?", query_type="OPENENDED")])
        >>> len(prompts), prompts[0].text, prompts[1].query_type
        (2, 'Once upon', 'OPENENDED')
    """

    def __init__(self, prompts: Iterable[str | Prompt]) -> None:
        if isinstance(prompts, str):
            raise TypeError(
                f"prompts must be a sequence of prompts, got one str {prompts!r}; put it in a list"
            )
        self._prompts = tuple(_as_prompt(position, item) for position, item in enumerate(prompts))
        if not self._prompts:
            raise PromptError("the prompt set is empty, 0 prompts; pass at least one")

    def __len__(self) -> int:
        return len(self._prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...

    @overload
    def __getitem__(self, index: slice) -> PromptSet: ...

    def __getitem__(self, index: int | slice) -> Prompt | PromptSet:
        if isinstance(index, slice):
            return PromptSet(self._prompts[index])
        return self._prompts[index]

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self._prompts)

    def __eq__(self, other: object) -> bool:
        return self._prompts == other._prompts if isinstance(other, PromptSet) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.texts)

    def __repr__(self) -> str:
        first = reprlib.repr(self._prompts[0].text)
        return f"PromptSet({len(self)} prompts, the first {first})"

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts' texts, in order."""
        return tuple(prompt.text for prompt in self._prompts)


def _as_prompt(position: int, item: str | Prompt) -> Prompt:
    """Return ``item`` as a `Prompt`, naming its position when it cannot be one."""
    if isinstance(item, Prompt):
        return item
    if not isinstance(item, str):
        raise TypeError(
            f"prompt {position} must be a str or a Prompt, got {type(item).__name__}; convert it"
        )
    if not item.strip():
        raise PromptError(f"prompt {position} is empty, got {item!r}; drop it or fill it")
    return Prompt(item)
