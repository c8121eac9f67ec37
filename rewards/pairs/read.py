"""Rows of a prompt and the responses to it: read from data sets, checked one by one, held out.

A prompt and its responses are texts, messages or token ids. A pair is a row of texts with two
responses, the first of which was preferred.
"""

import logging
import math
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from operator import index
from typing import Any, Generic, TypeAlias, TypeVar, get_args, overload

from tokengym.base.chat import NO_CHAT, Chat, is_messages, text_of, without_filled
from tokengym.base.errors import DatasetError, PromptError
from tokengym.base.text import lone_surrogate
from tokengym.envs import Episode
from tokengym.envs.prompts.datasets import DatasetSource, holds_mappings, read_tables
from tokengym.envs.prompts.tables import (
    OnError,
    RowError,
    SkippedRow,
    column_named,
    column_names,
    count_skips,
    find_column,
    sift,
)

_LOG = logging.getLogger(__name__)
MAX_MARGIN = 1_000_000
"""Largest margin of a pair, reward units: far more than scores of single precision tell apart."""

S = TypeVar("S")
T = TypeVar("T")
Messages = list[dict[str, Any]]
Ids = tuple[int, ...]

TEXT_COLUMNS = ("prompt", "chosen", "rejected", "completion", "response", "text")
"""Usual names of columns of texts."""

_LOOKED_AT = 100
"""Rows that are looked at to decide whether texts are dialogues."""

PAIR = ("prompt", "chosen", "rejected")
TURN = "\n\nAssistant:"
"""Beginning of an answer in a written-out dialogue, as in HH-RLHF."""


@dataclass(frozen=True)
class Row(Generic[T]):
    """A prompt and the responses to it: texts, a `Chat` and `Messages`, or `Ids`.

    A prompt of None is a text that stands alone, all of which is learned.
    """

    row: int
    """Its number in the data set, from 0."""
    prompt: T
    responses: tuple[T, ...]
    """(chosen, rejected) of a pair, or the one response."""


@dataclass(frozen=True, kw_only=True)
class PreferencePair:
    """One comparison. A model reads ``prompt + chosen`` and ``prompt + rejected`` as written.

    A labelled text is a comparison with no text, "", which scores 0; see `read_labels`.
    """

    prompt: str
    """The prompt of both responses; may be empty where the texts speak for themselves."""
    chosen: str
    """The response that was preferred."""
    rejected: str
    """The response that was not."""
    margin: float | None = None
    """By how much the scores should differ beyond being in order, reward units; None is 0."""
    messages: Chat = NO_CHAT
    """The prompt's conversation, where the data hold messages; ``prompt`` is its text."""
    replies: tuple[Chat, ...] = ()
    """(chosen, rejected) as messages, where the data hold messages."""

    @property
    def chat(self) -> Chat:
        """What a reader with a chat template reads of the prompt."""
        return self.messages or Chat.of_text(self.prompt)

    def to_record(self) -> dict[str, Any]:
        """Return it as plain data, a row that `read_pairs` reads."""
        row = {name: getattr(self, name) for name in ("prompt", "chosen", "rejected", "margin")}
        if self.messages:
            chosen, rejected = map(list, self.replies)
            row |= {"prompt": list(self.messages), "chosen": chosen, "rejected": rejected}
        return {**self.messages.beside, **row}

    def swapped(self) -> "PreferencePair":
        """Return the comparison the other way round."""
        return replace(self, chosen=self.rejected, rejected=self.chosen, replies=self.replies[::-1])


TableSource: TypeAlias = DatasetSource | Sequence[Mapping[str, Any] | PreferencePair | Episode]
"""Rows: a data set, the path of a file, a name on the hub, or mappings, pairs or episodes."""


