"""Rows of a prompt and the responses to it: read from data sets, checked one by one, held out.

A prompt and its responses are texts, messages or token ids. A pair is a row with two responses, the
first of which was preferred.
"""

import logging
import math
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from operator import index
from typing import Any, Generic, TypeAlias, TypeVar, get_args

from tokengym.base.chat import NO_CHAT, Chat, Messages, is_messages, text_of
from tokengym.base.errors import DatasetError, PromptError
from tokengym.envs import Episode
from tokengym.envs.prompts.datasets import DatasetSource, read_tables
from tokengym.envs.prompts.tables import (
    OnError,
    RowError,
    SkippedRow,
    Table,
    count_skips,
    quoted,
    sift,
    text_value,
)
from tokengym.rewards.pairs.marks import MARKS, is_out, marked_rows, row_marks, unmarked

_LOG = logging.getLogger(__name__)
MAX_MARGIN = 1_000_000
"""Largest margin of a pair, reward units: far more than scores of single precision tell apart."""

T = TypeVar("T")
Ids = tuple[int, ...]

TEXT_COLUMNS = ("prompt", "chosen", "rejected", "completion", "response", "text")
"""Usual names of columns of texts."""
TURN = "\n\nAssistant:"
"""Beginning of an answer in a written-out dialogue, as in HH-RLHF."""
HOLDS_REPLIES = (
    "holds a partner's replies, which would be learned as the policy's own words; learn "
    "conversations with PPO, or play with max_turns=1"
)
"""Why a response of a conversation is refused: rows of ids do not say who wrote which."""


@dataclass(frozen=True)
class Example(Generic[T]):
    """A prompt and the responses to it, to learn: texts, a `Chat` and `Messages`, or `Ids`.

    A prompt of None is a text that stands alone, all of which is learned.
    """

    row: int
    """Its number in the data set, from 0."""
    prompt: T
    responses: tuple[T, ...]
    """(chosen, rejected) of a pair, or the one response."""
    margin: float | None = None
    """As of `PreferencePair`."""
    unlearned: tuple[str, ...] = ()
    """Texts of answers of its row that are not learned."""


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

    def __getitem__(self, index: Any) -> Any:
        return self.pairs[index]

    def select(self, places: Sequence[int]) -> "PreferencePairs":
        """Return the pairs at these places, with the record of all rows that were left out."""
        pairs = tuple(self.pairs[place] for place in places)
        return PreferencePairs(pairs, tuple(self.rows[place] for place in places), self.skipped)

    def without(self, reasons: Mapping[int, str], kind: str) -> "PreferencePairs":
        """Return the pairs but for some, whose rows join the record of those left out.

        Args:
            reasons: Place of a pair -> why it is left out, in one line.
            kind: The fault in a word or two.
        """
        others = self.select([place for place in range(len(self)) if place not in reasons])
        skipped = [
            SkippedRow(row=self.rows[place], kind=kind, reason=reason)
            for place, reason in reasons.items()
        ]
        return replace(others, skipped=(*self.skipped, *skipped))

    def skip_counts(self) -> dict[str, int]:
        """Return how many rows were left out for what, the most frequent first."""
        return count_skips(self.skipped)

    def report(self) -> str:
        """Return one line: the rows, the pairs or texts, and what was left out for what."""
        are_pairs = all(pair.chosen and pair.rejected for pair in self)
        return rows_read(len(self), "pairs" if are_pairs else "labelled texts", self.skipped)


def rows_read(count: int, of: str, skipped: Sequence[SkippedRow]) -> str:
    """Return one line: all rows, how many gave something, and what was left out for what."""
    line = f"{count + len(skipped)} rows, {count} {of}"
    kinds = ", ".join(f"{number} {kind}" for kind, number in count_skips(skipped).items())
    return f"{line}, {len(skipped)} skipped ({kinds})" if kinds else line


# --- tables ---------------------------------------------------------------------------------------


