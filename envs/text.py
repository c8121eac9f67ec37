"""The border between text and token ids: the tokenizer's fitness, encoding, decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.errors import TokenizerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(tokenizer: PreTrainedTokenizerBase | str) -> PreTrainedTokenizerBase:
    """Return a tokenizer fit for an environment, loading it when a path or hub name is given.

    Raises:
        TokenizerError: if it lacks EOS or pad, or cannot be loaded.
    """
    if isinstance(tokenizer, str):
        from transformers import AutoTokenizer

        try:
            loaded = AutoTokenizer.from_pretrained(tokenizer)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise TokenizerError(
                f"tokenizer {tokenizer!r} cannot be loaded ({reason}); pass a folder that "
                "save_pretrained wrote, or the object itself"
            ) from error
        check_tokenizer(loaded)
        return loaded
    check_tokenizer(tokenizer)
    return tokenizer


def check_tokenizer(tokenizer: Any) -> None:
    """Raise unless the tokenizer has what an environment needs.

    Raises:
        TypeError: if it is not a Hugging Face tokenizer at all.
        TokenizerError: if EOS or pad is missing or lies outside the vocabulary.
    """
    if not hasattr(tokenizer, "eos_token_id") or not callable(tokenizer):
        raise TypeError(
            f"tokenizer must be a transformers tokenizer, got {type(tokenizer).__name__}; "
            "load one with AutoTokenizer.from_pretrained"
        )
    name, size = type(tokenizer).__name__, len(tokenizer)
    remedies = {
        "eos": "call tokenizer.add_special_tokens({'eos_token': '<eos>'}) and resize the model",
        "pad": "set tokenizer.pad_token = tokenizer.eos_token, or add one of its own",
    }
    for kind, remedy in remedies.items():
        token_id = getattr(tokenizer, f"{kind}_token_id")
        if token_id is None:
            raise TokenizerError(f"{name} has no {kind} token (None); {remedy}")
        if not 0 <= token_id < size:
            raise TokenizerError(
                f"{name}'s {kind} token id {token_id} lies outside its vocabulary of {size}; "
                "load the tokenizer with its added tokens"
            )


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of prompts that a causal model can continue.

    The tokenizer's own special tokens are added, but never a second BOS (a chat template writes
    one into the text) and never a trailing EOS (it would say that the text is over).
    """
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    encoded: list[list[int]] = [[] for _ in texts]
    for has_bos in (False, True):
        chosen = [
            i for i, text in enumerate(texts) if bool(bos and text.startswith(bos)) == has_bos
        ]
        if not chosen:
            continue
        batch = tokenizer(
            [texts[i] for i in chosen],
            add_special_tokens=not has_bos,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        for i, ids in zip(chosen, batch, strict=True):
            if ids and ids[-1] == tokenizer.eos_token_id and not texts[i].endswith(eos):
                ids = ids[:-1]
            encoded[i] = list(ids)
    return encoded


def decode(tokenizer: PreTrainedTokenizerBase, sequences: Sequence[Sequence[int]]) -> list[str]:
    """Return the texts of many id sequences, special tokens left out.

    Equal to ``tokenizer.decode`` on each; fast tokenizers decode the batch in one call.
    """
    lists = [ids if isinstance(ids, list) else list(ids) for ids in sequences]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.clean_up_tokenization_spaces:
        return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in lists]
    return backend.decode_batch(lists, skip_special_tokens=True)


class ResponseDecoder:
    """`decode` for the many responses of a batch, fast where a text is its words joined by spaces.

    A word-level tokenizer without decoder of its own (the bundled ones) joins its tokens by
    spaces; then a table of words serves, several times faster than the tokenizer itself.

    Args:
        tokenizer: Whose ids are decoded; later changes to its vocabulary are not seen.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._words: NDArray[np.object_] | None = None
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or backend.decoder is not None:
            return
        if not tokenizer.clean_up_tokenization_spaces:
            singles = decode(tokenizer, [[i] for i in range(len(tokenizer))])
            self._words = np.array(singles, dtype=object)
            self._shown = np.array([bool(word) for word in singles])

    def decode(self, flat: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[str]:
        """Return the texts of sequences that lie one after the other, special tokens left out.

        Args:
            flat: (sum of lengths,) the ids of all sequences.
            lengths: (sequences,) ids of each.
        """
        ends = np.cumsum(lengths)
        if self._words is None:
            values = flat.tolist()
            return decode(self._tokenizer, [values[a:b] for a, b in _spans(ends)])
        shown = self._shown[flat]
        words = self._words[flat[shown]].tolist()
        shown_before = np.concatenate([[0], np.cumsum(shown)])
        return [" ".join(words[a:b]) for a, b in _spans(shown_before[ends])]


def _spans(ends: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Return the (start, end) pairs of consecutive pieces that end at ``ends``."""
    bounds = ends.tolist()
    return zip([0, *bounds], bounds, strict=False)


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Return one piece of text per token, for display.

    A piece is what its token added to the decoded text, so the pieces of ordinary tokens join to
    the decoded response; a special token shows its own name. A token that only begins a character
    (byte-level vocabularies) shows nothing, and the one that completes it shows the character.
    """
    special = set(tokenizer.all_special_ids)
    ordinary: list[int] = []
    shown, pieces = "", []
    for token_id in map(int, ids):
        if token_id in special:
            pieces.append(str(tokenizer.convert_ids_to_tokens(token_id)))
            continue
        ordinary.append(token_id)
        whole = decode(tokenizer, [ordinary])[0]
        stable = whole.rstrip("\ufffd")
        pieces.append(stable[len(shown) :])
        shown = max(shown, stable, key=len)
    return pieces