@dataclass(frozen=True)
class PreferencePairs(Sequence[PreferencePair]):
    """The comparisons of a data set, and the rows of it that were left out."""

    pairs: tuple[PreferencePair, ...]
    """Pairs that were kept, in the order of the data."""
    rows: tuple[int, ...]
    """The row that each pair comes from, from 0."""
    skipped: tuple[SkippedRow, ...] = ()
    """Rows that were left out."""

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> PreferencePair: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[PreferencePair, ...]: ...
    def __getitem__(self, index: int | slice) -> PreferencePair | tuple[PreferencePair, ...]:
        return self.pairs[index]

    def __iter__(self) -> Iterator[PreferencePair]:
        return iter(self.pairs)

    def select(self, places: Sequence[int]) -> "PreferencePairs":
        """Return some of the pairs, with the record of all rows that were left out.

        Args:
            places: Positions of the pairs, not of their rows.
        """
        pairs = tuple(self.pairs[index] for index in places)
        return PreferencePairs(pairs, tuple(self.rows[index] for index in places), self.skipped)

    def without(self, reasons: Mapping[int, str], kind: str) -> "PreferencePairs":
        """Return the pairs but for some, whose rows join the record of those left out.

        Args:
            reasons: Position of a pair -> why it is left out, in one line.
            kind: The fault in a word or two.
        """
        kept = self.select([index for index in range(len(self)) if index not in reasons])
        skipped = [
            SkippedRow(row=self.rows[index], kind=kind, reason=reason)
            for index, reason in reasons.items()
        ]
        return replace(kept, skipped=(*self.skipped, *skipped))

    def skip_counts(self) -> dict[str, int]:
        """Return how many rows were left out for what, the most frequent first."""
        return count_skips(self.skipped)

    @property
    def labelled(self) -> bool:
        """Whether they are labelled texts, each a comparison with no text."""
        return any(not (pair.chosen and pair.rejected) for pair in self)

    def report(self) -> str:
        """Return one line: the rows, the pairs or texts, and what was left out for what."""
        kind = "labelled texts" if self.labelled else "pairs"
        line = f"{len(self) + len(self.skipped)} rows, {len(self)} {kind}"
        counts = ", ".join(f"{count} {kind}" for kind, count in self.skip_counts().items())
        return f"{line}, {len(self.skipped)} skipped ({counts})" if counts else line


# --- reading --------------------------------------------------------------------------------------


def read_table(
    source: TableSource,
    split: str | None = None,
    *,
    of: str = "pairs",
    headerless: bool = False,
    texts: Collection[str | None] = (),
) -> Any:
    """Return the rows of one table: a ``datasets.Dataset``, or a list of mappings.

    Args:
        source: A ``datasets.Dataset`` or ``DatasetDict``, a path, a name on the hub, or a sequence
            of mappings, pairs or played episodes.
        split: Split to read, where there are several; None takes the only one.
        of: Name of the data, for messages.
        headerless: Whether a csv or tsv file has no header; its columns are "0", "1", ...
        texts: Columns beside `TEXT_COLUMNS` whose values are texts, also where all of a csv file's
            could be numbers.

    Raises:
        DatasetError: if it cannot be read, a row is no mapping, or the split is not clear.
    """
    if isinstance(source, Sequence) and not isinstance(source, str):
        return [_as_mapping(number, row, of) for number, row in enumerate(source)]
    named = {name for name in (*TEXT_COLUMNS, *texts) if name is not None}
    tables = read_tables(source, headerless=headerless, texts=named)
    have = "have" if of.endswith("s") else "has"
    names = ", ".join(map(repr, tables))
    if split is None and len(tables) > 1:
        remedy = "choose one by split=" if of == "pairs" else "pass one of them"
        raise DatasetError(f"the {of} {have} the splits {names}; {remedy}")
    if split is not None and split not in tables:
        raise DatasetError(f"the {of} {have} no split {split!r}, only {names}")
    table: Any = tables[next(iter(tables)) if split is None else split]
    return read_table(table, of=of) if isinstance(table, Sequence) else _as_written(table)


def _as_written(table: Any) -> Any:
    """Return a table as rows where Arrow has filled messages with None that nobody wrote."""
    if not any(holds_mappings(kind) for kind in table.features.values()):
        return table
    return [without_filled(row) for row in table]


def _as_mapping(number: int, row: Any, of: str) -> Mapping[str, Any]:
    """Return a row of a table, which may be a pair or an episode."""
    if isinstance(row, Episode):
        ids = {"prompt_ids": row.prompt_ids, "response_ids": row.response_ids}
        return ids if row.written is None else {**ids, "written": row.written.tolist()}
    if isinstance(row, PreferencePair):
        if not row.messages:
            return {name: getattr(row, name) for name in (*PAIR, "margin")}
        two = {name: reply.messages for name, reply in zip(PAIR[1:], row.replies, strict=True)}
        return {**row.messages.to_record(), "prompt": row.messages, **two, "margin": row.margin}
    if not isinstance(row, Mapping):
        wanted = "'chosen' and 'rejected'" if of == "pairs" else "a prompt and a response"
        raise DatasetError(
            f"row {number} of the {of} is {type(row).__name__}; it must be a mapping with {wanted}"
        )
    return row


