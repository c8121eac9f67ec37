"""Preference pairs and single responses as token ids, checked row by row."""

import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from operator import index
from typing import TYPE_CHECKING, Any, get_args

from tokengym.envs import Episode
from tokengym.envs.errors import DatasetError, TokenizerError
from tokengym.envs.prompts.prompt import is_messages, prompt_messages
from tokengym.envs.tokenization import encode, encode_chats, write_chat
from tokengym.rewards.pairs import (
    OnError,
    Overlong,
    RowError,
    SkippedRow,
    read_pairs,
    read_table,
    skipped_row,
    unicode_fault,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

PAIR_IDS = ("prompt_ids", "chosen_ids", "rejected_ids")


@dataclass(frozen=True, kw_only=True)
class EncodedRow:
    """One row of the data as token ids."""

    row: int
    """Its number in the data set, from 0."""
    prompt_ids: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    """(chosen, rejected) of a pair, or the one response."""

    @property
    def length(self) -> int:
        """Tokens of the prompt with the longest response."""
        return len(self.prompt_ids) + max(map(len, self.responses))


@dataclass(frozen=True, kw_only=True)
class EncodedTexts:
    """Texts that can be learned from, and the rows that were left out."""

    rows: tuple[EncodedRow, ...]
    skipped: tuple[SkippedRow, ...]

    def report(self) -> str:
        """Return one line: how many rows there are, and how many were left out for what."""
        line = f"{len(self.rows) + len(self.skipped)} rows, {len(self.rows)} kept"
        counts = Counter(row.kind for row in self.skipped).most_common()
        return line + "".join(f", {count} {kind}" for kind, count in counts)

    def dataset(self) -> "Dataset":
        """Return the rows as a `datasets.Dataset`.

        Its columns are prompt_ids, chosen_ids and rejected_ids (or response_ids), and length.
        """
        from datasets import Dataset

        names = PAIR_IDS[1:] if len(self.rows[0].responses) == 2 else ("response_ids",)
        columns: dict[str, Any] = {"prompt_ids": [row.prompt_ids for row in self.rows]}
        for place, name in enumerate(names):
            columns[name] = [row.responses[place] for row in self.rows]
        return Dataset.from_dict({**columns, "length": [row.length for row in self.rows]})


def _read_texts(source: Any) -> Any:
    """Return rows: a table, or a list of mappings or pairs; played episodes become rows of ids."""
    table = read_table(source, of="data")
    if not isinstance(table, list):
        return table
    return [
        {"prompt_ids": row.prompt_ids, "response_ids": row.response_ids}
        if isinstance(row, Episode)
        else row
        for row in table
    ]


def _columns_of(table: Any) -> list[str]:
    """Return the names of a table's columns."""
    if hasattr(table, "column_names"):
        return list(table.column_names)
    names = (name for row in table if isinstance(row, Mapping) for name in row)
    return list(dict.fromkeys(names))


def _rows_of_ids(table: Any, names: Sequence[str]) -> Iterable[EncodedRow | SkippedRow]:
    """Return the rows of columns of token ids."""
    for number, row in enumerate(table):
        try:
            prompt, *responses = (_ids(row, name) for name in names)
            yield EncodedRow(row=number, prompt_ids=prompt, responses=tuple(responses))
        except RowError as fault:
            yield skipped_row(number, fault, of="data")


def _ids(row: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """Return the ids of a column."""
    value = row.get(name) if isinstance(row, Mapping) else None
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


def _text_row(
    row: Mapping[str, Any], number: int, column: str
) -> tuple[str, tuple[str, ...]] | SkippedRow:
    """Return a row's prompt and response, or why it has none."""
    values = [row.get("prompt"), row.get(column)]
    for name, value in zip(("prompt", column), values, strict=True):
        if not isinstance(value, str) or not value.strip():
            kind = "empty" if value is None or value == "" or isinstance(value, str) else "not text"
            fault = RowError(kind, f"{name!r} must be a text, got {value!r}")
            return skipped_row(number, fault, of="data")
        if unread := unicode_fault(name, value):
            return skipped_row(number, unread, of="data")
    return str(values[0]), (str(values[1]),)


def _check_rows(
    rows: Iterable[EncodedRow | SkippedRow],
    encoding: "TextEncoding",
    vocab_size: int,
    *,
    skipped: Sequence[SkippedRow] = (),
) -> EncodedTexts:
    """Return the rows that can be learned from."""

    def check(row: EncodedRow) -> EncodedRow:
        _check_ids(row, vocab_size)
        return row

    kept, left_out = _sorted_out(rows, check, encoding)
    return _whole(EncodedTexts(rows=tuple(kept), skipped=(*skipped, *left_out)))


def _sorted_out(
    rows: Iterable[EncodedRow | SkippedRow],
    check: Callable[[EncodedRow], EncodedRow],
    encoding: "TextEncoding",
) -> tuple[list[EncodedRow], list[SkippedRow]]:
    """Return what passes a check, and what does not; unless the first one stops everything."""
    kept, left_out = [], []
    for row in rows:
        if isinstance(row, EncodedRow):
            try:
                kept.append(check(row))
                continue
            except RowError as fault:
                row = skipped_row(row.row, fault, of="data")
        if encoding.on_error == "raise":
            raise DatasetError(row.reason)
        left_out.append(row)
    return kept, left_out


def _check_ids(row: EncodedRow, vocab_size: int) -> None:
    """Raise unless the ids can be read and differ."""
    if not row.prompt_ids:
        raise RowError(
            "no prompt", "the prompt has no tokens, so nothing predicts the response's first"
        )
    for ids in row.responses:
        if not ids:
            raise RowError("empty", "a response has no tokens")
    for ids in (row.prompt_ids, *row.responses):
        if not 0 <= min(ids) <= max(ids) < vocab_size:
            wrong = next(token for token in ids if not 0 <= token < vocab_size)
            raise RowError(
                "unknown id",
                f"token id {wrong} lies outside the tokenizer's vocabulary of {vocab_size}",
            )
    if len(row.responses) == 2 and row.responses[0] == row.responses[1]:
        raise RowError("equal", f"both responses are the same {len(row.responses[0])} tokens")


def _limit_rows(
    encoded: EncodedTexts, encoding: "TextEncoding", max_positions: int | None
) -> EncodedTexts:
    """Return the rows that fit, cut or left out as the encoding says."""
    limits = [limit for limit in (encoding.max_length, max_positions) if limit is not None]
    if not limits:
        return encoded
    limit = min(limits)
    remedy = "shorten it, raise max_length if the model reads more"

    def fit(row: EncodedRow) -> EncodedRow:
        excess = row.length - limit
        if excess <= 0:
            return row
        if encoding.overlong == "left" and excess < len(row.prompt_ids):
            return replace(row, prompt_ids=row.prompt_ids[excess:])
        advice = ", or pass overlong='left' or 'drop'" if encoding.overlong == "error" else ""
        raise RowError(
            "overlong",
            f"prompt and longest response take {row.length} tokens ({len(row.prompt_ids)} of "
            f"prompt), more than {limit}; {remedy}{advice}",
        )

    if encoding.overlong == "drop":
        encoding = replace(encoding, on_error="skip")
    kept, left_out = _sorted_out(encoded.rows, fit, encoding)
    return _whole(replace(encoded, rows=tuple(kept), skipped=(*encoded.skipped, *left_out)))


def _whole(encoded: EncodedTexts) -> EncodedTexts:
    """Raise if nothing is left."""
    if not encoded.rows:
        first = f"; {encoded.skipped[0].reason}" if encoded.skipped else "; pass some"
        raise DatasetError(f"nothing is left to learn from: {encoded.report()}{first}")
    return encoded


# --- texts ----------------------------------------------------------------------------------------


Messages = list[dict[str, str]]

RESPONSE_COLUMNS = ("completion", "response", "chosen")
"""Names of the column that SFT learns, the first that is there; with ``_ids`` for token ids."""


@dataclass(frozen=True, kw_only=True)
class TextEncoding:
    """Settings of turning texts into token ids, and of rows that cannot be.

    Raises:
        ValueError: if a value is unknown.
    """

    max_length: int | None = None
    """Most tokens of prompt and response together; None: what the model reads."""
    overlong: Overlong = "error"
    """Treatment of longer ones: "error" stops, "left" cuts the prompt's beginning, "drop" skips."""
    append_eos: bool = True
    """Whether responses given as text end with EOS; those given as ids are left as they are."""
    chat_template: bool | None = None
    """Whether a prompt given as text goes through the tokenizer's chat template, as those of an
    environment with one do, a written-out dialogue turn by turn; None: as the environment has it
    from which the model comes, else not."""
    on_error: OnError = "raise"
    """Whether a row that cannot be learned from stops everything, or is left out and reported."""

    def __post_init__(self) -> None:
        for name, known in (("overlong", Overlong), ("on_error", OnError)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(known))}, got "
                    f"{getattr(self, name)!r}"
                )
        if self.max_length is not None and self.max_length < 2:
            raise ValueError(
                f"max_length must be at least 2, a token of prompt and one of response, got "
                f"{self.max_length}"
            )


