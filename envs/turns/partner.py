"""Turns of a conversation, and partners: the other side, which answers each turn of the policy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokengym.base.chat import Messages
from tokengym.base.errors import SettingsError
from tokengym.base.registry import Registry

POLICY = "assistant"
"""Role of the policy's turns."""


class Turn(NamedTuple):
    """A turn of the policy, or a reply to one."""

    role: str
    """"assistant" for the policy, else the partner's role."""
    text: str
    """Its text, special tokens left out."""
    span: tuple[int, int]
    """Its tokens are ``response_ids[span[0]:span[1]]``; those of a reply include what the chat
    template writes around it. A reply that was not appended, because the conversation was over,
    has none."""
    score: float | None = None
    """The score that the partner gave the policy's turn, if it gave one."""


def written_mask(turns: Sequence[Turn], size: int) -> NDArray[np.int8]:
    """Return which tokens the policy wrote, (size,) int8: 1 at its turns, 0 elsewhere."""
    written = np.zeros(size, dtype=np.int8)
    for turn in turns:
        if turn.role == POLICY:
            written[slice(*turn.span)] = 1
    return written


@dataclass(frozen=True)
class Reply:
    """A partner's answer to a turn."""

    text: str
    """Text of the reply; it may be empty where ``done``."""
    score: float | None = None
    """Score of the policy's turn that is answered; None has none."""
    done: bool = False
    """Whether the conversation is over. The text is then recorded and not appended."""


class Partner:
    """Base of partners: a tool, a game, a user.

    A partner holds nothing of an episode. What it answers follows from the conversation and the
    generator alone, so that episodes can be forked at any token.
    """

    name: str = ""
    """Name in messages; empty takes the class's."""
    role: str = "user"
    """Role of the replies, in ``turns`` and in the chat template."""

    def reply(
        self, conversation: Messages, metadata: Mapping[str, Any], rng: np.random.Generator
    ) -> Reply:
        """Answer the policy's last turn.

        Args:
            conversation: {"role": ..., "content": ...} each, oldest first: the prompt's messages
                (a plain text is one message of the user), then the turns so far.
            metadata: Further columns of the prompt's row.
            rng: Generator of this turn. It is the same whenever the episode is at this turn.
        """
        raise NotImplementedError(f"{type(self).__name__} must define reply()")

    def replies(
        self,
        conversations: Sequence[Messages],
        metadatas: Sequence[Mapping[str, Any]],
        rngs: Sequence[np.random.Generator],
    ) -> list[Reply]:
        """Answer several conversations at once; a partner with a model overrides it."""
        return [self.reply(*row) for row in zip(conversations, metadatas, rngs, strict=True)]


class _Function(Partner):
    """A function, or an object with a method ``reply``."""

    def __init__(self, value: Any) -> None:
        self.value = value
        answer = getattr(value, "reply", value)
        self.name = getattr(value, "name", "") or getattr(value, "__name__", type(value).__name__)
        self.role = getattr(value, "role", Partner.role)
        self.reply = answer  # type: ignore[method-assign]
        if callable(several := getattr(value, "replies", None)):
            self.replies = several  # type: ignore[method-assign]


PARTNERS: Registry[Callable[..., Any]] = Registry(
    "partner", group="partners", from_files=True, bare="id"
)
"""All partners by name: classes and functions."""


def as_partner(value: Any) -> Partner:
    """Return a partner of a name, an object with a method ``reply``, or a function.

    Example:
        >>> as_partner(lambda conversation, metadata, rng: Reply("Why?")).role
        'user'
    """
    partner = PARTNERS.make(value) if isinstance(value, str) else value
    if not isinstance(partner, Partner):
        if isinstance(partner, type) or not callable(getattr(partner, "reply", partner)):
            raise TypeError(
                f"partner must have a method reply(conversation, metadata, rng), got {partner!r}; "
                "pass a Partner, a function or a name"
            )
        partner = _Function(partner)
    _check_takes(partner, "replies" if answers_many(partner) else "reply")
    if partner.role == POLICY:
        raise SettingsError(
            f"partner {name_of(partner)!r} has role={POLICY!r}, the policy's; use 'user', or "
            "'tool' where the chat template knows it"
        )
    return partner


def _check_takes(partner: Partner, method: str) -> None:
    """Refuse a partner that could not be asked: its first turn would fail."""
    names = [*inspect.signature(getattr(Partner, method)).parameters][1:]  # without self
    try:
        signature = inspect.signature(getattr(partner, method))
    except (TypeError, ValueError):  # code in C may have none
        return
    try:
        signature.bind(*names)
    except TypeError:
        raise SettingsError(
            f"partner {name_of(partner)!r} must take ({', '.join(names)}), got "
            f"({', '.join(signature.parameters)}); add what it lacks"
        ) from None


def answers_many(partner: Partner) -> bool:
    """Return whether a partner has a method of its own for several conversations."""
    return "replies" in vars(partner) or type(partner).replies is not Partner.replies


def name_of(partner: Partner) -> str:
    """Return a partner's name, its class's if it does not say."""
    return partner.name or type(partner).__name__