def read_pairs(
    dataset: TableSource,
    *,
    prompt_column: str | None = None,
    chosen_column: str = "chosen",
    rejected_column: str = "rejected",
    margin_column: str | None = None,
    split: str | None = None,
    on_error: OnError = "raise",
) -> PreferencePairs:
    """Return the pairs of a data set.

    Without a prompt column, dialogues written out as in HH-RLHF ("Human:", "Assistant:") have the
    prompt that both share: everything up to and with the last "Assistant:". Other texts have the
    empty prompt, if no further column has texts that could be it.

    Args:
        dataset: A ``datasets.Dataset`` or ``DatasetDict``; the path of a csv, tsv, json, jsonl or
            parquet file, gzipped or not; a name on the hub; rows as mappings; or pairs, which are
            checked as rows are. Chosen and rejected may be lists of messages, of which the prompt
            is what both begin with, or a column of its own; the columns tools, documents and
            chat_template_kwargs belong to them.
        prompt_column: None takes "prompt" if there is such a column.
        chosen_column: The preferred response, or dialogue.
        rejected_column: The other.
        margin_column: Numbers up to `MAX_MARGIN`; None takes "margin" if there is such a column.
        split: Which one, where the data set has splits; None takes the only one.
        on_error: "skip" leaves rows out that make no comparison, and says which and why.

    Raises:
        DatasetError: if it cannot be read, lacks a column or is empty; if there is no column of
            prompts, and another may be meant; by "raise", if a text is missing or empty, both are
            equal, or the dialogues part before the last answer.
    """
    if isinstance(dataset, PreferencePairs):
        return dataset
    table, columns = _open(
        dataset, split, on_error, texts=(prompt_column, chosen_column, rejected_column)
    )
    prompt = find_column(columns, prompt_column, "prompt_column", default="prompt", of="pairs")
    chosen = column_named(columns, chosen_column, "chosen_column", of="pairs")
    rejected = column_named(columns, rejected_column, "rejected_column", of="pairs")
    margin = find_column(columns, margin_column, "margin_column", default="margin", of="pairs")
    of_messages = holds_messages(table, prompt, chosen, rejected)
    if prompt is None and not of_messages:
        _check_no_prompt(table, columns, (chosen, rejected))

    def compared(row: Mapping[str, Any]) -> PreferencePair:
        by = None if margin is None else _margin(row, margin)
        if of_messages:
            chat, said = _messages(row, prompt or PAIR[0], (chosen, rejected))
            shared, (one, other) = chat.text, (reply_text(reply) for reply in said)
            talk: Any = {"messages": chat, "replies": tuple(Chat(reply) for reply in said)}
        else:
            (shared, (one, other)), talk = _texts(row, prompt, (chosen, rejected)), {}
        if one.strip() == other.strip() and len({*talk.get("replies", ())}) < 2:
            raise RowError("equal", f"{chosen!r} and {rejected!r} are both {reprlib.repr(one)}")
        return PreferencePair(prompt=shared, chosen=one, rejected=other, margin=by, **talk)

    pairs = _sifted(table, compared, on_error, prompt=prompt, responses=(chosen, rejected))
    if said := _said_twice(pairs):
        _LOG.warning(said)
    return pairs


def _said_twice(pairs: PreferencePairs) -> str:
    """Return how many pairs repeat or contradict others, in one line; "" if none does."""
    known = {replace(pair, margin=None) for pair in pairs}
    repeated = len(pairs) - len(known)
    contrary = sum(pair.swapped() in known for pair in known)
    counts = [f"{repeated} repeat another"] if repeated else []
    if contrary:
        counts.append(f"{contrary} have the responses of another the other way round")
    counted = f"of {len(pairs)} pairs {' and '.join(counts)}; all are learned from"
    return counted if counts else ""


