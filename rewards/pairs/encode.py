"""Pairs and single responses as token ids, as a policy sees them when it plays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from tokengym.base.chat import Chat
from tokengym.base.errors import DatasetError
from tokengym.base.prompt import Prompt
from tokengym.base.settings import check_choice, check_count
from tokengym.envs.prompts.contents import content, joined
from tokengym.envs.prompts.conversation import encode_replies, end_texts, turn_end
from tokengym.envs.prompts.cutting import without_beginning
from tokengym.envs.prompts.tables import (
    LearnOn,
    OnError,
    RowError,
    SkippedRow,
    Table,
    quoted,
    sift,
)
from tokengym.envs.prompts.tokenization import encode, encode_contents, encode_next
from tokengym.envs.prompts.vocabulary import Vocabulary
from tokengym.envs.settings import PLACE, TextSettings
from tokengym.rewards.pairs.answers import learned_answers
from tokengym.rewards.pairs.read import (
    Example,
    Ids,
    TableSource,
    read_examples,
    read_pairs,
    read_table,
    rows_read,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

PAIR_IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
LEARNED = ("completion", "response", "chosen")
"""Names of the column that SFT learns, the first that is there; with ``_ids`` for token ids."""


@dataclass(frozen=True, kw_only=True)
class EncodedTexts:
    """Texts that can be learned from, and the rows that were left out."""

    rows: tuple[Example[Ids], ...]
    """Prompts with their responses; a conversation gives one for each answer that is learned."""
    skipped: tuple[SkippedRow, ...]
    unlearned_answers: int = 0
    """Answers of conversations that are not learned: marked so, or not the last one."""
    unlearned_tokens: int = 0
    """Tokens of their texts."""

    def report(self) -> str:
        """Return one line: how many rows there are, and what was left out for what."""
        line = rows_read(len({row.row for row in self.rows}), "kept", self.skipped)
        if not self.unlearned_answers:
            return line
        return (
            f"{line}; {self.unlearned_tokens} tokens of {self.unlearned_answers} answers are not "
            "learned: marked so, before the last (learn_on='last'), or in answer to nothing"
        )

    def digest(self) -> str:
        """Return the first 16 digits of the SHA-256 of the rows' ids."""
        digest = sha256()
        for row in self.rows:
            for ids in (row.prompt, *row.responses):
                digest.update(f"{len(ids)}:".encode() + np.asarray(ids, dtype=np.int64).tobytes())
        return digest.hexdigest()[:16]

    def dataset(self) -> "Dataset":
        """Return the rows as a `datasets.Dataset`.

        Its columns are prompt_ids, chosen_ids and rejected_ids (or response_ids), and length.
        """
        from datasets import Dataset

        ids = PAIR_IDS if len(self.rows[0].responses) == 2 else ("prompt_ids", "response_ids")
        names = (*ids, "length")
        values = [(row.prompt, *row.responses, _length(row)) for row in self.rows]
        return Dataset.from_list([dict(zip(names, one, strict=True)) for one in values])


