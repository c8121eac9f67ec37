"""Prompts from the tables of a data set: their columns, their first tokens, their split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tokengym.base.bundle import Split, check_split
from tokengym.base.chat import ROW_FIELDS, Chat, is_messages, read_transcript
from tokengym.base.errors import DatasetError, SettingsError
from tokengym.base.prompt import NO_METADATA, Prompt, PromptColumns, PromptSet
from tokengym.envs.prompts.datasets import DatasetSource, read_tables
from tokengym.envs.prompts.tables import Column, RowError, Table, quoted, sift, text_value
from tokengym.envs.prompts.tokenization import in_parts, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEST_FRACTION = 0.1
_SPLIT_SEED = 0
_CUT_SEED = 0
_MISSING = ("nan", "none", "null")
"""Words that programs write for a missing value in a csv or tsv file."""
_POSITION = " (a position, such as 0, reads a csv or tsv file without header)"


def load_prompts(
    dataset: DatasetSource,
    *,
    prompt_column: Column | None = None,
    reference_column: Column | None = None,
    query_type_column: Column | None = None,
    metadata_columns: Sequence[Column] = (),
    named_columns: Sequence[tuple[str, bool]] = (),
    split: Split = "train",
    prompt_tokens: int | tuple[int, ...] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    transcripts: bool = False,
) -> PromptSet:
    """Return the prompts of a data set.

    A data set that has splits keeps them ("test" takes "validation" if there is no "test"). Any
    other is split by a fixed rule: the tenth of its distinct prompts with the smallest seeded
    hashes is the test split; the order of the rows does not matter, and no prompt is in both.

    Args:
        dataset: A ``datasets.Dataset`` or ``DatasetDict``; the path of a csv, tsv, json, jsonl,
            txt (these gzipped or not) or parquet file, or of a folder that ``save_to_disk`` wrote;
            or a name on the hub, with ``name:config`` for a configuration.
        prompt_column: Name, or position if the file has no header; None takes "prompt", or the
            only column. It holds texts, or conversations as lists of {"role", "content"}, which
            take the columns "tools", "documents" and "chat_template_kwargs" with them.
        reference_column: Reference answers, if any.
        query_type_column: R3's "OPENENDED" and "CONSTRAINED", if annotated.
        metadata_columns: Further columns, of any kind: each prompt's ``metadata`` by name.
        named_columns: Names that a scorer gives columns, and whether it needs each: those that the
            table has are read as if an argument above had named them; "*" stands for all.
        split: "train", "test" or "all".
        prompt_tokens: Keep only the first tokens of each text: a number, or (low, high) to draw
            one per row from a fixed seed. None keeps the text.
        tokenizer: Tokenizer that counts these tokens.
        transcripts: Whether texts that begin with "Human:" or "Assistant:" are conversations,
            as in HH-RLHF: the assistant's last turn is then the reference, unless a
            column gives one, and the messages before it are the prompt.

    Raises:
        DatasetError: if it cannot be read, a column is missing, or a value is not a text.
    """
    check_split(split)
    columns = (prompt_column, reference_column, query_type_column)
    headerless = any(isinstance(column, int) for column in (*columns, *metadata_columns))
    texts = {column for column in columns if column is not None}
    if prompt_column is None:
        texts.add("prompt")
    if reference_column is None and {"reference", "*"} & dict(named_columns).keys():
        texts.add("reference")
    tables = read_tables(dataset, headerless=headerless, texts=texts)
    splits = {}
    for name, table in tables.items():
        names = _column_names(table, columns, metadata_columns, named_columns, transcripts)
        splits[name] = _prompts(table, names, transcripts)
    if prompt_tokens is not None:
        if tokenizer is None:
            raise SettingsError(f"prompt_tokens={prompt_tokens} needs a tokenizer; pass tokenizer=")
        splits = {k: first_tokens(v, prompt_tokens, tokenizer) for k, v in splits.items()}
    return _choose(splits, split)


class ConversationCutError(SettingsError):
    """Prompts that are to be cut to their first tokens are conversations."""


def first_tokens(
    prompts: PromptSet, prompt_tokens: int | tuple[int, ...], tokenizer: PreTrainedTokenizerBase
) -> PromptSet:
    """Return the prompts cut to their first tokens, as `load_prompts` says."""
    listed = prompt_tokens if isinstance(prompt_tokens, list | tuple) else (prompt_tokens,) * 2
    bounds = [one for one in listed if isinstance(one, Integral) and not isinstance(one, bool)]
    if len(listed) != 2 or len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1] < 2**31:
        raise SettingsError(
            f"prompt_tokens must be a number or (low, high) with 1 <= low <= high, got "
            f"{prompt_tokens!r}"
        )
    if prompts.num_conversations:
        raise ConversationCutError(
            f"prompt_tokens={prompt_tokens} cannot cut a conversation; leave it out, or shorten "
            "the messages"
        )
    rng = np.random.default_rng(_CUT_SEED)
    lengths = iter(rng.integers(bounds[0], bounds[1] + 1, size=len(prompts)).tolist())
    cut: list[str] = []
    for texts in in_parts(prompts.texts):
        encoded = tokenize(tokenizer, texts, spans=tokenizer.is_fast)
        for text, (ids, spans, _), length in zip(texts, encoded, lengths, strict=False):
            if len(ids) > length:
                fast = tokenizer.is_fast
                text = text[: spans[length - 1][1]] if fast else str(tokenizer.decode(ids[:length]))
            cut.append(text)
    return prompts.with_texts(cut)


_Columns = tuple[str, str | None, str | None, list[str]]
"""Names of the columns of prompts, references and query types, and of further ones."""


def _prompts(table: Table, columns: _Columns, transcripts: bool) -> PromptSet:
    """Return a table's rows as prompts."""
    if not len(table):
        raise DatasetError("the data set has 0 rows; pass one with prompts")
    prompt, reference, query_type, further = columns
    texts = _texts(table, prompt)
    references, query_types = _annotations(table, reference), _annotations(table, query_type)
    metadata = {column: table.values(column) for column in further}
    beside = {field: table.values(field) for field in ROW_FIELDS if field in table.columns}

    def built(row: int, text: Any) -> Prompt:
        answer, make = references[row], cast("Any", Prompt)
        if transcripts and isinstance(text, str) and (parts := read_transcript(text)):
            text, answer = parts[0], answer or parts[1]
        if not isinstance(text, str):
            text = Chat.of_row(text, {field: values[row] for field, values in beside.items()})
            make = Prompt.from_messages
        rest = {column: values[row] for column, values in metadata.items()} or NO_METADATA
        return make(text, reference=answer, query_type=query_types[row], metadata=rest)

    numbered: Iterable[tuple[int, Any]] = enumerate(texts)
    if transcripts or not all(isinstance(text, str) for text in texts):
        return PromptSet(_checked(table, numbered, built, "correct it, or leave it out"))
    # Texts were checked, so that of their rows only a query type can still be wrong.
    numbered = ((n, texts[n]) for n, kind in enumerate(query_types) if kind is not None)
    _checked(table, numbered, built, "correct it, or leave it out")
    return PromptSet.of_columns(
        PromptColumns(
            texts=tuple(texts),
            references=references if any(references) else None,
            query_types=query_types if any(query_types) else None,
            metadata=metadata,
        )
    )


