"""Answers of conversations that are learned: all of them or the last, but for those marked out.

Each answer is an example of its own, behind what the policy reads when it gives that answer: a chat
template may write it in another way once a reply follows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from tokengym.base.chat import Chat, Messages
from tokengym.envs.prompts.tables import LearnOn, OnError, RowError, SkippedRow, Table, quoted, sift
from tokengym.rewards.pairs.read import Example, reply_text

MARKS = ("weight", "train", "trainable", "loss_mask")
"""Entries of a message, or of a row, by which fine-tuning files say whether it is learned."""


def learned_answers(
    examples: Sequence[Example[Any]],
    table: Table,
    learn_on: LearnOn,
    on_error: OnError,
    *,
    are_whole: bool,
) -> tuple[list[Example[Any]], list[SkippedRow]]:
    """Return an example for each answer that is learned, without marks, and the rows without one.

    Args:
        examples: Rows with one response each.
        table: The rows.
        learn_on: Answers of whole conversations that are learned.
        on_error: What becomes of rows with marks that are none.
        are_whole: Whether a row is a conversation, all of whose answers can be learned, and not a
            prompt apart from its response.
    """
    marks = [name for name in MARKS if name in table.columns]

    def answers(number: int, example: Example[Any]) -> list[Example[Any]]:
        row = table[number] if marks else {}
        given = {name: row[name] for name in marks if _is_mark(row[name], name)}
        if not isinstance(example.prompt, Chat):
            return [] if _is_out(given) else [example]
        return [*_answers(example, given, are_whole=are_whole, learn_on=learn_on)]

    found, unread = sift(((e.row, e) for e in examples), answers, on_error=on_error, of=table.of)
    refused = {row.row for row in unread}
    numbers = [e.row for e in examples if e.row not in refused]
    out = [number for number, several in zip(numbers, found, strict=True) if not several]
    why = f"is marked as not to be learned, by one of {quoted(MARKS)}"
    unread += [
        SkippedRow(row=n, kind="marked", reason=f"row {n} of the {table.of} {why}") for n in out
    ]
    return [example for several in found for example in several], unread


def _answers(
    example: Example[Any], given: Mapping[str, Any], *, are_whole: bool, learn_on: LearnOn
) -> Iterator[Example[Any]]:
    """Yield an example for each answer that is learned; the last one names those that are not."""
    marked: Messages = [*example.prompt.messages, *example.responses[0]]
    is_out = [_is_out(message) for message in marked]
    for name, value in given.items():
        values = value if isinstance(value, list | tuple) else [value] * len(marked)
        if len(values) != len(marked):
            raise RowError(
                "mark",
                f"{name!r} has {len(values)} entries for {len(marked)} messages; mark messages by "
                f"{name!r} of each",
            )
        is_out = [one or _is_out({name: own}) for one, own in zip(is_out, values, strict=True)]
    talk = [{k: v for k, v in message.items() if k not in MARKS} for message in marked]
    start = len(example.prompt)
    learned, others = list[Example[Any]](), list[str]()
    for first, past in [*(_runs(talk[:start]) if are_whole else ()), (start, len(talk))]:
        said, is_last = talk[first:past], past == len(talk)
        follows = first > 0 and talk[first - 1]["role"] != "system"
        if any(is_out[first:past]) or not (is_last or (learn_on == "all" and follows)):
            others.append(reply_text(said))
        elif is_last or reply_text(said).strip():
            before = Chat(talk[:first], **example.prompt.beside)
            learned.append(replace(example, prompt=before, responses=(said,)))
    yield from learned[:-1]
    yield from (replace(last, unlearned=tuple(others)) for last in learned[-1:])


def _runs(talk: Messages) -> Iterator[tuple[int, int]]:
    """Yield where the assistant's messages begin and end, those in a row together."""
    for is_answer, places in groupby(range(len(talk)), lambda n: talk[n]["role"] == "assistant"):
        if is_answer:
            first, *rest = places
            yield first, first + 1 + len(rest)


def _is_mark(value: Any, name: str) -> bool:
    """Return whether a row's entry marks it, and is no column of another kind by such a name."""
    if isinstance(value, list | tuple):
        return True
    is_number = isinstance(value, bool | int | float)
    if name == "weight" and is_number and value not in (0, 1):
        raise RowError("mark", f"'weight' must be 0 or 1, got {value!r}; leave the column out")
    return is_number and value in (0, 1)


def _is_out(marks: Mapping[str, Any]) -> bool:
    """Return whether one of the marks says that a message, or a row, is not to be learned."""
    given = {name: marks[name] for name in MARKS if marks.get(name) is not None}
    for name, value in given.items():
        values = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(one, str) or one not in (0, 1) for one in values):
            raise RowError(
                "mark", f"{name!r} must be true or false, or 1 or 0, got {value!r}; correct it"
            )
        if len({*map(bool, values)}) > 1:
            raise RowError(
                "mark",
                f"{name!r} marks a part of a text, which is learned as a whole; give messages, "
                f"with {name!r} of each",
            )
    return any(not all(v if isinstance(v, list | tuple) else [v]) for v in given.values())
