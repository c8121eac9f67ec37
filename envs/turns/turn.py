"""One message of a conversation, as terminal infos and episodes hold it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    """Return which tokens the policy wrote.

    Args:
        turns: The conversation.
        size: Tokens after the prompt.

    Returns:
        (size,) int8: 1 at the tokens of the policy's turns, 0 elsewhere.

    Example:
        >>> written_mask([Turn("assistant", "a b", (0, 2)), Turn("user", "c", (2, 3))], 3).tolist()
        [1, 1, 0]
    """
    written = np.zeros(size, dtype=np.int8)
    for turn in turns:
        if turn.role == POLICY:
            written[slice(*turn.span)] = 1
    return written