def _texts(table: Table, name: str) -> list[Any]:
    """Return a column's texts or conversations."""
    missing_words = _MISSING if table.is_csv else ()

    def checked(_: int, value: Any) -> Any:
        if not isinstance(value, str) and is_messages(value):
            return value
        text = text_value(value, repr(name))
        if missing_words and text.strip().lower() in missing_words:
            raise RowError("missing", f"{name!r} is {text!r}, which stands for a missing prompt")
        return text

    remedy = f"leave such rows out, or choose another of the columns {quoted(table.columns)}"
    return _checked(table, enumerate(table.values(name)), checked, remedy)


def _annotations(table: Table, name: str | None) -> Sequence[Any]:
    """Return a column's texts, None where one is empty or there is no column."""

    def checked(_: int, value: Any) -> str | None:
        text = "" if value is None else text_value(value, repr(name), may_be_empty=True)
        return text if text.strip() else None

    if name is None:
        return [None] * len(table)
    remedy = "write texts, or give its values to the scorer by metadata_columns"
    return _checked(table, enumerate(table.values(name)), checked, remedy)


def _checked(
    table: Table, rows: Iterable[tuple[int, Any]], step: Callable[[int, Any], Any], remedy: str
) -> list[Any]:
    """Return what a step makes of rows, none of which may be left out."""
    return sift(rows, step, on_error="raise", of=table.of, remedy=remedy)[0]