def _check_no_prompt(table: Any, columns: Sequence[str], responses: Sequence[str]) -> None:
    """Refuse texts without a column of prompts, where one of another name may hold them."""
    rows = [row for row, _ in zip(table, range(_LOOKED_AT), strict=False)]
    texts = [str(row.get(name)) for row in rows for name in responses]
    if any(TURN in text for text in texts):  # written-out dialogues hold their prompts
        return
    others = [
        name
        for name in columns
        if name not in responses
        and any(isinstance(row.get(name), str) and row[name].strip() for row in rows)
    ]
    if others:
        raise DatasetError(
            f"there is no column 'prompt', only {', '.join(map(repr, columns))}, so that the "
            f"responses would stand alone; name the column of prompts ({others[0]!r}?) by "
            "prompt_column (--prompt-column), or add an empty 'prompt' if there are none"
        )


def check_prompts_apart(
    rows: Sequence[tuple[str, Sequence[str]]], prompt: str | None, responses: Sequence[str]
) -> None:
    """Refuse texts of which every response begins with its prompt, and tell of some that do."""
    beginning = sum(
        bool(asked.strip()) and all(text.startswith(asked) for text in said) for asked, said in rows
    )
    if prompt is None or 2 * beginning <= len(rows):
        return
    names = " and ".join(map(repr, responses))
    if beginning < len(rows):
        _LOG.warning(
            "%d of %d rows of %s begin with their %r, which a model reads twice",
            *(beginning, len(rows), names, prompt),
        )
        return
    raise DatasetError(
        f"every response begins with its prompt, which a model would read twice; leave the text of "
        f"{prompt!r} out of {names}"
    )


def _open(
    dataset: TableSource, split: str | None, on_error: OnError, *, texts: Collection[str | None]
) -> tuple[Any, list[str]]:
    """Return a table that has rows, and the names of its columns."""
    if on_error not in get_args(OnError):
        raise DatasetError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    table = read_table(dataset, split, texts=texts)
    if not len(table):
        raise DatasetError("the pairs have 0 rows; give at least one comparison")
    columns = column_names(table)
    if {*PAIR[1:]}.isdisjoint(columns) and {"completion", "label"} <= {*columns}:
        raise DatasetError(
            "the rows are unpaired, as KTO learns them (prompt, completion, label): there is "
            "nothing to compare a completion with; give chosen and rejected, or learn the labels: "
            "train_reward_model(..., read_labels(rows, text_column='completion'))"
        )
    return table, columns


def _sifted(
    table: Any,
    make: Callable[[Mapping[str, Any]], PreferencePair],
    on_error: OnError,
    *,
    prompt: str | None,
    responses: Sequence[str],
) -> PreferencePairs:
    """Return the pairs that are made of a table's rows, which must leave some."""
    kept, skipped = sift(
        enumerate(table), lambda number, row: (number, make(row)), on_error=on_error, of="pairs"
    )
    pairs = PreferencePairs(
        tuple(pair for _, pair in kept), tuple(number for number, _ in kept), tuple(skipped)
    )
    if not pairs:
        raise DatasetError(f"no pair is left: {pairs.report()}; {pairs.skipped[0].reason}")
    said = [
        (pair.prompt, [text for text in (pair.chosen, pair.rejected) if text]) for pair in pairs
    ]
    check_prompts_apart(said, prompt, responses)
    return pairs


def read_labels(
    dataset: TableSource,
    *,
    prompt_column: str | None = None,
    text_column: str = "text",
    label_column: str = "label",
    split: str | None = None,
    on_error: OnError = "raise",
) -> PreferencePairs:
    """Return labelled texts as pairs: a good one is preferred to no text, which is to a bad one.

    No text scores 0, so that a reward model learns P(good) = sigmoid(R).

    Args:
        dataset: As for `read_pairs`.
        prompt_column: None takes "prompt" if there is such a column; else texts have none.
        text_column: The texts.
        label_column: 1 (or True) for a good text, 0 for a bad one.
        split: Which one, where the data set has splits; None takes the only one.
        on_error: "skip" leaves rows out without a text or label, and says which and why.

    Raises:
        DatasetError: if it cannot be read, lacks a column or is empty; by "raise", if a text is
            empty, or a label is not 0 or 1.
    """
    table, columns = _open(dataset, split, on_error, texts=(prompt_column, text_column))
    prompt = find_column(columns, prompt_column, "prompt_column", default="prompt", of="pairs")
    text = column_named(columns, text_column, "text_column", of="pairs")
    label = column_named(columns, label_column, "label_column", of="pairs")

    def labelled(row: Mapping[str, Any]) -> PreferencePair:
        given = "" if prompt is None else _text(row, prompt, empty=True)
        said, good = _text(row, text), row.get(label)
        if not said.strip():
            raise RowError("empty", f"{text!r} is empty, got {said!r}")
        if good not in (0, 1):
            raise RowError("label", f"{label!r} must be 0 or 1, got {reprlib.repr(good)}")
        two = (said, "") if good else ("", said)
        return PreferencePair(prompt=given, chosen=two[0], rejected=two[1])

    return _sifted(table, labelled, on_error, prompt=prompt, responses=(text,))


