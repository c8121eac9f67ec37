"""Episodes of another trainer's file, found by its content."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokengym.base import jsonl_rows
from tokengym.envs import Episode, Prompt, decode, encode, encode_next
from tokengym.lab.traces import nemo_gym, openenv, plain, skyrl, trl, verifiers, verl
from tokengym.lab.traces.record import Record
from tokengym.rewards.pairs import RowError, read_table, sift

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

READERS = (verifiers, nemo_gym, openenv, trl, verl, skyrl, plain)
"""Formats, the most particular first: a row is read by the first that knows it."""
SUFFIXES = (".jsonl", ".parquet")
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError)
"""What a row of an unexpected shape raises."""
NO_PROMPT = "."
"""Text of a prompt that is tokens alone, in an environment that is made for its tokenizer."""


def read_traces(
    path: Path, tokenizer: "PreTrainedTokenizerBase", *, limit: int | None = None
) -> tuple[list[Episode], list[str]]:
    """Return the episodes of a trainer's files, with what it paid as their ``token_rewards``.

    Token ids that are there are never encoded again. A row that cannot be read is left out and
    said.

    Args:
        path: A file, or a folder with such files below it: JSON lines or parquet.
        tokenizer: Writes the tokens of rows that are text alone, and the text of tokens.
        limit: Most episodes; None reads all.

    Returns:
        The episodes, and a line for each row that was left out.
    """
    episodes: list[Episode] = []
    reasons: list[str] = []

    def read(_: int, row: Mapping[str, Any]) -> None:
        try:
            episodes.append(_episode(_record(row), tokenizer))
        except UNREADABLE as error:
            raise RowError("unreadable", str(error)) from None

    for file in _files(path):
        rows = takewhile(lambda _: limit is None or len(episodes) < limit, _numbered(file))
        of, remedy = f"file {file.name}", "it is left out"
        _, skipped = sift(rows, read, on_error="skip", of=of, remedy=remedy)
        reasons += [row.reason for row in skipped]
    if not episodes:
        formats = "; ".join(reader.NAME for reader in READERS)
        why = f" ({reasons[0]})" if reasons else ""
        raise ValueError(f"{path} holds no traces that can be read{why}; known are: {formats}")
    return episodes, reasons


def read_prompts(path: Path, *, limit: int | None = None) -> list[Prompt]:
    """Return the prompts of a trainer's files with the columns of their rows.

    Args:
        path: See `read_traces`.
        limit: Most prompts; None reads all.

    Returns:
        Prompts; one that is tokens alone stands as "." for an environment whose tokenizer reads it.
    """
    prompts: list[Prompt] = []
    for _, row in chain.from_iterable(map(_numbered, _files(path))):
        if limit is not None and len(prompts) >= limit:
            break
        with suppress(*UNREADABLE):
            record = _record(row)
            text, truth = record.prompt or NO_PROMPT, record.reference
            prompts.append(Prompt(text=text, reference=truth, metadata=record.columns))
    return prompts


def _files(path: Path) -> list[Path]:
    """Return a file, or the files below a folder."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)


def _numbered(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield a file's rows, from 1, with None for a number that a parquet table lacks."""
    rows: Iterable[Mapping[str, Any]] = (
        jsonl_rows(file) if file.suffix == ".jsonl" else read_table(file, of="traces")
    )
    for number, row in enumerate(rows, 1):
        yield number, {n: None if value != value else value for n, value in row.items()}


def _record(row: Mapping[str, Any]) -> Record:
    """Return what the first reader finds that knows a row."""
    for reader in READERS:
        if (record := reader.read(row)) is not None:
            return record
    raise ValueError(f"no known format has the columns {', '.join(map(repr, [*row][:8]))}")


def _episode(record: Record, tokenizer: "PreTrainedTokenizerBase") -> Episode:
    """Return a record as an episode."""
    prompt, prompt_ids = _prompt(record, tokenizer)
    response, response_ids = _response(record, tokenizer, prompt_ids)
    size, written, paid = len(response_ids), record.written, record.paid
    largest = max([*prompt_ids, *response_ids])
    if largest >= len(tokenizer):
        raise ValueError(
            f"token {largest} is none of the tokenizer's {len(tokenizer)}; pass the policy's by "
            "--tokenizer"
        )
    if isinstance(paid, (int, float)):  # one for all: that of the tokens which the policy wrote
        paid = [paid * mask for mask in (written or [1] * size)]
    per_token = {"entries of the mask": written, "log-probs": record.log_probs, "rewards": paid}
    for name, values in per_token.items():
        if values is not None and len(values) != size:
            raise ValueError(f"{len(values)} {name} for {size} response tokens")
    start = next((at for at, own in enumerate([1] if written is None else written) if own), None)
    if start is None:
        raise ValueError("the mask says that the policy wrote none of its tokens")
    if start:  # a response begins with the policy's first token
        lead, response_ids = response_ids[:start], response_ids[start:]
        prompt += _added(tokenizer, prompt_ids, lead)
        prompt_ids, response = [*prompt_ids, *lead], _text(tokenizer, response_ids)
    written = None if written is None else written[start:]
    log_probs = None if record.log_probs is None else record.log_probs[start:]
    token_rewards = _floats(None if paid is None else paid[start:])
    if token_rewards is not None and not np.isfinite(token_rewards).all():
        token = int(np.flatnonzero(~np.isfinite(token_rewards))[0])
        raise ValueError(f"the reward of response token {start + token} is no finite number")
    return Episode(
        prompt=prompt,
        response=response,
        prompt_ids=tuple(map(int, prompt_ids)),
        response_ids=tuple(map(int, response_ids)),
        written=None if written is None or all(written) else np.array(written, dtype=np.int8),
        log_probs=_floats(log_probs),
        token_rewards=token_rewards,
        score=record.score,
        reference=record.reference,
        metadata=record.columns,
    )


def _prompt(record: Record, tokenizer: "PreTrainedTokenizerBase") -> tuple[str, Sequence[int]]:
    """Return a record's prompt and its ids."""
    text, ids = record.prompt, record.prompt_ids
    if ids is None:
        if text is None:
            raise ValueError("there is no prompt, neither as text nor as tokens")
        return text, encode(tokenizer, [text])[0]
    return _text(tokenizer, ids) if text is None else text, ids


def _response(
    record: Record, tokenizer: "PreTrainedTokenizerBase", prompt_ids: Sequence[int]
) -> tuple[str, Sequence[int]]:
    """Return a record's response and its ids."""
    text, ids = record.response, record.response_ids
    if ids is None and text:
        ids = encode_next(tokenizer, [text], [prompt_ids])[0]
    if not ids:
        raise ValueError("there is no response, neither as text nor as tokens")
    return _text(tokenizer, ids) if text is None else text, ids


def _text(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """Return the text of tokens."""
    return decode(tokenizer, [ids])[0]


def _added(
    tokenizer: "PreTrainedTokenizerBase", prompt_ids: Sequence[int], ids: Sequence[int]
) -> str:
    """Return the text that tokens add to a prompt's."""
    before, after = decode(tokenizer, [prompt_ids, [*prompt_ids, *ids]])
    return after.removeprefix(before)


def _floats(values: Sequence[float] | None) -> Any:
    return None if values is None else np.array(values, dtype=np.float32)