@dataclass(frozen=True, kw_only=True)
class TextEncoding(TextSettings):
    """Settings of turning texts into token ids, and of rows that cannot be.

    Responses given as text end with EOS, or with the token by which the chat template ends an
    answer where they are in it; those given as ids are left as they are.
    """

    max_length: int | None = None
    """Most tokens of prompt and response together; None: what the model reads."""
    chat_template: bool | None = None  # type: ignore[assignment]
    """As of `TextSettings`, a written-out dialogue turn by turn; None: as the environment has it
    from which the model comes, else not."""
    prompt_format: str | None = None
    """Frame of every prompt that is a text, as of `GenerationSettings`; None has no frame."""
    prompt_column: str | None = None
    """Column of prompts that are texts or messages; None takes "prompt"."""
    on_error: OnError = "raise"
    """Whether a row that cannot be learned from stops everything, or is left out and reported."""
    learn_on: LearnOn = "all"
    """Answers that SFT learns of a conversation that is given as a whole: "all", the assistant's,
    as TRL's assistant_only_loss=True, or the "last". (TRL's default learns the user's words too.)
    Answers, and pairs, that a row or message marks as not to be learned (a weight of 0; train,
    trainable, loss_mask or loss that is false) never are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "on_error", get_args(OnError))
        check_choice(self, "learn_on", get_args(LearnOn))
        remedy = "a token of prompt and one of response"
        check_count(self, "max_length", least=2, optional=True, hint=remedy)


def encode_pairs(
    source: TableSource,
    tokenizer: "PreTrainedTokenizerBase",
    encoding: TextEncoding,
    *,
    max_positions: int | None = None,
) -> EncodedTexts:
    """Return preference pairs as ids.

    Args:
        source: Input of `tokengym.rewards.read_pairs`, whose messages the tokenizer's chat template
            writes out; or rows or a data set with the columns prompt_ids, chosen_ids and
            rejected_ids, which are taken as they are.
        tokenizer: The model's.
        encoding: How.
        max_positions: The most tokens that the model reads.

    Raises:
        DatasetError: naming the row and the remedy.
    """
    return encode_examples(*pair_rows(source, encoding), tokenizer, encoding, max_positions)


def encode_responses(
    source: TableSource,
    tokenizer: "PreTrainedTokenizerBase",
    encoding: TextEncoding,
    *,
    max_positions: int | None = None,
) -> EncodedTexts:
    """Return prompts with one response each as ids.

    Args:
        source: Played episodes; or rows, a data set or a path, with the columns prompt and
            completion (or response, or chosen), texts or lists of messages; or messages, of which
            the assistant's are learned; or text, all of which is; or prompt_ids and completion_ids
            (likewise).
        tokenizer: The model's.
        encoding: How.
        max_positions: The most tokens that the model reads.

    Raises:
        DatasetError: naming the row and the remedy.
    """
    return encode_examples(*response_rows(source, encoding), tokenizer, encoding, max_positions)


Examples = tuple[Sequence[Example[Any]], Sequence[SkippedRow]]
"""What rows give to learn from, and the rows that were left out."""


def pair_rows(source: TableSource | Table, encoding: TextEncoding) -> Examples:
    """Return preference pairs as texts, messages or ids; see `encode_pairs`."""
    column = encoding.prompt_column
    table = read_table(source, of="data", texts=(column,))
    if column is None and {*PAIR_IDS} <= {*table.columns}:
        return read_examples(table, *PAIR_IDS, on_error=encoding.on_error)
    pairs = read_pairs(table, prompt_column=column, on_error=encoding.on_error)
    examples = [
        Example(n, pair.messages or pair.prompt, pair.replies or (pair.chosen, pair.rejected))
        for n, pair in zip(pairs.rows, pairs, strict=True)
    ]
    return examples, pairs.skipped


def response_rows(source: TableSource | Table, encoding: TextEncoding) -> Examples:
    """Return prompts with one response each as texts, messages or ids; see `encode_responses`.

    Of a whole conversation each answer that is learned is a row, behind what comes before it.
    """
    column = encoding.prompt_column
    table = read_table(source, of="data", texts=(column,))
    prompt = table.optional_column(column, "prompt_column", default="prompt") or "prompt"
    columns = table.columns
    ids = [f"{name}_ids" for name in LEARNED if f"{name}_ids" in columns]
    texts = [name for name in LEARNED if name in columns]
    if "label" in columns and any(label is False for label in table.values("label")):
        raise DatasetError(
            "the rows are unpaired, as KTO learns them, and those with the label False would be "
            "learned too; keep those with True, or train a reward model on read_labels(rows, "
            "text_column='completion')"
        )
    if ids and "prompt_ids" in columns and column is None:
        names = ("prompt_ids", ids[0])
    elif texts and (prompt in columns or table.holds_messages(None, texts[0])):
        names = (prompt, texts[0])
    elif "messages" in columns:
        names = (prompt, "messages")
    elif "text" in columns and column is None:
        names = ("", "text")
    else:
        raise DatasetError(
            f"texts to learn must have the columns {prompt!r} and one of {quoted(LEARNED)} (or "
            f"these with _ids), or 'messages' or 'text', got {quoted(columns) or 'none'}; rename "
            "them, or name the prompts' by prompt_column="
        )
    examples, skipped = read_examples(table, *names, on_error=encoding.on_error)
    learned, out = learned_answers(
        examples,
        table,
        encoding.learn_on,
        encoding.on_error,
        are_whole=names[0] not in columns,
    )
    return learned, [*skipped, *out]


def encode_examples(
    examples: Sequence[Example[Any]],
    skipped: Sequence[SkippedRow],
    tokenizer: "PreTrainedTokenizerBase",
    encoding: TextEncoding,
    max_positions: int | None,
) -> EncodedTexts:
    """Return examples of texts, messages or ids as ids, those that can be learned from."""

    def as_ids(_: int, place: int) -> tuple[Example[Any], Example[Ids]]:
        ids = _as_ids(texts[place], tokenizer, encoding)
        _check_ids(ids, len(tokenizer))
        return examples[place], ids

    unlearned = encode_contents(tokenizer, [text for e in examples for text in e.unlearned])
    texts = examples
    if examples and isinstance(examples[0].prompt, str):
        texts = _encode_texts(examples, tokenizer, encoding)
    places = ((example.row, place) for place, example in enumerate(examples))
    readable, unread = sift(places, as_ids, on_error=encoding.on_error)
    fitting, overlong = sift(
        ((example.row, (example, ids)) for example, ids in readable),
        lambda _, both: _fit(*both, tokenizer, encoding, max_positions),
        on_error="skip" if encoding.overlong == "drop" else encoding.on_error,
    )
    encoded = EncodedTexts(
        rows=tuple(fitting),
        skipped=(*skipped, *unread, *overlong),
        unlearned_answers=len(unlearned),
        unlearned_tokens=sum(map(len, unlearned)),
    )
    if not fitting:
        first = f"; {encoded.skipped[0].reason}" if encoded.skipped else "; pass some"
        raise DatasetError(f"nothing is left to learn from: {encoded.report()}{first}")
    return encoded


def _as_ids(
    example: Example[Any], tokenizer: "PreTrainedTokenizerBase", encoding: TextEncoding
) -> Example[Ids]:
    """Return an example as ids, as which it may be given."""
    if isinstance(example.prompt, str):
        return _encode_texts([example], tokenizer, encoding)[0]
    if isinstance(example.prompt, Chat):
        return _encode_messages(example, tokenizer)
    if example.prompt is None:
        ((_start, (whole,)),) = _encode_plain([("", example.responses)], tokenizer)
        ended = _ended(whole, tokenizer, encoding)
        return Example(example.row, ended[:1], (ended[1:],))
    return example


def _check_ids(row: Example[Ids], vocab_size: int) -> None:
    """Raise unless the ids can be read and differ."""
    if not row.prompt:
        raise RowError(
            "no prompt", "the prompt has no tokens, so nothing predicts the response's first"
        )
    if not all(row.responses):
        raise RowError("empty", "a response has no tokens")
    for token in chain(row.prompt, *row.responses):
        if not 0 <= token < vocab_size:
            raise RowError("unknown id", f"token id {token} must be from 0 to {vocab_size - 1}")
    if len(row.responses) == 2 and row.responses[0] == row.responses[1]:
        raise RowError("equal", f"both responses are the same {len(row.responses[0])} tokens")


def _length(row: Example[Ids]) -> int:
    """Return the tokens of the prompt with the longest response."""
    return len(row.prompt) + max(map(len, row.responses))


def _fit(
    example: Example[Any],
    row: Example[Ids],
    tokenizer: "PreTrainedTokenizerBase",
    encoding: TextEncoding,
    max_positions: int | None,
) -> Example[Ids]:
    """Return the ids of an example that fits, of one with a shorter prompt if it may be cut."""
    limits = [limit for limit in (encoding.max_length, max_positions) if limit is not None]
    whole, shorter = row, example if encoding.overlong == "left" else None
    while limits and (excess := _length(row) - min(limits)) > 0:
        shorter = shorter and _without_beginning(shorter, tokenizer, excess)
        if shorter is None:
            raise _overlong(whole, min(limits), encoding)
        row = _as_ids(shorter, tokenizer, encoding)
    return row


def _without_beginning(
    example: Example[Any], tokenizer: "PreTrainedTokenizerBase", count: int
) -> Example[Any] | None:
    """Return an example with a shorter prompt; None where none would be left."""
    given = example.prompt
    if given and isinstance(given, (str, Chat)):
        prompt = Prompt(given) if isinstance(given, str) else Prompt.from_messages(given)
        cut = without_beginning(prompt, tokenizer, count)
        return None if cut is None else replace(example, prompt=cut.messages or cut.text)
    start = int((given or ())[:1] == (tokenizer.bos_token_id,))
    rest = (given or ())[start + count :]
    return replace(example, prompt=(*given[:start], *rest)) if rest else None


def _overlong(row: Example[Ids], limit: int, encoding: TextEncoding) -> RowError:
    """Return the error of a row that does not fit."""
    advice = ", or pass overlong='left' or 'drop'" if encoding.overlong == "error" else ""
    return RowError(
        "overlong",
        f"prompt and longest response take {_length(row)} tokens ({len(row.prompt)} of prompt), "
        f"more than {limit}; shorten it, raise max_length if the model reads more{advice}",
    )


# --- texts and messages ---------------------------------------------------------------------------


def _encode_texts(
    rows: Sequence[Example[str]], tokenizer: "PreTrainedTokenizerBase", encoding: TextEncoding
) -> list[Example[Ids]]:
    """Return rows of texts as ids, all encoded in one call."""
    frame = encoding.prompt_format or PLACE
    texts = [
        (frame.replace(PLACE, row.prompt), [_without_end(t, tokenizer) for t in row.responses])
        for row in rows
    ]
    if encoding.chat_template:
        talks = [(Chat.of_text(prompt), responses) for prompt, responses in texts]
        encoded_texts = encode_replies(tokenizer, talks)
    else:
        encoded_texts = _encode_plain(texts, tokenizer)
    return [
        Example(
            row.row,
            # An empty prompt has no tokens, though the tokenizer may put its BOS before it.
            tuple(prompt) if row.prompt.strip() else (),
            tuple(_ended(ids, tokenizer, encoding) for ids in responses),
        )
        for row, (prompt, responses) in zip(rows, encoded_texts, strict=True)
    ]


def _without_end(text: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return a response without the end that is written behind it, as data sets have it."""
    written = (end for end in end_texts(tokenizer) if text.rstrip().endswith(end))
    return next((text.rstrip().removesuffix(end) for end in written), text)


