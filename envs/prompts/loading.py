"""Prompts from the tables of a data set: their columns, their first tokens, their split."""

from __future__ import annotations

import hashlib
import logging
import reprlib
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from tokengym.base.bundle import Split, check_split
from tokengym.base.chat import ROW_FIELDS, Chat, is_messages, read_transcript, without_filled
from tokengym.base.errors import DatasetError, PromptError, SettingsError
from tokengym.base.prompt import NO_METADATA, Prompt, PromptColumns, PromptSet
from tokengym.envs.prompts.datasets import DatasetSource, holds_mappings, read_tables
from tokengym.envs.prompts.tables import Column, find_column, quoted
from tokengym.envs.prompts.tokenization import in_parts, tokenize

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TEST_FRACTION = 0.1
_SPLIT_SEED = 0
_CUT_SEED = 0
_ROWS = 10_000  # values of a column that are read at a time
_HEADINGS = frozenset(
    ("prompt", "prompts", "query", "question", "instruction", "text", "review", "sentence")
)
"""Usual names of a column of prompts, none of which is a prompt."""
_MISSING = ("nan", "none", "null")
"""Words that programs write for a missing value in a csv or tsv file."""


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
            parquet or txt file (gzipped or not) or of a folder that ``save_to_disk`` wrote; or a
            name on the hub, with ``name:config`` for a configuration.
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
    by_name = read_tables(dataset, headerless=headerless, texts=texts)
    if headerless and by_name.keys() == {""} and by_name[""].info.builder_name == "csv":
        _say_header(by_name[""], prompt_column, dataset)
    tables = {
        name: _prompts(
            table,
            *_with_named(table, columns, metadata_columns, named_columns, transcripts),
            transcripts,
        )
        for name, table in by_name.items()
    }
    if prompt_tokens is not None:
        if tokenizer is None:
            raise SettingsError(f"prompt_tokens={prompt_tokens} needs a tokenizer; pass tokenizer=")
        tables = {k: first_tokens(v, prompt_tokens, tokenizer) for k, v in tables.items()}
    return _choose(tables, split)


def first_tokens(
    prompts: PromptSet, prompt_tokens: int | tuple[int, ...], tokenizer: PreTrainedTokenizerBase
) -> PromptSet:
    """Return the prompts cut to their first tokens.

    Args:
        prompts: The prompts; references and query types are kept.
        prompt_tokens: Number of tokens, or (low, high) to draw one per prompt from a fixed seed.
        tokenizer: Tokenizer that counts them, without special tokens.
    """
    listed = prompt_tokens if isinstance(prompt_tokens, list | tuple) else (prompt_tokens,) * 2
    bounds = [one for one in listed if isinstance(one, Integral) and not isinstance(one, bool)]
    if len(listed) != 2 or len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1] < 2**31:
        raise SettingsError(
            f"prompt_tokens must be a number or (low, high) with 1 <= low <= high, got "
            f"{prompt_tokens!r}"
        )
    rng = np.random.default_rng(_CUT_SEED)
    lengths = rng.integers(bounds[0], bounds[1] + 1, size=len(prompts)).tolist()
    if prompts.num_conversations:
        raise SettingsError(
            f"prompt_tokens={prompt_tokens} cannot cut a conversation; leave it out, or shorten "
            "the messages"
        )
    cut: list[str] = []
    for part in in_parts(list(zip(prompts.texts, lengths, strict=True))):
        texts = [text for text, _ in part]
        encoded = tokenize(tokenizer, texts, spans=tokenizer.is_fast)
        for (text, length), (ids, spans, _) in zip(part, encoded, strict=True):
            if len(ids) > length:
                fast = tokenizer.is_fast
                text = text[: spans[length - 1][1]] if fast else str(tokenizer.decode(ids[:length]))
            cut.append(text)
    return prompts.with_texts(cut)


def _prompts(
    table: Dataset,
    columns: Sequence[Column | None],
    metadata_columns: Sequence[Column],
    transcripts: bool,
) -> PromptSet:
    """Return the table's rows as prompts; ``columns`` name prompt, reference and query type."""
    column = _column_name(table, columns[0], "prompt_column")
    texts = _texts(table, column, required=True)
    rest = [
        [None] * len(texts)
        if column is None
        else _texts(table, _column_name(table, column, argument), required=False)
        for column, argument in zip(
            columns[1:], ("reference_column", "query_type_column"), strict=True
        )
    ]
    names = [_column_name(table, column, "metadata_columns") for column in metadata_columns]
    metadata = {name: _values(table, name) for name in names}
    beside = {name: _values(table, name) for name in ROW_FIELDS if name in table.column_names}
    if not texts:
        raise DatasetError("the data set has 0 rows; pass one with prompts")
    references, query_types = rest

    def built(row: int) -> Prompt:
        text, reference = texts[row], references[row]
        written_out = read_transcript(text) if transcripts and isinstance(text, str) else None
        if written_out is not None:
            text, answer = written_out
            reference = reference or answer
        told = {name: values[row] for name, values in metadata.items()} or NO_METADATA
        build: Any = Prompt
        try:
            if not isinstance(text, str):
                told_beside = {name: values[row] for name, values in beside.items()}
                build, text = Prompt.from_messages, Chat.of_row(text, told_beside)
            return build(text, reference=reference, query_type=query_types[row], metadata=told)
        except PromptError as error:
            raise DatasetError(f"row {row} of the data set: {error}") from error

    if transcripts or not all(isinstance(text, str) for text in texts):
        return PromptSet(map(built, range(len(texts))))
    for row, (text, reference, query_type) in enumerate(
        zip(texts, references, query_types, strict=True)
    ):
        # Only these can be refused: the texts are not empty, and ASCII has no surrogates.
        if query_type is not None or not text.isascii() or not (reference or "").isascii():
            built(row)
    return PromptSet.of_columns(
        PromptColumns(
            texts=tuple(texts),
            references=None if references.count(None) == len(texts) else references,
            query_types=None if query_types.count(None) == len(texts) else query_types,
            metadata=metadata,
        )
    )


