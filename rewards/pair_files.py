"""Preference pairs out of data sets: found by their columns, split where they part, checked."""

import math
import reprlib
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, Literal, get_args

from tokengym.envs.errors import DatasetError
from tokengym.envs.prompts.loading import read_tables
from tokengym.rewards.pairs import PreferencePair, PreferencePairs, SkippedRow

TURN = "\n\nAssistant:"
"""Where an answer of a written-out dialogue begins, as in HH-RLHF."""

OnError = Literal["raise", "skip"]


class _Fault(Exception):
    """What is wrong with a row: its kind, and a sentence."""


def read_pairs(
    dataset: Any,
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
    empty prompt.

    Args:
        dataset: A ``datasets.Dataset`` or ``DatasetDict``; the path of a csv, tsv, json, jsonl or
            parquet file, gzipped or not; a name on the hub; rows as mappings; or pairs, which are
            checked as rows are.
        prompt_column: None takes "prompt" if there is such a column.
        chosen_column: The preferred response, or dialogue.
        rejected_column: The other.
        margin_column: Numbers >= 0; None takes "margin" if there is such a column.
        split: Which one, where the data set has splits; None takes the only one.
        on_error: "skip" leaves rows out that make no comparison, and says which and why.

    Raises:
        DatasetError: if it cannot be read, lacks a column or is empty; by "raise", if a text is
            missing or empty, both are equal, or the dialogues part before the last answer.
    """
    if on_error not in get_args(OnError):
        raise DatasetError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    if isinstance(dataset, PreferencePairs):
        return dataset
    rows = _rows(dataset, split)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    prompt = _column(columns, prompt_column, "prompt_column", default="prompt")
    chosen = _column(columns, chosen_column, "chosen_column")
    rejected = _column(columns, rejected_column, "rejected_column")
    margin = _column(columns, margin_column, "margin_column", default="margin")
    kept: dict[int, PreferencePair] = {}
    skipped = []
    for number, row in enumerate(rows):
        try:
            kept[number] = _pair(row, prompt, str(chosen), str(rejected), margin)
        except _Fault as fault:
            kind, what = fault.args
            reason = f"row {number} of the pairs: {what}; correct it, or pass on_error='skip'"
            if on_error == "raise":
                raise DatasetError(reason) from None
            skipped.append(SkippedRow(row=number, kind=kind, reason=reason))
    pairs = PreferencePairs(tuple(kept.values()), tuple(kept), tuple(skipped))
    _check_all(pairs)
    return pairs


def split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    r"""Return the prompt that two texts share, and what each says after it.

    Args:
        chosen: A whole dialogue, or a text without turns.
        rejected: Another one.

    Raises:
        DatasetError: if the dialogues part before the assistant's last turn.

    Example:
        >>> split_texts("Human: Hi\n\nAssistant: Hello", "Human: Hi\n\nAssistant: Go")
        ('Human: Hi\n\nAssistant:', ' Hello', ' Go')
    """
    starts = [_answer_start(text) for text in (chosen, rejected)]
    if chosen[: starts[0]] != rejected[: starts[1]]:
        same = takewhile(bool, (a == b for a, b in zip(chosen, rejected, strict=False)))
        raise DatasetError(
            f"chosen and rejected part at character {sum(1 for _ in same)}, before the last "
            f"'Assistant:' (characters {starts[0]} and {starts[1]}), so they share no prompt"
        )
    start = starts[0]
    return chosen[:start], chosen[start:], rejected[start:]


def _answer_start(text: str) -> int:
    """Return where the last answer of a dialogue begins; 0 for a text without one."""
    place = text.rfind(TURN)
    return place + len(TURN) if place >= 0 else 0


def _rows(dataset: Any, split: str | None) -> list[Mapping[str, Any]]:
    """Return the rows of one table."""
    if isinstance(dataset, Sequence) and not isinstance(dataset, str):
        rows = [vars(row) if isinstance(row, PreferencePair) else row for row in dataset]
    else:
        tables = read_tables(dataset)
        if split is None and len(tables) > 1:
            raise DatasetError(
                f"the pairs have the splits {', '.join(map(repr, tables))}; choose one by split="
            )
        if split is not None and split not in tables:
            raise DatasetError(
                f"the pairs have no split {split!r}, only {', '.join(map(repr, tables))}"
            )
        rows = list(tables[next(iter(tables)) if split is None else split])
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DatasetError(
                f"row {number} of the pairs is {type(row).__name__}; it must be a mapping with "
                "'chosen' and 'rejected'"
            )
    if not rows:
        raise DatasetError("the pairs have 0 rows; give at least one comparison")
    return rows


def _column(
    columns: Sequence[str], name: str | None, argument: str, *, default: str | None = None
) -> str | None:
    """Return a column's name; None if it is optional and not there."""
    if name is None:
        return default if default in columns else None
    if name not in columns:
        raise DatasetError(
            f"{argument}={name!r} is no column of the pairs; the columns are "
            f"{', '.join(map(repr, columns))}"
        )
    return name


def _pair(
    row: Mapping[str, Any], prompt: str | None, chosen: str, rejected: str, margin: str | None
) -> PreferencePair:
    """Return a row as a pair.

    Raises:
        _Fault: if it is none.
    """
    given = None if prompt is None else _text(row, prompt, empty=True)
    one, other = _text(row, chosen), _text(row, rejected)
    if given is None:
        try:
            given, one, other = split_texts(one, other)
        except DatasetError as error:
            raise _Fault("no shared prompt", str(error)) from None
    for name, response in ((chosen, one), (rejected, other)):
        if not response.strip():
            raise _Fault("empty", f"the response of {name!r} is empty, got {response!r}")
    if one.strip() == other.strip():
        raise _Fault("equal", f"{chosen!r} and {rejected!r} are both {reprlib.repr(one)}")
    return PreferencePair(
        prompt=given,
        chosen=one,
        rejected=other,
        margin=None if margin is None else _margin(row, margin),
    )


def _text(row: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    value = row.get(name)
    if value is None or (value == "" and not empty):
        raise _Fault("empty", f"{name!r} is empty, got {value!r}")
    if not isinstance(value, str):
        raise _Fault(
            "not text",
            f"{name!r} must be a text, got {type(value).__name__} {reprlib.repr(value)} (write a "
            "conversation out with tokenizer.apply_chat_template)",
        )
    return value


def _margin(row: Mapping[str, Any], name: str) -> float | None:
    given = row.get(name)
    if given is None or given == "":
        return None
    try:
        value = float(given)  # a csv file with gaps gives its numbers as texts
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise _Fault("margin", f"{name!r} must be a number >= 0, got {given!r}")
    return value


def _check_all(pairs: PreferencePairs) -> None:
    """Raise if nothing is left, or the prompts stand in the responses too."""
    if not pairs:
        raise DatasetError(f"no pair is left: {pairs.report()}; {pairs.skipped[0].reason}")
    if len(pairs) > 1 and all(
        pair.prompt.strip()
        and pair.chosen.startswith(pair.prompt)
        and pair.rejected.startswith(pair.prompt)
        for pair in pairs
    ):
        raise DatasetError(
            "every response begins with its prompt, which a model would read twice; leave the "
            "prompt out of the responses"
        )