def read_rows(
    table: Any, prompt: str, *responses: str, on_error: OnError
) -> tuple[list[Row[Any]], list[SkippedRow]]:
    """Return the rows of a table, and those that are left out."""
    contents: Callable[..., tuple[Any, tuple[Any, ...]]] = _texts
    if prompt.endswith("_ids"):
        contents = _ids
    elif holds_messages(table, prompt, *responses):
        contents = _messages

    def read(number: int, row: Mapping[str, Any]) -> Row[Any]:
        return Row(number, *contents(row, prompt, responses))

    rows, skipped = sift(enumerate(table), read, on_error=on_error)
    if contents is _texts and prompt:
        check_prompts_apart([(row.prompt, row.responses) for row in rows], prompt, responses)
    return rows, skipped


def holds_messages(table: Any, prompt: str | None, *responses: str) -> bool:
    """Return whether the first row of a table has messages as prompt, or as all responses."""
    if not len(table):
        return False
    first = table[0]
    return is_messages(first.get(prompt)) or all(is_messages(first.get(n)) for n in responses)


def reply_text(reply: Sequence[Mapping[str, Any]]) -> str:
    """Return what a reply in messages says as text."""
    return "\n\n".join(map(text_of, reply))


def split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    r"""Return the prompt that two texts share, and what each says after it.

    Example:
        >>> split_texts("Human: Hi\n\nAssistant: Hello", "Human: Hi\n\nAssistant: Go")
        ('Human: Hi\n\nAssistant:', ' Hello', ' Go')
    """
    ends = [text.rfind(TURN) for text in (chosen, rejected)]
    starts = [end + len(TURN) if end >= 0 else 0 for end in ends]  # 0 for a text without an answer
    if chosen[: starts[0]] != rejected[: starts[1]]:
        same = takewhile(bool, (a == b for a, b in zip(chosen, rejected, strict=False)))
        raise DatasetError(
            f"chosen and rejected part at character {sum(1 for _ in same)}, before the last "
            f"'Assistant:' (characters {starts[0]} and {starts[1]}), so they share no prompt"
        )
    start = starts[0]
    return chosen[:start], chosen[start:], rejected[start:]


def _texts(
    row: Mapping[str, Any], prompt: str | None, responses: Sequence[str]
) -> tuple[Any, tuple[str, ...]]:
    """Return the prompt and the responses of a row of texts; without a prompt, what both share.

    A prompt of the name "" is none: the response stands alone.
    """
    if prompt == "":
        return None, tuple(_text(row, name) for name in responses)
    given = None if prompt is None else _text(row, prompt, empty=True)
    if given is not None and len(responses) == 1 and not given.strip():  # only pairs need none
        raise RowError("empty", f"{prompt!r} is empty, got {given!r}")
    texts = [_text(row, name) for name in responses]
    if given is None:
        try:
            given, *texts = split_texts(*texts)
        except DatasetError as error:
            raise RowError("no shared prompt", str(error)) from None
    for name, text in zip(responses, texts, strict=True):
        if not text.strip():
            raise RowError("empty", f"the response of {name!r} is empty, got {text!r}")
    return given, tuple(texts)