def _column_names(
    table: Table,
    columns: Sequence[Column | None],
    metadata_columns: Sequence[Column],
    scorer_columns: Sequence[tuple[str, bool]],
    transcripts: bool,
) -> _Columns:
    """Return the names of the columns to read, with those of the table that a scorer names."""
    arguments = ("prompt_column", "reference_column", "query_type_column")
    prompt, reference, query_type = (
        None if column is None else table.column(column, argument, hint=_POSITION)
        for column, argument in zip(columns, arguments, strict=True)
    )
    if prompt is None:
        prompt = table.columns[0] if len(table.columns) == 1 else "prompt"
        if prompt not in table.columns:
            raise DatasetError(
                f"no column is named 'prompt'; name one of {quoted(table.columns)} by "
                "prompt_column="
            )
    needs = dict(scorer_columns)
    if needs.pop("*", None) is not None:
        needs = dict.fromkeys(table.columns, False) | needs
    has_argument = {"reference": reference is not None or transcripts, "query_type": True}
    for name, is_needed in needs.items():
        if is_needed and name not in table.columns and not has_argument.get(name, False):
            how = f", or pass {name}_column=" if name in has_argument else ""
            raise DatasetError(
                f"the scorer takes {name!r}, which is none of the data's columns "
                f"{quoted(table.columns)}; name its parameter after one of them{how}"
            )
    needs = {name: True for name in needs if name in table.columns}
    further = [table.column(one, "metadata_columns", hint=_POSITION) for one in metadata_columns]
    further += [name for name in needs if name not in (*further, *has_argument)]
    if reference is None and "reference" in needs:
        reference = "reference"
    if query_type is None and "query_type" in needs:
        query_type = "query_type"
    return prompt, reference, query_type, further


def _choose(tables: dict[str, PromptSet], split: Split) -> PromptSet:
    """Return one split of the loaded tables."""
    if split == "all":
        return PromptSet(prompt for table in tables.values() for prompt in table)
    if len(tables) > 1:
        names = ("train",) if split == "train" else ("test", "validation")
        for name in names:
            if name in tables:
                return tables[name]
        raise DatasetError(
            f"the data set has no split {split!r}, only {', '.join(map(repr, tables))}; "
            "pass split='all', or one table of it"
        )
    (table,) = tables.values()
    texts = [*dict.fromkeys(table.texts)]
    if len(texts) < 2:
        raise DatasetError(
            f"{len(texts)} distinct prompt cannot be split into train and test; pass split='all'"
        )
    digests = bytearray()
    for text in texts:
        digests += hashlib.sha256(f"{_SPLIT_SEED}:{text}".encode()).digest()
    words = np.frombuffer(digests, dtype=">u8").reshape(len(texts), 4)
    ranked = np.lexsort(words.T[::-1])  # by the first word, then the second, ...
    held_out = {texts[i] for i in ranked[: max(1, round(TEST_FRACTION * len(texts)))].tolist()}
    is_test = split == "test"
    return table.select([i for i, text in enumerate(table.texts) if (text in held_out) == is_test])
