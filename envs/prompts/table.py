"""A prompt set as token ids, encoded once and then indexed."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokengym.base.chat import NO_CHAT, Chat, is_messages
from tokengym.base.errors import PromptError, TokenizerError
from tokengym.base.prompt import NO_METADATA, Prompt, PromptSet
from tokengym.base.settings import check_memory
from tokengym.envs.prompts.conversation import encode_chats
from tokengym.envs.prompts.cutting import without_beginning
from tokengym.envs.prompts.tokenization import encode, in_parts
from tokengym.envs.prompts.vocabulary import Vocabulary
from tokengym.envs.settings import PLACE, Overlong

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_COLUMN_BYTES = 9
"""Memory that a prompt's id and mask take in one column of an observation."""
_MAX_UNKNOWN_SHARE = 0.05
_FEWEST_TOKENS = 100  # of fewer a share says little, and they are read by whoever wrote them
_CONVERTED = "<generator object _iterable_array_conversion"
"""Result of `gymnasium.wrappers.NumpyToTorch` and its relatives for any text in reset's options."""


class EncodedPrompt(NamedTuple):
    """A prompt and its token ids."""

    text: str
    ids: tuple[int, ...]
    prompt_id: int
    """Position in the prompt set; -1 for a prompt that the caller passed to ``reset``."""
    reference: str | None = None
    query_type: str | None = None
    metadata: Mapping[str, Any] = NO_METADATA
    messages: Chat = NO_CHAT
    """The conversation that its ids write; empty for a plain text."""


