"""The vocabulary that an environment and its agents share: its size, its ends, its padding."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from tokengym.base.errors import TokenizerError
from tokengym.envs.prompts.contents import special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EosToken: TypeAlias = Sequence[str | int] | str | int
"""Tokens that end a text: one or several, as texts or ids."""
END_TOKENS = "end_tokens"
"""Entry of a tokenizer's own settings, which are stored with it, that holds all ends of its texts
where these are not its EOS alone."""
FILLING = "filling"
"""Likewise the token that pads, where that is an ordinary one."""
TEMPLATE_DATE = "template_date"
"""Likewise the date that a chat template is given which asks for today's."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Token ids of a tokenizer that environment, agents and scorers have to agree on."""

    size: int
    """Number of tokens; a model's head may have more rows, which are no tokens."""
    end_ids: tuple[int, ...]
    """Ids of the tokens that end a text; the first ends the texts of data."""
    pad_id: int | None
    """Id that fills arrays; what is padding is told by masks, never by this id, which may be one
    of the ends."""
    ordinary_ids: tuple[int, ...] = ()
    """Those of the ends that are no special tokens, such as ".": a text shows them, and contents
    may have them anywhere."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        """Return the vocabulary of a tokenizer, with the ends that `with_ends` gave it.

        Example:
            >>> from tokengym.base.bundle import bundled
            >>> Vocabulary.of(bundled("oracle").tokenizer)
            Vocabulary(size=9, end_ids=(1,), pad_id=0, ordinary_ids=())
        """
        stored = getattr(tokenizer, "init_kwargs", {})
        ends: Any = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        ordinary: Any = ()
        if END_TOKENS in stored:
            texts = stored[END_TOKENS]
            ends = tuple(map(tokenizer.convert_tokens_to_ids, texts))
            pairs = zip(texts, ends, strict=True)
            ordinary = tuple(
                index for text, index in pairs if text not in special_tokens(tokenizer)
            )
        pad: Any = tokenizer.pad_token_id
        if FILLING in stored:
            pad = tokenizer.convert_tokens_to_ids(stored[FILLING])
        return cls(size=len(tokenizer), end_ids=ends, pad_id=pad, ordinary_ids=ordinary)

    @property
    def silent_ids(self) -> tuple[int, ...]:
        """The ends that are special tokens, which no text shows."""
        return tuple(one for one in self.end_ids if one not in self.ordinary_ids)

    @property
    def filler(self) -> int:
        """A token that ends no text: the padding token where it can be."""
        ids = (self.pad_id, *range(self.size))
        return next((one for one in ids if one is not None and one not in self.end_ids), 0)


def as_tokens(tokenizer: PreTrainedTokenizerBase, name: str, ends: EosToken) -> list[str]:
    """Return tokens, one or several texts or ids, by their texts, which the vocabulary has."""
    if not isinstance(ends, str | int | Iterable):
        raise TokenizerError(
            f"{name} must be one or several tokens, texts or ids, got {ends!r}; name one"
        )
    several: Sequence[Any] = (ends,) if isinstance(ends, str | int) else tuple(ends)
    tokens = []
    for one in several:
        token: Any = one
        if isinstance(one, int) and not isinstance(one, bool):
            token = tokenizer.convert_ids_to_tokens(one) if 0 <= one < len(tokenizer) else None
        token_id = tokenizer.convert_tokens_to_ids(token) if isinstance(token, str) else None
        if token_id is None or tokenizer.convert_ids_to_tokens(token_id) != token:
            raise TokenizerError(
                f"{name}={one!r} is not among the {len(tokenizer)} tokens of the vocabulary; "
                "name one that is (a new one needs tokenizer.add_special_tokens and a resized "
                "model)"
            )
        tokens.append(token)
    if not tokens:
        raise TokenizerError(f"{name} names no token, got {ends!r}; leave it out")
    return tokens


def with_ends(
    tokenizer: PreTrainedTokenizerBase,
    eos_token: EosToken | None = None,
    pad_token: str | None = None,
) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer whose texts end by other tokens, or with another padding token.

    Special tokens, of which the first is the copy's EOS, become its special tokens. Ordinary ones
    stay ordinary, so that contents may have them and decoded texts show them; `Vocabulary.of` knows
    them. Where nothing pads EOS does, which is said once.
    """
    changed: Any = copy.deepcopy(tokenizer)
    # Special also for decoding, unlike a set attribute.
    special: dict[str, Any] = {}
    if eos_token is not None:
        ends = [*dict.fromkeys(as_tokens(tokenizer, "eos_token", eos_token))]
        silent = [token for token in ends if token in special_tokens(tokenizer)]
        if silent:
            special["eos_token"] = silent[0]
        if silent[1:]:
            special["extra_special_tokens"] = silent[1:]
        changed.init_kwargs.pop(END_TOKENS, None)
        if ends != silent[:1]:
            changed.init_kwargs[END_TOKENS] = ends
    if pad_token is not None:
        (filling,) = as_tokens(tokenizer, "pad_token", pad_token)
        changed.init_kwargs.pop(FILLING, None)
        if filling in special_tokens(tokenizer):
            special["pad_token"] = filling
        else:
            changed.init_kwargs[FILLING] = filling
    if special:
        changed.add_special_tokens(special, replace_extra_special_tokens=False)
    vocabulary = Vocabulary.of(changed)
    if vocabulary.pad_id is None and vocabulary.end_ids:
        # EOS, or an ordinary end where there is none.
        end = changed.eos_token
        if end is None:
            end = changed.init_kwargs[FILLING] = changed.init_kwargs[END_TOKENS][0]
        else:
            changed.add_special_tokens({"pad_token": end})
        _say_padded(type(tokenizer).__name__, end)
    return changed


def asks_for_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template writes today's date."""
    return "strftime_now" in str(tokenizer.chat_template)


def with_date(
    tokenizer: PreTrainedTokenizerBase, date: str | None = None
) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer whose chat template is given a date; itself where it is None."""
    if date is None:
        return tokenizer
    changed = copy.deepcopy(tokenizer)
    changed.init_kwargs[TEMPLATE_DATE] = date
    return changed


@functools.cache
def _say_padded(name: str, token: str) -> None:
    """Log, once, that a text's end pads."""
    logger.warning(
        "%s has no pad token: its EOS %r pads, and still counts where it is written; pad_token= "
        "names another",
        name,
        token,
    )