def read_table(
    source: TableSource | Table,
    split: str | None = None,
    *,
    of: str = "pairs",
    headerless: bool = False,
    texts: Collection[str | None] = (),
) -> Table:
    """Return the rows of one table.

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
    if isinstance(source, Table):
        return source.named(of)
    if isinstance(source, Sequence) and not isinstance(source, str):
        return Table([_as_mapping(row) for row in source], of)
    text_columns = {name for name in (*TEXT_COLUMNS, *texts) if name is not None}
    tables = read_tables(source, of=of, headerless=headerless, texts=text_columns)
    name = next(iter(tables)) if split is None and len(tables) == 1 else split
    if name not in tables:
        raise DatasetError(
            f"split={split!r} of the {of} must be one of the splits {quoted(tables)}; pass it, or "
            "that table alone"
        )
    return tables[name]


def _as_mapping(row: Any) -> Any:
    """Return a row of a table that may be a pair or an episode; anything else as it is."""
    if isinstance(row, PreferencePair):
        return row.to_record()
    if not isinstance(row, Episode):
        return row
    ids = {"prompt_ids": row.prompt_ids, "response_ids": row.response_ids}
    return ids if row.written is None else {**ids, "written": row.written.tolist()}


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
    table = _opened(dataset, split, on_error, (prompt_column, chosen_column, rejected_column))
    prompt = table.optional_column(prompt_column, "prompt_column", default="prompt")
    responses = (
        table.column(chosen_column, "chosen_column"),
        table.column(rejected_column, "rejected_column"),
    )
    margin = table.optional_column(margin_column, "margin_column", default="margin")
    if prompt is None and not table.holds_messages(prompt, *responses):
        _check_no_prompt(table, responses)
    examples, skipped = read_examples(
        table, prompt, *responses, margin_column=margin, on_error=on_error
    )
    pairs = _pairs(examples, skipped)
    _warn_of_repeats(pairs)
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
    table = _opened(dataset, split, on_error, (prompt_column, text_column))
    prompt = table.optional_column(prompt_column, "prompt_column", default="prompt")
    text = table.column(text_column, "text_column")
    label = table.column(label_column, "label_column")

    marked = set[int]()

    def labelled(number: int, row: Mapping[str, Any]) -> Example[str]:
        if is_out(row_marks(row, apart=(label,))):
            marked.add(number)
            return Example(number, "", ("", ""))  # left out below, unread
        question = "" if prompt is None else _text(row, prompt, may_be_empty=True)
        response, good = _text(row, text), row.get(label)
        if good not in (0, 1):
            raise RowError("label", f"{label!r} must be 0 or 1, got {reprlib.repr(good)}")
        return Example(number, question, (response, "") if good else ("", response))

    examples, skipped = sift(enumerate(table), labelled, on_error=on_error, of=table.of)
    examples = [example for example in examples if example.row not in marked]
    skipped += marked_rows(sorted(marked), table.of)
    _check_prompts_apart(examples, prompt, [text])
    return _pairs(examples, skipped)


def _opened(
    dataset: TableSource, split: str | None, on_error: OnError, texts: Collection[str | None]
) -> Table:
    """Return a table that has rows to compare."""
    if on_error not in get_args(OnError):
        raise DatasetError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    table = read_table(dataset, split, texts=texts)
    if not len(table):
        raise DatasetError("the pairs have 0 rows; give at least one comparison")
    return table


def _pairs(examples: Sequence[Example[Any]], skipped: Sequence[SkippedRow]) -> PreferencePairs:
    """Return examples as comparisons, of which there must be some."""
    pairs = []
    for one in examples:
        of_messages: dict[str, Any] = {}
        prompt, (chosen, rejected) = one.prompt, one.responses
        if isinstance(prompt, Chat):
            of_messages = {"messages": prompt, "replies": tuple(map(Chat, one.responses))}
            prompt, chosen, rejected = prompt.text, reply_text(chosen), reply_text(rejected)
        pairs.append(
            PreferencePair(
                prompt=prompt, chosen=chosen, rejected=rejected, margin=one.margin, **of_messages
            )
        )
    result = PreferencePairs(tuple(pairs), tuple(one.row for one in examples), tuple(skipped))
    if not result:
        raise DatasetError(f"no pair is left: {result.report()}; {skipped[0].reason}")
    return result


def _warn_of_repeats(pairs: PreferencePairs) -> None:
    """Warn of pairs that repeat or contradict others."""
    distinct = {replace(pair, margin=None) for pair in pairs}
    counts = {
        "repeat another": len(pairs) - len(distinct),
        "have the responses of another the other way round": sum(
            pair.swapped() in distinct for pair in distinct
        ),
    }
    said = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
    if said:
        _LOG.warning(f"of {len(pairs)} pairs {said}; all are learned from")


def _check_no_prompt(table: Table, responses: Sequence[str]) -> None:
    """Refuse texts without a column of prompts, where one of another name may hold them."""
    rows = [*islice(table, 100)]
    if any(TURN in str(row.get(name)) for row in rows for name in responses):
        return  # written-out dialogues hold their prompts
    others = [
        name
        for name in table.columns
        if name not in responses
        and any(isinstance(row.get(name), str) and row[name].strip() for row in rows)
    ]
    if others:
        raise DatasetError(
            f"there is no column 'prompt', only {quoted(table.columns)}, so that the responses "
            f"would stand alone; name the column of prompts ({others[0]!r}?) by "
            "prompt_column=, or add an empty 'prompt' if there are none"
        )


def _check_prompts_apart(
    examples: Sequence[Example[Any]], prompt: str | None, responses: Sequence[str]
) -> None:
    """Refuse texts of which every response begins with its prompt, and tell of some that do."""
    beginning = sum(
        bool(one.prompt.strip())
        and all(text.startswith(one.prompt) for text in one.responses if text)  # no text is none
        for one in examples
    )
    if prompt is None or 2 * beginning <= len(examples):
        return
    names = " and ".join(map(repr, responses))
    if beginning == len(examples):
        raise DatasetError(
            f"every response begins with its prompt, which a model would read twice; leave the "
            f"text of {prompt!r} out of {names}"
        )
    _LOG.warning(
        "%d of %d rows of %s begin with their %r, which a model reads twice",
        *(beginning, len(examples), names, prompt),
    )


# --- rows -----------------------------------------------------------------------------------------


def read_examples(
    table: Table,
    prompt: str | None,
    *responses: str,
    margin_column: str | None = None,
    on_error: OnError,
) -> tuple[list[Example[Any]], list[SkippedRow]]:
    """Return the rows of a table as examples, and those that are left out.

    Of episodes of conversations, whose replies a partner wrote, none is learned from. A pair that
    is marked as not to be learned, or has a message that is, is left out whole; the marks of the
    one response stay.

    Args:
        table: The rows.
        prompt: Column of prompts, of ids where its name ends so. None: what both responses of a
            pair begin with; "": none, each response stands alone.
        responses: Columns of (chosen, rejected), or of the one response.
        margin_column: Column of margins, if any.
        on_error: What becomes of rows that cannot be learned from.
    """
    contents: Callable[..., tuple[Any, tuple[Any, ...]]] = _texts
    if prompt is not None and prompt.endswith("_ids"):
        contents = _ids
    elif table.holds_messages(prompt, *responses):
        contents = _messages

    marked = set[int]()

    def read(number: int, row: Mapping[str, Any]) -> Example[Any]:
        written = row.get("written")  # a column of the user's may have this name
        if len(responses) == 1 and isinstance(written, list | tuple) and 0 in written:
            raise RowError("conversation", f"the response {HOLDS_REPLIES}")
        said, texts = contents(row, prompt, responses)
        if len(responses) > 1:
            answers = [m for text in texts for m in text] if contents is _messages else []
            if any([is_out(row_marks(row, apart=(margin_column,))), *map(is_out, answers)]):
                marked.add(number)
                return Example(number, said, texts)  # left out below
        if len(responses) > 1 and contents is _messages:
            if any(not message.keys().isdisjoint(MARKS) for message in said.messages):
                said = Chat(_unmarked(said.messages), **said.beside)
            texts = tuple(map(_unmarked, texts))
        margin = None if margin_column is None else _margin(row, margin_column)
        return Example(number, said, texts, margin)

    examples, skipped = sift(enumerate(table), read, on_error=on_error, of=table.of)
    examples = [example for example in examples if example.row not in marked]
    skipped += marked_rows(sorted(marked), table.of)
    if contents is _texts and prompt:
        _check_prompts_apart(examples, prompt, responses)
    return examples, skipped


def _texts(
    row: Mapping[str, Any], prompt: str | None, responses: Sequence[str]
) -> tuple[str | None, tuple[str, ...]]:
    """Return the prompt and the responses of a row of texts."""
    is_pair = len(responses) > 1  # and needs no prompt
    shared = _text(row, prompt, may_be_empty=is_pair) if prompt else None
    texts = [_text(row, name, _response(name)) for name in responses]
    if prompt is None:
        shared, *texts = _split_texts(*texts)
        for name, text in zip(responses, texts, strict=True):
            text_value(text, _response(name))
    if is_pair and texts[0].strip() == texts[1].strip():
        _refuse_equal(responses, texts[0])
    return shared, tuple(texts)


def _split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Return the prompt that two dialogues share, and what each says after it."""
    ends = [text.rfind(TURN) for text in (chosen, rejected)]
    starts = [end + len(TURN) if end >= 0 else 0 for end in ends]  # 0 for a text without an answer
    if chosen[: starts[0]] != rejected[: starts[1]]:
        same = takewhile(bool, (a == b for a, b in zip(chosen, rejected, strict=False)))
        raise RowError(
            "no shared prompt",
            f"chosen and rejected part at character {sum(same)}, before the last 'Assistant:' "
            f"(characters {starts[0]} and {starts[1]}), so they share no prompt",
        )
    return chosen[: starts[0]], chosen[starts[0] :], rejected[starts[0] :]


