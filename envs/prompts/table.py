"""A prompt set as arrays, encoded once and then indexed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokengym.base.errors import PromptError, TokenizerError
from tokengym.base.prompt import NO_METADATA, Prompt, PromptSet, is_messages
from tokengym.base.settings import check_memory
from tokengym.envs.prompts.tokenization import encode, encode_chats
from tokengym.envs.prompts.vocabulary import Vocabulary
from tokengym.envs.settings import PLACE, Overlong

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_COLUMN_BYTES = 9
"""Memory that a prompt's id and mask take in one column of the matrices."""
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


class PromptTable:
    """The prompts of an environment, left-padded into one matrix.

    With ``overlong="left"`` an overlong prompt keeps its last tokens (its text stays whole), with
    "drop" it is removed, and prompt ids count the remaining prompts.

    Args:
        prompts: The prompts.
        tokenizer: Encodes them.
        max_prompt_tokens: Width of the matrix, tokens; None takes the longest prompt.
        overlong: Treatment of longer prompts.
        chat_template: Whether a plain text is a user's message in the tokenizer's chat template;
            conversations always use it.
        prompt_format: Frame of the texts, with ``{prompt}`` in it.

    Raises:
        PromptError: if a prompt has no tokens or too many, all are dropped, or more than 5 % of
            their tokens (at least 100) are unknown to the tokenizer.
        TokenizerError: if the tokenizer gives ids outside its own vocabulary, or has no chat
            template where one is needed.
    """

    prompts: PromptSet
    """The prompts, without dropped ones."""
    max_prompt_tokens: int
    input_ids: NDArray[np.int64]
    """(len(prompts), max_prompt_tokens): ids, left-padded."""
    attention_mask: NDArray[np.int8]
    """(len(prompts), max_prompt_tokens): 1 at the prompt's own tokens."""
    entries: NDArray[np.object_]
    """(len(prompts),) `EncodedPrompt`, cut to ``max_prompt_tokens``."""

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
        encoded = self._encoded(prompts)
        for position, ids in enumerate(encoded):
            _check_ids(f"prompt {position} ({prompts[position].text[:40]!r})", ids, len(tokenizer))
        _check_known(prompts, encoded, tokenizer)
        self.max_prompt_tokens = max_prompt_tokens or max(map(len, encoded))
        check_memory(
            "max_prompt_tokens", self.max_prompt_tokens, bytes_each=_COLUMN_BYTES * len(encoded)
        )
        kept = [i for i, ids in enumerate(encoded) if self._fits(f"prompt {i}", ids)]
        if not kept:
            raise PromptError(
                f"all {len(prompts)} prompts are longer than max_prompt_tokens="
                f"{self.max_prompt_tokens} and were dropped; raise it or pass overlong='left'"
            )
        self.prompts = prompts if len(kept) == len(prompts) else PromptSet(prompts[i] for i in kept)
        rows = [
            EncodedPrompt(
                prompt.text,
                tuple(encoded[i][-self.max_prompt_tokens :]),
                prompt_id,
                prompt.reference,
                prompt.query_type,
                prompt.metadata,
            )
            for prompt_id, (i, prompt) in enumerate(zip(kept, self.prompts, strict=True))
        ]
        # `np.array` would spread the tuples over a matrix of their fields.
        self.entries = np.fromiter(rows, dtype=object, count=len(rows))
        pad_id: Any = Vocabulary.of(tokenizer).pad_id
        self.input_ids, self.attention_mask = left_padded(
            [row.ids for row in rows], self.max_prompt_tokens, pad_id
        )
        self._positions: dict[tuple[int, ...], int] | None = None
        self.input_ids.flags.writeable = self.attention_mask.flags.writeable = False

    def _encoded(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the prompts' ids: conversations in the chat template, texts unchanged."""
        chats = {
            position: prompt.messages or (("user", self._framed(prompt)),)
            for position, prompt in enumerate(prompts)
            if prompt.messages or self._chat_template
        }
        plain = [self._framed(prompt) for i, prompt in enumerate(prompts) if i not in chats]
        of_texts = iter(encode(self._tokenizer, plain))
        of_chats = iter(encode_chats(self._tokenizer, list(chats.values())) if chats else ())
        return [next(of_chats if i in chats else of_texts) for i in range(len(prompts))]

    def _framed(self, prompt: Prompt) -> str:
        """Return a prompt's text in the frame."""
        return self._format.replace(PLACE, prompt.text)

    def _fits(self, name: str, ids: Sequence[int]) -> bool:
        """Return whether a prompt is kept; raise if overlong prompts are errors."""
        if len(ids) <= self.max_prompt_tokens or self._overlong == "left":
            return True
        if self._overlong == "drop":
            return False
        raise PromptError(
            f"{name} has {len(ids)} tokens, more than max_prompt_tokens={self.max_prompt_tokens}; "
            "raise it, or pass overlong='left' to keep the last tokens, or overlong='drop'"
        )

    def lookup(self, prompt_id: Any) -> EncodedPrompt:
        """Return the prompt with an id given by the caller.

        Raises:
            PromptError: if there is no such prompt.
        """
        try:
            position = index(prompt_id)
        except TypeError:
            position = -1
        if not 0 <= position < len(self.entries):
            raise PromptError(
                f"prompt_id must be an integer from 0 to {len(self.entries) - 1}, got "
                f"{prompt_id!r}; it is the position in env.unwrapped.prompts"
            )
        return self.entries[position]

    def encode(self, prompt: Any, name: str = "options['prompt']") -> EncodedPrompt:
        """Return a prompt passed by the caller, encoded.

        Args:
            prompt: A text, a conversation, a `Prompt`, or an `EncodedPrompt`, whose ids are kept.
            name: What the prompt is called in messages.

        Raises:
            PromptError: if it is empty, none of these, or too long (also if the set drops those).
        """
        if isinstance(prompt, EncodedPrompt):
            there = self.entries[prompt.prompt_id : prompt.prompt_id + 1]
            if prompt.prompt_id >= 0 and [row.ids for row in there] != [tuple(prompt.ids)]:
                raise PromptError(
                    f"{name} has prompt_id {prompt.prompt_id}, whose ids are others here; take it "
                    "from this environment's find_prompt"
                )
            ids = list(prompt.ids)
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
            ids = self._encoded([prompt])[0]
        _check_ids(f"{name}={prompt.text[:40]!r}", ids, len(self._tokenizer))
        if not self._fits(name, ids):
            raise PromptError(
                f"{name} has {len(ids)} tokens, more than max_prompt_tokens="
                f"{self.max_prompt_tokens}; shorten it, or pass overlong='left'"
            )
        kept = tuple(ids[-self.max_prompt_tokens :])
        position = prompt.prompt_id if isinstance(prompt, EncodedPrompt) else -1
        return EncodedPrompt(
            prompt.text, kept, position, prompt.reference, prompt.query_type, prompt.metadata
        )

    def find(self, ids: Sequence[int]) -> EncodedPrompt | None:
        """Return the first prompt of the set that has exactly these token ids, or None."""
        if self._positions is None:
            self._positions = {}
            for row in self.entries:
                self._positions.setdefault(row.ids, row.prompt_id)
        position = self._positions.get(tuple(map(int, ids)))
        return None if position is None else self.entries[position]


def left_padded(
    sequences: Sequence[Sequence[int]], width: int, pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Return ids and attention mask, each (len(sequences), width), ending at the last column."""
    ids = np.full((len(sequences), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(sequences), width), dtype=np.int8)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = sequence
        mask[row, width - len(sequence) :] = 1
    return ids, mask


def _check_ids(name: str, ids: Sequence[int], vocab_size: int) -> None:
    """Refuse a prompt without tokens, or with ids outside the action space."""
    if not ids:
        raise PromptError(f"{name} has no tokens under this tokenizer; drop it or change the text")
    if max(ids) >= vocab_size or min(ids) < 0:
        raise TokenizerError(
            f"{name} has token id {max(ids)}, outside the tokenizer's vocabulary of {vocab_size}; "
            "the tokenizer's files disagree, save it again"
        )


def _check_known(
    prompts: PromptSet, encoded: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse prompts of which the policy would not see more than a few per cent of the tokens."""
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown == tokenizer.eos_token_id:  # GPT-2 names its EOS so
        return
    counts = [list(ids).count(unknown) for ids in encoded]
    total = sum(map(len, encoded))
    share = sum(counts) / total
    if share > _MAX_UNKNOWN_SHARE and total >= _FEWEST_TOKENS:
        worst = int(np.argmax(counts))
        raise PromptError(
            f"{share:.0%} of the prompts' tokens are unknown to the tokenizer and its vocabulary "
            f"of {len(tokenizer)}, most in prompt {worst} ({prompts[worst].text[:60]!r}); pass "
            "tokenizer= or bundle= made for such texts, or other prompts"
        )
