"""Rows of token ids: read from columns, checked, cut to what a model reads."""

import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import TYPE_CHECKING, Any

from tokengym.envs import Episode
from tokengym.envs.errors import DatasetError
from tokengym.rewards.pairs import RowError, SkippedRow, read_table, skipped_row

if TYPE_CHECKING:
    from datasets import Dataset

    from tokengym.agents.offline.encoding import TextEncoding

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
    """What can be learned from, and what was left out."""

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


def read_texts(source: Any) -> Any:
    """Return rows: a table, or a list of mappings or pairs; played episodes become rows of ids.

    Args:
        source: As for `tokengym.rewards.pairs.read_table`.

    Raises:
        DatasetError: if it cannot be read, or has several splits.
    """
    table = read_table(source, of="data")
    if not isinstance(table, list):
        return table
    return [
        {"prompt_ids": row.prompt_ids, "response_ids": row.response_ids}
        if isinstance(row, Episode)
        else row
        for row in table
    ]


def columns_of(table: Any) -> list[str]:
    """Return the names of a table's columns."""
    if hasattr(table, "column_names"):
        return list(table.column_names)
    names = (name for row in table if isinstance(row, Mapping) for name in row)
    return list(dict.fromkeys(names))


def rows_of_ids(table: Any, names: Sequence[str]) -> Iterable[EncodedRow | SkippedRow]:
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


def text_row(
    row: Mapping[str, Any], number: int, column: str
) -> tuple[str, tuple[str, ...]] | SkippedRow:
    """Return a row's prompt and response, or why it has none."""
    values = [row.get("prompt"), row.get(column)]
    for name, value in zip(("prompt", column), values, strict=True):
        if not isinstance(value, str) or not value.strip():
            kind = "empty" if value is None or value == "" or isinstance(value, str) else "not text"
            fault = RowError(kind, f"{name!r} must be a text, got {value!r}")
            return skipped_row(number, fault, of="data")
    return str(values[0]), (str(values[1]),)


def check_rows(
    rows: Iterable[EncodedRow | SkippedRow],
    encoding: "TextEncoding",
    vocab_size: int,
    *,
    skipped: Sequence[SkippedRow] = (),
) -> EncodedTexts:
    """Return the rows that can be learned from.

    Args:
        rows: Rows, and what could not be read as one.
        encoding: Says whether one such row stops everything.
        vocab_size: Ids must lie below.
        skipped: What was left out before.

    Raises:
        DatasetError: naming the row and the remedy; or if none is left.
    """

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


def limit_rows(
    encoded: EncodedTexts, encoding: "TextEncoding", max_positions: int | None
) -> EncodedTexts:
    """Return the rows that fit, cut or left out as the encoding says.

    Args:
        encoded: The rows.
        encoding: Says how long they may be, and what becomes of longer ones.
        max_positions: The most tokens that the model reads; None sets no limit.

    Raises:
        DatasetError: naming the row and the remedy; or if none is left.
    """
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
