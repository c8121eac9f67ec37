"""Tokens of conversations as trainers store them, joined with a mask of what the policy wrote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple


class Conversation(NamedTuple):
    """A prompt and all that followed it."""

    prompt_ids: list[int]
    """Tokens of the prompt."""
    response_ids: list[int]
    """Tokens after it, those of tools and users included."""
    written: list[int]
    """(time,) 1 at each response token that the policy wrote."""


def join_messages(
    messages: Iterable[tuple[Sequence[int] | None, Sequence[int] | None]],
) -> Conversation:
    """Return messages one after another; the response begins with the first token of the policy.

    Args:
        messages: Tokens of each message and a mask that is 1 at those that the policy wrote; a
            message without a mask has none of them.

    Raises:
        ValueError: if a mask is not as long as its message.

    Example:
        >>> join_messages([([5, 6], None), ([7, 8], [1, 1]), ([9], [0])])
        Conversation(prompt_ids=[5, 6], response_ids=[7, 8, 9], written=[1, 1, 0])
    """
    parts = [(list(ids or ()), list(mask or [0] * len(ids or ()))) for ids, mask in messages]
    for place, (said, own) in enumerate(parts):
        if len(said) != len(own):
            raise ValueError(
                f"message {place} has {len(said)} tokens and a mask of {len(own)}; record one "
                "entry for each token"
            )
    ids = [*chain.from_iterable(said for said, _ in parts)]
    mask = [int(one) for one in chain.from_iterable(own for _, own in parts)]
    first = mask.index(1) if 1 in mask else len(mask)
    return Conversation(ids[:first], ids[first:], mask[first:])


def join_calls(
    calls: Iterable[tuple[Sequence[int], Sequence[int]]],
) -> tuple[Conversation, list[slice]]:
    """Return calls that continue one conversation, and where each answer is in the response.

    The prompt of a call is all that was said before its answer.

    Args:
        calls: Tokens of the prompt and of the answer of each call; the policy wrote the answers.

    Raises:
        ValueError: if a call does not continue the one before it.

    Example:
        >>> join_calls([([5], [6, 7]), ([5, 6, 7, 8], [9])])[1]
        [slice(0, 2, None), slice(3, 4, None)]
    """
    ids: list[int] = []
    written: list[int] = []
    ends: list[tuple[int, int]] = []
    for place, (said, answer) in enumerate(calls):
        if list(said[: len(ids)]) != ids:
            raise ValueError(f"call {place} does not begin with the tokens of the calls before it")
        ids = [*said, *answer]
        written += [0] * (len(said) - len(written)) + [1] * len(answer)
        ends.append((len(said), len(ids)))
    begins = ends[0][0] if ends else 0
    joined = Conversation(ids[:begins], ids[begins:], written[begins:])
    return joined, [slice(start - begins, stop - begins) for start, stop in ends]