def _with_named(
    table: Dataset,
    columns: Sequence[Column | None],
    metadata_columns: Sequence[Column],
    named: Sequence[tuple[str, bool]],
    transcripts: bool,
) -> tuple[Sequence[Column | None], Sequence[Column]]:
    """Return the columns to read, with those of the table that a scorer names."""
    there, (prompt, reference, query_type) = table.column_names, columns
    needs = dict(named)
    if needs.pop("*", None) is not None:
        needs = dict.fromkeys(there, False) | needs
    given = {"reference": reference is not None or transcripts, "query_type": True}
    for name, is_needed in needs.items():
        if is_needed and name not in there and not given.get(name, False):
            how = f", or pass {name}_column=" if name in given else ""
            raise DatasetError(
                f"the scorer takes {name!r}, which is none of the data's columns {quoted(there)}; "
                f"name its parameter after one of them{how}"
            )
    further = list(metadata_columns)
    read = [_column_name(table, one, "metadata_columns") for one in metadata_columns]
    further += [one for one in needs if one in there and one not in (*read, *given)]
    if reference is None and "reference" in needs and "reference" in there:
        reference = "reference"
    if query_type is None and "query_type" in needs and "query_type" in there:
        query_type = "query_type"
    return (prompt, reference, query_type), further


def _say_header(table: Dataset, column: Column | None, file: DatasetSource) -> None:
    """Warn of a csv or tsv file read without a header whose first row seems to be one."""
    first = [str(value).strip() for value in table[0].values()] if len(table) else []
    if (
        isinstance(column, int)
        and first[column : column + 1]
        and first[column].lower() in _HEADINGS
    ):
        logger.warning(
            "the first row of %s looks like a header (%s) and is read as a prompt, because columns "
            "are given by position; name them to have it read as a header",
            file,
            ", ".join(first),
        )


def _column_name(table: Dataset, column: Column | None, argument: str) -> str:
    """Return the name of a column given by name or position; None: "prompt", or the only one."""
    names = table.column_names
    default = names[0] if len(names) == 1 else "prompt"
    if (name := find_column(names, column, argument, default=default)) is None:
        raise DatasetError(f"{argument}=None is ambiguous; name one of the columns {quoted(names)}")
    return name


def _texts(table: Dataset, name: str, *, required: bool) -> list[Any]:
    """Return a column's texts, or conversations if required; optional empty ones become None."""
    values = _values(table, name)
    no_words = _MISSING if required and table.info.builder_name == "csv" else ()
    for row, value in enumerate(values):
        if value is None or (isinstance(value, str) and not value.strip()):
            if required:
                raise DatasetError(
                    f"row {row} of column {name!r} is empty, got {value!r}; filter such rows out"
                )
            values[row] = None
        elif not isinstance(value, str) and not (required and is_messages(value)):
            remedy = f"choose one of the columns {quoted(table.column_names)}, or write texts"
            if not required:
                remedy += ", or give its values to the scorer by metadata_columns"
            raise DatasetError(
                f"column {name!r} must hold texts, row {row} has {type(value).__name__} "
                f"{reprlib.repr(value)}; {remedy}"
            )
        elif no_words and isinstance(value, str) and value.strip().lower() in no_words:
            raise DatasetError(
                f"row {row} of column {name!r} is {value!r}, which stands for a missing prompt; "
                "filter such rows out, or write the word in a jsonl file if it is meant"
            )
    return values


def _values(table: Dataset, name: str) -> list[Any]:
    """Return a column's values."""
    if holds_mappings(table.features.get(name)):
        return [*map(without_filled, table[name])]
    if table.format["type"] is not None:  # a transform of the user's reads row by row
        return list(table[name])
    column = table.select_columns(name)
    starts = range(0, len(table), _ROWS)
    return [value for start in starts for value in column[start : start + _ROWS][name]]


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