def _text(row: Mapping[str, Any], name: str, label: str = "", *, may_be_empty: bool = False) -> str:
    hint = "; the first row has a text, so that all must"
    return text_value(row.get(name), label or repr(name), may_be_empty=may_be_empty, hint=hint)


def _response(name: str) -> str:
    return f"the response of {name!r}"


def _refuse_equal(responses: Sequence[str], text: str) -> None:
    raise RowError("equal", f"{' and '.join(map(repr, responses))} are both {reprlib.repr(text)}")


def _ids(
    row: Mapping[str, Any], prompt: str, responses: Sequence[str]
) -> tuple[Ids, tuple[Ids, ...]]:
    """Return the prompt and the responses of a row of token ids."""
    shared, *texts = (_column_ids(row.get(name), name) for name in (prompt, *responses))
    return shared, tuple(texts)


def _column_ids(value: Any, name: str) -> Ids:
    if value is None:
        raise RowError("empty", f"it has no {name!r}")
    try:
        if isinstance(value, str | bytes | Mapping):
            raise TypeError
        return tuple(map(index, value))
    except TypeError:
        value = reprlib.repr(value)
        raise RowError("not ids", f"{name!r} must be a list of token ids, got {value}") from None


def _messages(
    row: Mapping[str, Any], prompt: str | None, responses: Sequence[str]
) -> tuple[Chat, tuple[Messages, ...]]:
    """Return the prompt's conversation, and the messages that each response adds to it."""
    prompt = prompt or "prompt"
    texts = [_as_messages(row.get(name), name, "assistant") for name in responses]
    value, request = row.get(prompt), None
    if value is not None:
        request = _as_messages(value, prompt, "user" if isinstance(value, str) else None)
    if request is None or all(_begins(messages, request) for messages in texts):
        shared = len(texts[0]) - 1  # of a single conversation, all but the last message
        if len(texts) > 1:
            together = zip(*map(_unmarked, texts), strict=False)
            shared = sum(1 for _ in takewhile(lambda both: both[0] == both[1], together))
        if not shared or any(len(messages) <= shared for messages in texts):
            lack = "" if prompt in row else f", and of {[*row]} no column is {prompt!r}"
            raise RowError(
                "no shared prompt",
                f"the conversations share their first {shared} messages, which leaves no prompt or "
                f"no response{lack}",
            )
        request, texts = texts[0][:shared], [messages[shared:] for messages in texts]
    last = request[-1]
    if last["role"] == "assistant" or not (last["content"].strip() or last["role"] == "tool"):
        raise RowError(
            "no prompt",
            f"its prompt ends with {reprlib.repr(last)}; it must end with what the assistant "
            "answers",
        )
    for name, messages in zip(responses, texts, strict=True):
        _check_reply(messages, name)
    if len(texts) > 1 and _unmarked(texts[0]) == _unmarked(texts[1]):
        _refuse_equal(responses, reply_text(texts[0]))
    return Chat.of_row(request, row), tuple(texts)