def _text(row: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    value = row.get(name)
    if value is None or (value == "" and not empty):
        raise RowError("empty", f"{name!r} is empty, got {value!r}")
    if not isinstance(value, str):
        raise RowError(
            "not text",
            f"{name!r} must be a text, got {type(value).__name__} {reprlib.repr(value)}; the "
            "first row has a text, so that all must",
        )
    if (position := lone_surrogate(value)) is not None:
        raise RowError(
            "not text",
            f"{name!r} has the lone surrogate {value[position]!r} at character {position}, which "
            "no tokenizer reads; read the text as UTF-8 again",
        )
    return value


def _ids(
    row: Mapping[str, Any], prompt: str, responses: Sequence[str]
) -> tuple[Ids, tuple[Ids, ...]]:
    """Return the prompt and the responses of a row of token ids."""
    return _column_ids(row, prompt), tuple(_column_ids(row, name) for name in responses)


def _column_ids(row: Mapping[str, Any], name: str) -> Ids:
    """Return the ids of a column."""
    value = row.get(name)
    if value is None:
        raise RowError("empty", f"it has no {name!r}")
    try:
        if isinstance(value, str | bytes | Mapping):
            raise TypeError
        return tuple(index(token) for token in value)
    except TypeError:
        raise RowError(
            "not ids", f"{name!r} must be a list of token ids, got {reprlib.repr(value)}"
        ) from None


def _messages(
    row: Mapping[str, Any], prompt: str, responses: Sequence[str]
) -> tuple[Chat, tuple[Messages, ...]]:
    """Return the prompt's conversation, and the messages that each response adds to it."""
    texts = [_as_messages(row.get(name), name, "assistant") for name in responses]
    given: Any = row.get(prompt)
    asked: Messages | None = None
    if isinstance(given, str):
        asked = _as_messages(given, prompt, "user")
    elif given is not None:
        asked = _as_messages(given, prompt)
    if asked is None or all(_begins(messages, asked) for messages in texts):
        shared = len(texts[0]) - 1  # of a single conversation, all but the last message
        if len(texts) > 1:
            together = zip(*texts, strict=False)
            shared = sum(1 for _ in takewhile(lambda m: all(one == m[0] for one in m), together))
        if not shared or any(len(messages) <= shared for messages in texts):
            named = "" if prompt in row else f", and of {[*row]} no column is {prompt!r}"
            raise RowError(
                "no shared prompt",
                f"the conversations share their first {shared} messages, which leaves no prompt or "
                f"no response{named}",
            )
        asked, texts = texts[0][:shared], [messages[shared:] for messages in texts]
    last = asked[-1]
    if last["role"] == "assistant" or not (last["content"].strip() or last["role"] == "tool"):
        raise RowError(
            "no prompt",
            f"its prompt ends with {reprlib.repr(asked[-1])}; it must end with what the assistant "
            "answers",
        )
    for name, messages in zip(responses, texts, strict=True):
        _check_reply(messages, name)
    try:
        return Chat.of_row(asked, row), tuple(texts)
    except PromptError as error:
        raise RowError("not messages", str(error)) from None


def _check_reply(messages: Messages, name: str) -> None:
    """Refuse messages that are not the assistant's, or say nothing."""
    others = [message["role"] for message in messages if message["role"] != "assistant"]
    if others:
        raise RowError(
            "conversation",
            f"the response of {name!r} has a message of the role {others[0]!r}, which would "
            "be learned as the policy's own words",
        )
    if not messages[-1]["content"].strip() and not messages[-1].get("tool_calls"):
        raise RowError("empty", f"the response of {name!r} is empty, got {messages[-1]!r}")


def _as_messages(value: Any, name: str, role: str | None = None) -> Messages:
    """Return a column's messages; a text is one of the role, if that is given."""
    if isinstance(value, str) and role is not None and value:
        value = [{"role": role, "content": value}]
    if not is_messages(value):
        raise RowError("not messages", f"{name!r} must be messages, got {reprlib.repr(value)}")
    last = {"content": "", **{k: v for k, v in value[-1].items() if v is not None}}
    try:
        return Chat([*value[:-1], last]).messages
    except PromptError as error:
        raise RowError("not messages", f"{name!r}: {error}") from None


def _begins(messages: Messages, asked: Messages) -> bool:
    """Return whether a conversation begins with messages, or, after a system's, with one of them.

    Data sets that have both a prompt and whole conversations may leave the system's message out of
    the prompt.
    """
    told = messages[1:] if messages[0]["role"] == "system" != asked[0]["role"] else messages
    start = [(m["role"], m["content"].strip()) for m in told[: len(asked)]]
    return start == [(m["role"], m["content"].strip()) for m in asked]


def _margin(row: Mapping[str, Any], name: str) -> float | None:
    given = row.get(name)
    if given is None or given == "":
        return None
    try:
        value = float(given)  # a csv file with gaps gives its numbers as texts
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= MAX_MARGIN:
        raise RowError(
            "margin", f"{name!r} must be a number from 0 to {MAX_MARGIN:,}, got {given!r}"
        )
    return value
