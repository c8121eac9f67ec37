"""The vocabulary that an environment and its agents share: its size, its ends, its padding."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tokengym.base.errors import TokenizerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EosToken: TypeAlias = Sequence[str | int] | str | int
"""Tokens that end a text: one or several, as texts or ids."""
END_TOKENS = "end_tokens"
"""Entry of a tokenizer's own settings, which are stored with it, that holds its further ends."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Token ids of a tokenizer that environment, agents and scorers have to agree on."""

    size: int
    """Number of tokens; a model's head may have more rows, which are no tokens."""
    end_ids: tuple[int, ...]
    """Ids of the tokens that end a text, the tokenizer's EOS first."""
    pad_id: int | None
    """Id that fills arrays; what is padding is told by masks, never by this id, which may be one
    of the ends."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        """Return the vocabulary of a tokenizer, with the ends that `with_ends` gave it.

        Example:
            >>> from tokengym.base.bundle import bundled
            >>> Vocabulary.of(bundled("oracle").tokenizer)
            Vocabulary(size=9, end_ids=(1,), pad_id=0)
        """
        further = getattr(tokenizer, "init_kwargs", {}).get(END_TOKENS, ())
        ids = (tokenizer.eos_token_id, *map(tokenizer.convert_tokens_to_ids, further))
        known: Any = dict.fromkeys(one for one in ids if one is not None)
        return cls(size=len(tokenizer), end_ids=tuple(known), pad_id=tokenizer.pad_token_id)

    def table(self) -> NDArray[np.bool_]:
        """Return (size,) True where a token ends a text."""
        ends = np.zeros(self.size, dtype=np.bool_)
        ends[list(self.end_ids)] = True
        return ends

    @property
    def filler(self) -> int:
        """A token that ends no text: the padding token where it can be."""
        ids = (self.pad_id, *range(self.size))
        return next((one for one in ids if one is not None and one not in self.end_ids), 0)


def as_tokens(tokenizer: PreTrainedTokenizerBase, name: str, given: EosToken) -> list[str]:
    """Return tokens by their texts, each of which the vocabulary has.

    Args:
        tokenizer: The tokenizer.
        name: What they are given as, for the message.
        given: One or several texts or ids.

    Raises:
        TokenizerError: if one is no token of the vocabulary, or there is none.
    """
    if not isinstance(given, str | int | Iterable):
        raise TokenizerError(
            f"{name} must be one or several tokens, texts or ids, got {given!r}; name one"
        )
    several: Sequence[Any] = (given,) if isinstance(given, str | int) else tuple(given)
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
        raise TokenizerError(f"{name} names no token, got {given!r}; leave it out")
    return tokens


def with_ends(
    tokenizer: PreTrainedTokenizerBase,
    eos_token: EosToken | None = None,
    pad_token: str | None = None,
) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer whose texts end by other tokens, or with another padding token.

    Args:
        tokenizer: The tokenizer.
        eos_token: Tokens that end a text; the first is the copy's EOS. None leaves its ends.
        pad_token: Token that pads. None leaves its own, or takes EOS where it has none, which is
            said once.

    Raises:
        TokenizerError: if a token is not in the vocabulary.
    """
    changed: Any = copy.deepcopy(tokenizer)
    # Special also for decoding, unlike a set attribute.
    special: dict[str, Any] = {}
    if pad_token is not None:
        (special["pad_token"],) = as_tokens(tokenizer, "pad_token", pad_token)
    if eos_token is not None:
        first, *further = dict.fromkeys(as_tokens(tokenizer, "eos_token", eos_token))
        special["eos_token"] = first
        changed.init_kwargs.pop(END_TOKENS, None)
        if further:
            special["extra_special_tokens"] = further
            changed.init_kwargs[END_TOKENS] = further
    changed.add_special_tokens(special, replace_extra_special_tokens=False)
    if changed.pad_token_id is None and changed.eos_token_id is not None:
        changed.add_special_tokens({"pad_token": changed.eos_token})
        _say_padded(type(tokenizer).__name__, changed.eos_token)
    return changed


@functools.cache
def _say_padded(name: str, token: str) -> None:
    """Log, once, that a text's end pads."""
    logger.warning(
        "%s has no pad token: its EOS %r pads, and still counts where it is written; pad_token= "
        "(--pad-token) names another",
        name,
        token,
    )