def _unmarked(messages: Messages) -> Messages:
    """Return messages without their marks."""
    return [*map(unmarked, messages)]


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


def _begins(messages: Messages, request: Messages) -> bool:
    """Return whether a conversation begins with messages, or, after a system's, with one of them.

    Data sets that have both a prompt and whole conversations may leave the system's message out of
    the prompt.
    """
    start = 1 if messages[0]["role"] == "system" != request[0]["role"] else 0
    parts = (messages[start : start + len(request)], request)
    one, other = ([(m["role"], m["content"].strip()) for m in part] for part in parts)
    return one == other


def _check_reply(messages: Messages, name: str) -> None:
    """Refuse messages that are not the assistant's, or say nothing."""
    others = [message["role"] for message in messages if message["role"] != "assistant"]
    if others:
        raise RowError(
            "conversation",
            f"{_response(name)} has a message of the role {others[0]!r}, which would be learned as "
            "the policy's own words",
        )
    if not messages[-1]["content"].strip() and not messages[-1].get("tool_calls"):
        raise RowError("empty", f"{_response(name)} is empty, got {messages[-1]!r}")


def reply_text(reply: Sequence[Mapping[str, Any]]) -> str:
    """Return what a reply in messages says as text."""
    return "\n\n".join(map(text_of, reply))


def _margin(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        margin = float(value)  # a csv file with gaps gives its numbers as texts
    except (TypeError, ValueError):
        margin = math.nan
    if not 0 <= margin <= MAX_MARGIN:
        raise RowError(
            "margin", f"{name!r} must be a number from 0 to {MAX_MARGIN:,}, got {value!r}"
        )
    return margin