def encode_pairs(
    source: Any,
    tokenizer: "PreTrainedTokenizerBase",
    encoding: TextEncoding,
    *,
    max_positions: int | None = None,
) -> EncodedTexts:
    """Return preference pairs as ids.

    Args:
        source: What `tokengym.rewards.read_pairs` reads; or rows or a data set with the columns
            prompt_ids, chosen_ids and rejected_ids, which are taken as they are; or with chosen and
            rejected as lists of messages (and prompt, or the messages that both begin with), which
            the tokenizer's chat template writes out.
        tokenizer: The model's.
        encoding: How.
        max_positions: The most tokens that the model reads.

    Raises:
        DatasetError: naming the row and the remedy.
    """
    table = _read_texts(source)
    if set(PAIR_IDS) <= set(_columns_of(table)):
        encoded = _check_rows(_rows_of_ids(table, PAIR_IDS), encoding, len(tokenizer))
    elif _holds_conversations(table, ("chosen", "rejected")):
        rows = _encode_conversations(table, ("chosen", "rejected"), tokenizer, encoding)
        encoded = _check_rows(rows, encoding, len(tokenizer))
    else:
        pairs = read_pairs(table, on_error=encoding.on_error)
        texts = [(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs]
        found = _encoded(texts, pairs.rows, tokenizer, encoding)
        encoded = _check_rows(found, encoding, len(tokenizer), skipped=pairs.skipped)
    return _limit_rows(encoded, encoding, max_positions)


def encode_responses(
    source: Any,
    tokenizer: "PreTrainedTokenizerBase",
    encoding: TextEncoding,
    *,
    max_positions: int | None = None,
) -> EncodedTexts:
    """Return prompts with one response each as ids.

    Args:
        source: Played episodes; or rows, a data set or a path, with the columns prompt and
            completion (or response, or chosen), texts or lists of messages; or prompt_ids and
            completion_ids (likewise).
        tokenizer: The model's.
        encoding: How.
        max_positions: The most tokens that the model reads.

    Raises:
        DatasetError: naming the row and the remedy.
    """
    table = _read_texts(source)
    columns = _columns_of(table)
    ids = [name for name in (f"{column}_ids" for column in RESPONSE_COLUMNS) if name in columns]
    texts = [name for name in RESPONSE_COLUMNS if name in columns]
    rows: Iterable[EncodedRow | SkippedRow]
    if ids and "prompt_ids" in columns:
        rows = _rows_of_ids(table, ("prompt_ids", ids[0]))
    elif texts and _holds_conversations(table, (texts[0],)):
        rows = _encode_conversations(table, (texts[0],), tokenizer, encoding)
    elif texts and "prompt" in columns:
        found = [_text_row(row, number, texts[0]) for number, row in enumerate(table)]
        good = [(n, text) for n, text in enumerate(found) if not isinstance(text, SkippedRow)]
        rows = [
            *(text for text in found if isinstance(text, SkippedRow)),
            *_encoded([text for _, text in good], [n for n, _ in good], tokenizer, encoding),
        ]
    else:
        raise DatasetError(
            f"texts to learn must have the columns 'prompt' and one of "
            f"{', '.join(map(repr, RESPONSE_COLUMNS))} (or these with _ids), got "
            f"{', '.join(map(repr, columns)) or 'none'}; rename them"
        )
    return _limit_rows(_check_rows(rows, encoding, len(tokenizer)), encoding, max_positions)


def _encoded(
    texts: Sequence[tuple[str, tuple[str, ...]]],
    numbers: Sequence[int],
    tokenizer: "PreTrainedTokenizerBase",
    encoding: TextEncoding,
) -> list[EncodedRow]:
    """Return texts as ids; the prompt's are those that a policy sees when it plays.

    A response's ids are what follows the prompt's in the whole text. Where tokens would merge
    across the border, so that the prompt's own are not its beginning, it is encoded by itself; so
    is a response to a prompt in the chat template.
    """
    if encoding.chat_template:
        return _encoded_in_template(texts, numbers, tokenizer, encoding)
    prompts = encode(tokenizer, [prompt for prompt, _ in texts])
    wholes = iter(
        encode(tokenizer, [prompt + text for prompt, responses in texts for text in responses])
    )
    rows = []
    for number, prompt_ids, (_, responses) in zip(numbers, prompts, texts, strict=True):
        found = []
        for text in responses:
            whole = next(wholes)
            if whole[: len(prompt_ids)] == prompt_ids:
                ids = whole[len(prompt_ids) :]
            else:
                ids = _alone(text, tokenizer)
            found.append(_ended(ids, tokenizer, encoding))
        row = EncodedRow(row=number, prompt_ids=tuple(prompt_ids), responses=tuple(found))
        rows.append(row)
    return rows


def _encoded_in_template(
    texts: Sequence[tuple[str, tuple[str, ...]]],
    numbers: Sequence[int],
    tokenizer: "PreTrainedTokenizerBase",
    encoding: TextEncoding,
) -> list[EncodedRow]:
    """Return texts as ids, prompts in the chat template and responses by themselves."""
    prompts = encode_chats(tokenizer, [prompt_messages(prompt) for prompt, _ in texts])
    rows = []
    for number, prompt_ids, (_, responses) in zip(numbers, prompts, texts, strict=True):
        found = (_ended(_alone(text.strip(), tokenizer), tokenizer, encoding) for text in responses)
        row = EncodedRow(row=number, prompt_ids=tuple(prompt_ids), responses=tuple(found))
        rows.append(row)
    return rows


def _alone(text: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Return the ids of a text by itself."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _ended(
    ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase", encoding: TextEncoding
) -> tuple[int, ...]:
    """Return a response with its EOS."""
    eos = tokenizer.eos_token_id
    if not encoding.append_eos or (ids and ids[-1] == eos):
        return tuple(ids)
    if eos is None:
        raise DatasetError(
            "the tokenizer has no EOS token to end responses with; set tokenizer.eos_token, or "
            "pass append_eos=False"
        )
    return (*ids, eos)


# --- responses as chat messages -------------------------------------------------------------------


def _holds_conversations(table: Any, columns: Sequence[str]) -> bool:
    """Say whether the first row's responses are lists of messages."""
    first = table[0] if len(table) else None
    return isinstance(first, Mapping) and all(is_messages(first.get(name)) for name in columns)


def _encode_conversations(
    table: Any,
    columns: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    encoding: TextEncoding,
) -> Iterator[EncodedRow | SkippedRow]:
    """Return rows of messages as ids."""
    for number, row in enumerate(table):
        try:
            prompt, responses = _split_messages(row, columns)
            yield _encoded_messages(number, prompt, responses, tokenizer, encoding)
        except RowError as fault:
            yield skipped_row(number, fault, of="data")
        except TokenizerError as error:
            yield skipped_row(number, RowError("chat template", str(error)), of="data")


def _split_messages(
    row: Mapping[str, Any], columns: Sequence[str]
) -> tuple[Messages, list[Messages]]:
    """Return the prompt's messages, and those that each response adds to them."""
    responses: list[Messages] = []
    for name in columns:
        if not is_messages(row.get(name)):
            raise RowError("not messages", f"{name!r} must be messages, got {row.get(name)!r}")
        responses.append(list(row[name]))
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}], responses
    if prompt is not None:
        if not is_messages(prompt):
            raise RowError("not messages", f"'prompt' must be messages, got {prompt!r}")
        return list(prompt), responses
    shared = len(responses[0]) - 1  # of a single conversation, all but the last message
    if len(responses) > 1:
        together = zip(*responses, strict=False)
        shared = sum(1 for _ in takewhile(lambda m: all(one == m[0] for one in m), together))
    if not shared or any(len(messages) <= shared for messages in responses):
        raise RowError(
            "no shared prompt",
            f"the conversations share their first {shared} messages, which leaves no prompt or no "
            "response",
        )
    return responses[0][:shared], [messages[shared:] for messages in responses]


def _encoded_messages(
    number: int,
    prompt: Messages,
    responses: Sequence[Messages],
    tokenizer: "PreTrainedTokenizerBase",
    encoding: TextEncoding,
) -> EncodedRow:
    pairs = [(message["role"], message["content"]) for message in prompt]
    (prompt_ids,) = encode_chats(tokenizer, [pairs])
    found = []
    for messages in responses:
        text = write_chat(tokenizer, [*prompt, *messages], to_answer=False)
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if ids[: len(prompt_ids)] != prompt_ids:
            raise RowError(
                "chat template",
                "the chat template writes the prompt another way when a response follows, so the "
                "two cannot be told apart",
            )
        response = ids[len(prompt_ids) :]
        eos = tokenizer.eos_token_id
        if encoding.append_eos and eos is not None and eos not in response:
            response = [*response, eos]
        found.append(tuple(response))
    return EncodedRow(row=number, prompt_ids=tuple(prompt_ids), responses=tuple(found))