@dataclass(frozen=True, eq=False)
class TokenRows:
    """The token ids of many texts, one after another: no list and no padding for each."""

    flat: NDArray[np.int32]
    """(tokens,) the ids of all texts."""
    starts: NDArray[np.int64]
    """(rows,) position of each text's first id."""
    ends: NDArray[np.int64]
    """(rows,) position after each text's last id."""

    @classmethod
    def of(cls, parts: Iterable[Sequence[Sequence[int]]]) -> TokenRows:
        """Return the rows of texts that were encoded in parts."""
        flat, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for rows in parts:
            lengths.append(np.fromiter(map(len, rows), np.int64, len(rows)))
            flat.append(np.fromiter(chain.from_iterable(rows), np.int32, int(lengths[-1].sum())))
        ends = np.cumsum(np.concatenate(lengths))
        ids = np.concatenate(flat)
        ids.flags.writeable = False  # environments share them
        return cls(ids, ends - np.concatenate(lengths), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        """Return a text's ids, (n,)."""
        return self.flat[self.starts[row] : self.ends[row]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(rows,) number of ids of each text."""
        return self.ends - self.starts

    def select(self, rows: NDArray[np.int64]) -> TokenRows:
        """Return some of the rows, by their numbers (n,); their ids stay where they are."""
        return TokenRows(self.flat, self.starts[rows], self.ends[rows])

    def padded(
        self, rows: Sequence[int], width: int, pad_id: int
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return ids and mask of some rows, (len(rows), width) each, ending at the last column."""
        columns = self.ends[rows][:, None] + np.arange(-width, 0)
        mask = columns >= self.starts[rows][:, None]
        # Padding reads some id that there is, and is written over.
        return np.where(mask, self.flat[np.maximum(columns, 0)], pad_id), mask


class PromptTable:
    """The prompts of an environment, and their token ids, encoded once.

    With ``overlong="left"`` an overlong prompt becomes another, which lacks its beginning; with
    "drop" it is removed, and prompt ids count the remaining prompts. The arguments are those of
    `GenerationSettings`.
    """

    prompts: PromptSet
    """The prompts, without dropped ones."""
    max_prompt_tokens: int
    rows: TokenRows
    """(len(prompts),) ids of each prompt."""

    def __init__(
        self,
        prompts: PromptSet,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_prompt_tokens: int | None,
        overlong: Overlong,
        chat_template: bool = False,
        prompt_format: str | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._format = prompt_format or PLACE
        self._overlong = overlong
        self._chat_template = chat_template
        self._pad_id: Any = Vocabulary.of(tokenizer).pad_id
        self._positions: dict[bytes, int] | None = None
        self.prompts = prompts
        if self._format != PLACE and prompts.num_conversations == len(prompts):
            _say_unframed(self._format)
        parts = in_parts(range(len(prompts)))
        encoded = TokenRows.of(self._encoded(prompts.select(part)) for part in parts)
        _check_rows(prompts, encoded, tokenizer)
        self.max_prompt_tokens = max_prompt_tokens or int(encoded.lengths.max())
        self.rows = self._fitting(encoded)
        check_memory("max_prompt_tokens", self.max_prompt_tokens, bytes_each=_COLUMN_BYTES)
        self._drawn = np.full(len(self.prompts), None, dtype=object)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, prompt_id: int) -> EncodedPrompt:
        """Return the prompt at a position, which is built when it is first drawn."""
        prompt_id %= len(self)
        entry: EncodedPrompt | None = self._drawn[prompt_id]
        if entry is None:
            prompt, ids = self.prompts[prompt_id], tuple(self.rows[prompt_id].tolist())
            annotations = (prompt.reference, prompt.query_type, prompt.metadata)
            entry = EncodedPrompt(prompt.text, ids, prompt_id, *annotations, self._chat(prompt))
            self._drawn[prompt_id] = entry
        return entry

    def take(self, prompt_ids: Sequence[int]) -> NDArray[np.object_]:
        """Return the prompts at some positions, (len(prompt_ids),)."""
        entries: NDArray[np.object_] = self._drawn[prompt_ids]
        for place in np.flatnonzero(entries == None).tolist():  # noqa: E711 (elementwise)
            entries[place] = self[prompt_ids[place]]
        return entries

    def padded(self, prompt_ids: Sequence[int]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return ids and attention mask, each (len(prompt_ids), max_prompt_tokens), left-padded."""
        return self.rows.padded(prompt_ids, self.max_prompt_tokens, self._pad_id)

    def _fitting(self, encoded: TokenRows) -> TokenRows:
        """Return the ids of the prompts that are not dropped, and keep only these prompts."""
        fits = encoded.lengths <= self.max_prompt_tokens
        if fits.all():
            return encoded
        if self._overlong != "drop":
            ids: list[Any] = [encoded[row] for row in range(len(fits))]
            prompts = list(self.prompts)
            for row in np.flatnonzero(~fits).tolist():
                name = f"prompt {row} of {len(fits)}"
                prompts[row], ids[row] = self._cut(name, prompts[row], ids[row])
            self.prompts = PromptSet(prompts)
            return TokenRows.of([ids])
        if not fits.any():
            raise PromptError(
                f"overlong='drop' leaves no prompt: the shortest of {len(fits)} has "
                f"{int(encoded.lengths.min())} tokens, more than max_prompt_tokens="
                f"{self.max_prompt_tokens}; raise it, shorten the prompts, or pass overlong='left' "
                "(their last tokens)"
            )
        _say_dropped(int((~fits).sum()), len(fits), self.max_prompt_tokens)
        positions = np.flatnonzero(fits)
        self.prompts = self.prompts.select(positions.tolist())
        return encoded.select(positions)

    def _cut(
        self, name: str, prompt: Prompt, ids: Sequence[int] | NDArray[np.int32]
    ) -> tuple[Prompt, list[int]]:
        """Return a prompt that fits, with its ids, in place of one that is too long."""
        cut, kept, may_cut = prompt, list(ids), self._overlong == "left"
        while (excess := len(kept) - self.max_prompt_tokens) > 0:
            shorter = without_beginning(cut, self._tokenizer, excess) if may_cut else None
            if shorter is None:
                raise self._too_long(name, ids)
            cut, kept = shorter, self._encoded(PromptSet([shorter]))[0]
        return cut, kept

    def _too_long(self, name: str, ids: Sequence[int] | NDArray[np.int32]) -> PromptError:
        also = {
            "error": ", or pass overlong='left' (its last tokens) or 'drop' (the prompts that fit)",
            "drop": ", or pass overlong='left' (its last tokens)",
            "left": ", of which nothing would be left beside its frame",
        }[self._overlong]
        return PromptError(
            f"{name} has {len(ids)} tokens, more than max_prompt_tokens={self.max_prompt_tokens}; "
            f"raise it, shorten the prompt{also}"
        )

    def _encoded(self, prompts: PromptSet) -> list[list[int]]:
        """Return the prompts' ids: conversations in the chat template, texts unchanged."""
        texts, chats = prompts.texts, dict[int, Chat]()
        if self._chat_template or prompts.num_conversations:
            conversations = enumerate(map(self._chat, prompts))
            chats = {position: chat for position, chat in conversations if chat}
        plain = [self._framed(text) for i, text in enumerate(texts) if i not in chats]
        of_texts = iter(encode(self._tokenizer, plain))
        of_chats = iter(encode_chats(self._tokenizer, list(chats.values())) if chats else ())
        return [next(of_chats if i in chats else of_texts) for i in range(len(texts))]

    def _chat(self, prompt: Prompt) -> Chat:
        """Return the conversation that a prompt is; empty for a plain text."""
        if prompt.messages or not self._chat_template:
            return prompt.messages
        return Chat.of_text(self._framed(prompt.text))

    def _framed(self, text: str) -> str:
        """Return a prompt's text in the frame."""
        return text if self._format == PLACE else self._format.replace(PLACE, text)

    def lookup(self, prompt_id: Any) -> EncodedPrompt:
        """Return the prompt with an id given by the caller."""
        try:
            position = -1 if isinstance(prompt_id, bool) else index(prompt_id)
        except TypeError:
            position = -1
        if not 0 <= position < len(self):
            raise PromptError(
                f"prompt_id must be an integer from 0 to {len(self) - 1}, got "
                f"{prompt_id!r}; it is the position in env.unwrapped.prompts"
            )
        return self[position]

    def encode(self, prompt: Any, name: str = "options['prompt']") -> EncodedPrompt:
        """Return a caller's prompt: a text, conversation, `Prompt` or `EncodedPrompt`."""
        if isinstance(prompt, EncodedPrompt):
            position = prompt.prompt_id
            is_same = position < len(self) and self[position].ids == tuple(prompt.ids)
            if position >= 0 and not is_same:
                raise PromptError(
                    f"{name} has prompt_id {prompt.prompt_id}, whose ids are others here; take it "
                    "from this environment's find_prompt"
                )
            if position >= 0:
                known = self[position]
                if _told_alike(prompt, known):
                    return known
                prompt = prompt._replace(prompt_id=-1)  # another prompt of these tokens
            ids, chat = list(prompt.ids), prompt.messages
        else:
            if isinstance(prompt, str) and prompt.startswith(_CONVERTED):
                raise PromptError(
                    f"{name} is a text that Gymnasium's array conversion made unreadable, got "
                    f"{prompt[:40]!r}; pass tokengym.envs.Prompt(text)"
                )
            if is_messages(prompt):
                prompt = Prompt.from_messages(prompt)
            elif isinstance(prompt, str) and prompt.strip():
                prompt = Prompt(prompt)
            elif not isinstance(prompt, Prompt):
                raise PromptError(
                    f"{name} must be a non-empty str, got {prompt!r}; a conversation is a list of "
                    "messages"
                )
            ids, chat = self._encoded(PromptSet([prompt]))[0], self._chat(prompt)
        _check_ids(f"{name}={prompt.text[:40]!r}", ids, len(self._tokenizer))
        annotations: tuple[Any, Any, Any] = (prompt.reference, prompt.query_type, prompt.metadata)
        text = prompt.text
        if len(ids) > self.max_prompt_tokens:
            cut, ids = self._cut(name, Prompt(text, *annotations, prompt.messages), ids)
            text, chat = cut.text, self._chat(cut)
        return EncodedPrompt(text, tuple(ids), -1, *annotations, chat)

    def find(self, ids: Sequence[int]) -> EncodedPrompt | None:
        """Return the first prompt of the set that has exactly these token ids, or None."""
        if self._positions is None:
            self._positions = {}
            for position in range(len(self)):
                self._positions.setdefault(self.rows[position].tobytes(), position)
        position = self._positions.get(np.asarray(ids, np.int32).tobytes(), -1)
        return None if position < 0 else self[position]


@functools.cache
def _say_unframed(prompt_format: str) -> None:
    """Log, once, that a frame is around no prompt."""
    logger.warning(
        "prompt_format=%r is the frame of texts, and all prompts are conversations, which stay as "
        "they are; leave it out, or write it into their messages",
        prompt_format,
    )


@functools.cache
def _say_dropped(dropped: int, total: int, longest: int) -> None:
    """Log, once, how many prompts are left out."""
    logger.warning(
        "%d of %d prompts are longer than max_prompt_tokens=%d and are left out (overlong='drop')",
        *(dropped, total, longest),
    )


def _check_ids(name: str, ids: Sequence[int], vocab_size: int) -> None:
    """Refuse a prompt without tokens, or with ids outside the action space."""
    if not ids:
        raise PromptError(f"{name} has no tokens under this tokenizer; drop it or change the text")
    if max(ids) >= vocab_size or min(ids) < 0:
        raise TokenizerError(
            f"{name} has token id {max(ids)}, outside the tokenizer's vocabulary of {vocab_size}; "
            "the tokenizer's files disagree, save it again"
        )


def _check_rows(prompts: PromptSet, encoded: TokenRows, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse prompts without tokens, or of whose tokens several per cent are unknown."""
    outside = np.flatnonzero((encoded.flat < 0) | (encoded.flat >= len(tokenizer)))
    faulty = np.append(
        np.flatnonzero(encoded.lengths == 0),
        np.searchsorted(encoded.ends, outside[:1], side="right"),
    )
    if len(faulty):
        row = int(faulty.min())
        name = f"prompt {row} ({prompts[row].text[:40]!r})"
        _check_ids(name, encoded[row].tolist(), len(tokenizer))
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown == tokenizer.eos_token_id:  # GPT-2 names its EOS so
        return
    is_unknown, total = encoded.flat == unknown, len(encoded.flat)
    share = np.count_nonzero(is_unknown) / total
    if share > _MAX_UNKNOWN_SHARE and total >= _FEWEST_TOKENS:
        worst = int(np.argmax(np.add.reduceat(is_unknown.astype(np.int64), encoded.starts)))
        raise PromptError(
            f"{share:.0%} of the prompts' tokens are unknown to the tokenizer and its vocabulary "
            f"of {len(tokenizer)}, most in prompt {worst} ({prompts[worst].text[:60]!r}); pass "
            "tokenizer= or bundle= made for such texts, or other prompts"
        )


def _told_alike(one: EncodedPrompt, other: EncodedPrompt) -> bool:
    """Return whether two prompts have the same annotations; arrays are not looked into."""
    if (one.reference, one.query_type) != (other.reference, other.query_type):
        return False
    try:
        return bool(one.metadata is other.metadata or one.metadata == other.metadata)
    except ValueError:
        return False
