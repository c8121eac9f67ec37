"""Answers of conversations that are learned: all of them or the last, but for those marked out.

Each answer is an example of its own, behind what the policy reads when it gives that answer: a chat
template may write it in another way once a reply follows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from tokengym.base.chat import Chat, Messages
from tokengym.envs.prompts.tables import LearnOn, OnError, RowError, SkippedRow, Table, sift
from tokengym.rewards.pairs.marks import MARKS, is_out, marked_rows, row_marks, unmarked
from tokengym.rewards.pairs.read import Example, reply_text


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
    is_marked = not {*MARKS}.isdisjoint(table.columns)

    def answers(number: int, example: Example[Any]) -> list[Example[Any]]:
        given = row_marks(table[number]) if is_marked else {}
        if not isinstance(example.prompt, Chat):
            return [] if is_out(given) else [example]
        return [*_answers(example, given, are_whole=are_whole, learn_on=learn_on)]

    found, unread = sift(((e.row, e) for e in examples), answers, on_error=on_error, of=table.of)
    refused = {row.row for row in unread}
    numbers = [e.row for e in examples if e.row not in refused]
    out = [number for number, several in zip(numbers, found, strict=True) if not several]
    unread += marked_rows(out, table.of)
    return [example for several in found for example in several], unread


def _answers(
    example: Example[Any], given: Mapping[str, Any], *, are_whole: bool, learn_on: LearnOn
) -> Iterator[Example[Any]]:
    """Yield an example for each answer that is learned; the last one names those that are not."""
    marked: Messages = [*example.prompt.messages, *example.responses[0]]
    out = [is_out(message) for message in marked]
    for name, value in given.items():
        values = value if isinstance(value, list | tuple) else [value] * len(marked)
        if len(values) != len(marked):
            raise RowError(
                "mark",
                f"{name!r} has {len(values)} entries for {len(marked)} messages; mark messages by "
                f"{name!r} of each",
            )
        out = [one or is_out({name: own}) for one, own in zip(out, values, strict=True)]
    talk = [unmarked(message) for message in marked]
    start = len(example.prompt)
    learned, others = list[Example[Any]](), list[str]()
    for first, past in [*(_runs(talk[:start]) if are_whole else ()), (start, len(talk))]:
        said, is_last = talk[first:past], past == len(talk)
        follows = first > 0 and talk[first - 1]["role"] != "system"
        if any(out[first:past]) or not (is_last or (learn_on == "all" and follows)):
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