def _encode_plain(
    texts: Sequence[tuple[str, Sequence[str]]], tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Yield the ids of each prompt, and of the responses to it, without EOS.

    The prompt's are those that a policy sees when it plays, a response's are what follows them in
    the whole text. Where tokens would merge across the border, so that the prompt's own are not the
    beginning of the whole, the response is encoded as what follows them, see `encode_next`.
    """
    prompts = encode(tokenizer, [prompt for prompt, _ in texts])
    wholes = iter(
        encode(
            tokenizer, [joined(prompt, content(t)) for prompt, replies in texts for t in replies]
        )
    )
    for prompt_ids, (_, replies) in zip(prompts, texts, strict=True):
        encoded = []
        for text in replies:
            whole = next(wholes)
            if whole[: len(prompt_ids)] == prompt_ids:
                encoded.append(whole[len(prompt_ids) :])
            else:
                encoded += encode_next(tokenizer, [content(text)], [prompt_ids])
        yield prompt_ids, encoded


def _ended(ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase", encoding: TextEncoding) -> Ids:
    """Return a response with its end."""
    vocabulary = Vocabulary.of(tokenizer)
    end = next(iter(vocabulary.end_ids), None)
    if encoding.chat_template:
        end = turn_end(tokenizer)
    if ids and ids[-1] in (end, *vocabulary.ordinary_ids):
        return tuple(ids)
    if end is None:
        raise DatasetError(
            "the tokenizer has no EOS token to end responses with; set tokenizer.eos_token"
        )
    return (*ids, end)


def _encode_messages(row: Example[Any], tokenizer: "PreTrainedTokenizerBase") -> Example[Ids]:
    """Return conversations as ids, written out by the chat template."""
    ((prompt, replies),) = encode_replies(tokenizer, [(row.prompt, row.responses)])
    end, ordinary = turn_end(tokenizer), Vocabulary.of(tokenizer).ordinary_ids
    responses = []
    for response in replies:
        if end in response and end not in ordinary:  # what follows it is no reply
            response = response[: len(response) - response[::-1].index(end)]
        elif end is not None and {*response[-1:]}.isdisjoint(ordinary):
            response = [*response, end]
        responses.append(tuple(response))
    return Example(row.row, tuple(prompt), tuple(responses))
