"""Conversion between text and token ids: checking the tokenizer, encoding, decoding."""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tokengym.base.errors import PretrainedError, TokenizerError, is_fault, reason_of
from tokengym.base.pretrained import from_pretrained
from tokengym.base.waiting import call_within

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

MAX_TEMPLATE_CHARACTERS = 10_000_000
"""Longest conversation that a chat template may write."""
TEMPLATE_S = 20.0
"""Longest that a chat template may take for one conversation, seconds."""
_CONTEXT = 8
"""Tokens that are enough for the text of the next: a character may be spread over several."""


def load_tokenizer(
    tokenizer: PreTrainedTokenizerBase | str,
    *,
    eos_token: str | None = None,
    pad_token: str | None = None,
) -> PreTrainedTokenizerBase:
    """Return a tokenizer that an environment can use, loading it from a path or hub name.

    Args:
        tokenizer: The object, or its folder or hub name.
        eos_token: Token of its vocabulary that ends a text, in place of its own; the caller's
            object is copied, not changed.
        pad_token: Token for padding, in place of its own; it may be the EOS token.

    Raises:
        TokenizerError: if it lacks EOS or pad, or cannot be loaded.
    """
    loaded: Any = tokenizer
    if isinstance(tokenizer, str):
        from transformers import AutoTokenizer

        try:
            loaded = from_pretrained(AutoTokenizer, tokenizer)
        except PretrainedError as error:
            raise TokenizerError(str(error)) from error
    chosen = {"eos_token": eos_token, "pad_token": pad_token}
    given = {name: token for name, token in chosen.items() if token is not None}
    if given:
        _check_is_tokenizer(loaded)
        for name, token in given.items():
            token_id = loaded.convert_tokens_to_ids(token) if isinstance(token, str) else None
            if token_id is None or loaded.convert_ids_to_tokens(token_id) != token:
                raise TokenizerError(
                    f"{name}={token!r} is not among the {len(loaded)} tokens of the vocabulary; "
                    "name one that is (a new one needs tokenizer.add_special_tokens and a resized "
                    "model)"
                )
        loaded = copy.deepcopy(loaded)
        loaded.add_special_tokens(given)  # special also for decoding, unlike a set attribute
    check_tokenizer(loaded)
    return loaded


def unknown_share(
    tokenizer: PreTrainedTokenizerBase | None, texts: Sequence[str]
) -> NDArray[np.float64]:
    """Return the share of each text's tokens that stand for words a tokenizer does not have.

    Args:
        tokenizer: None has all words, as has one without an unknown token.
        texts: The texts.

    Returns:
        (texts,), in [0, 1].
    """
    shares = np.zeros(len(texts))
    if tokenizer is None or tokenizer.unk_token_id is None or not texts:
        return shares
    with panics_refused():
        rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    for index, ids in enumerate(rows):
        shares[index] = np.mean(np.equal(ids, tokenizer.unk_token_id)) if ids else 0.0
    return shares


def check_tokenizer(tokenizer: Any) -> None:
    """Check that an environment can use the tokenizer.

    Raises:
        TypeError: if it is not a Hugging Face tokenizer at all.
        TokenizerError: if EOS or pad is missing or lies outside the vocabulary.
    """
    _check_is_tokenizer(tokenizer)
    name, size = type(tokenizer).__name__, len(tokenizer)
    remedies = {
        "eos": "pass eos_token= with the token of its vocabulary that ends a text",
        "pad": "pass pad_token= with a token of its vocabulary; the EOS token will do",
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


def _check_is_tokenizer(tokenizer: Any) -> None:
    """Refuse anything but a Hugging Face tokenizer."""
    if not hasattr(tokenizer, "eos_token_id") or not callable(tokenizer):
        raise TypeError(
            f"tokenizer must be a transformers tokenizer, got {type(tokenizer).__name__}; "
            "load one with AutoTokenizer.from_pretrained"
        )


def in_parts(items: Sequence[T], *, size: int = 5000) -> Iterator[Sequence[T]]:
    """Yield consecutive parts of the prompts to encode, with a progress bar if there are several.

    The bar is drawn on a terminal or in a notebook only.
    """
    from tqdm.auto import tqdm

    several = len(items) > size
    with tqdm(
        desc="encoding prompts",
        total=len(items),
        unit=" prompts",
        leave=False,
        disable=None if several else True,
    ) as bar:
        for start in range(0, len(items), size):
            part = items[start : start + size]
            yield part
            bar.update(len(part))


@contextmanager
def panics_refused() -> Iterator[None]:
    """Turn a panic of a tokenizer's Rust code within the block into one line.

    Raises:
        TokenizerError: naming it.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if isinstance(error, SystemExit) or not is_fault(error):
            raise
        raise TokenizerError(
            f"the tokenizer breaks down over a text ({reason_of(error)}); correct the normalizer "
            "or the pre_tokenizer of its tokenizer.json, or take another tokenizer"
        ) from error


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
        for part in in_parts(chosen):
            with panics_refused():
                batch = tokenizer(
                    [texts[i] for i in part],
                    add_special_tokens=not has_bos,
                    padding=False,
                    truncation=False,
                    return_attention_mask=False,
                    verbose=False,
                )["input_ids"]
            for i, ids in zip(part, batch, strict=True):
                if ids and ids[-1] == tokenizer.eos_token_id and not texts[i].endswith(eos):
                    ids = ids[:-1]
                encoded[i] = list(ids)
    return encoded


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[Sequence[tuple[str, str]]]
) -> list[list[int]]:
    """Return the ids of conversations in the tokenizer's chat template, up to the reply.

    The template writes every special token itself, so none is added.

    Args:
        tokenizer: Tokenizer with a chat template.
        chats: Conversations of (role, content), oldest message first.

    Raises:
        TokenizerError: if the tokenizer has no template, or the template refuses a conversation.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise TokenizerError(
            f"{type(tokenizer).__name__} has no chat template, which messages and "
            "chat_template=True need; set tokenizer.chat_template, or pass plain texts"
        )
    conversations = (
        [{"role": role, "content": content} for role, content in chat] for chat in chats
    )
    texts = [write_chat(tokenizer, messages, to_answer=True) for messages in conversations]
    with panics_refused():
        encoded = tokenizer(texts, add_special_tokens=False, padding=False, truncation=False)
    return [list(ids) for ids in encoded["input_ids"]]


def write_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], *, to_answer: bool
) -> str:
    """Return a conversation in the tokenizer's chat template.

    Args:
        tokenizer: Tokenizer with a chat template.
        messages: The conversation, oldest message first.
        to_answer: End with the beginning of the assistant's reply.

    Raises:
        TokenizerError: if the template refuses the conversation, writes more than
            `MAX_TEMPLATE_CHARACTERS`, or takes longer than `TEMPLATE_S`.
    """
    written = partial(
        tokenizer.apply_chat_template,
        list(messages),
        tokenize=False,
        add_generation_prompt=to_answer,
    )
    try:
        text: Any = call_within(written, TEMPLATE_S, "template")
        text.encode()  # no lone surrogates
        if len(text) > MAX_TEMPLATE_CHARACTERS:
            raise ValueError(
                f"it writes {len(text):,} characters, more than {MAX_TEMPLATE_CHARACTERS:,}"
            )
    except Exception as error:  # a template is a program: it may raise anything
        reason = reason_of(error)
        raise TokenizerError(
            f"the tokenizer's chat template refuses {reprlib.repr(messages)} ({reason}); "
            "change the messages or the template"
        ) from error
    return str(text)


def decode(tokenizer: PreTrainedTokenizerBase, sequences: Sequence[Sequence[int]]) -> list[str]:
    """Return the texts of many id sequences, without special tokens.

    Equal to ``tokenizer.decode`` on each; fast tokenizers decode the batch in one call.
    """
    lists = [ids if isinstance(ids, list) else list(ids) for ids in sequences]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.clean_up_tokenization_spaces:
        return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in lists]
    return backend.decode_batch(lists, skip_special_tokens=True)


class ResponseDecoder:
    """Fast `decode` for the many responses of a batch.

    A word-level tokenizer without a decoder (the bundled ones) joins its tokens by
    spaces; then a table of words is used, several times faster than the tokenizer itself.

    Args:
        tokenizer: The tokenizer; later changes to its vocabulary have no effect.
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
        """Return the texts of concatenated sequences, without special tokens.

        Args:
            flat: (sum of lengths,) ids of all sequences.
            lengths: (sequences,) number of ids of each.
        """
        ends = np.cumsum(lengths)
        if self._words is None:
            pieces = np.split(flat, ends[:-1]) if len(ends) else []
            return decode(self._tokenizer, [piece.tolist() for piece in pieces])
        shown = self._shown[flat]
        words = self._words[flat[shown]].tolist()
        # Where each text ends among the words: tokens that show nothing are not among them.
        bounds = np.concatenate([[0], np.cumsum(shown)])[ends].tolist()
        return [" ".join(words[a:b]) for a, b in zip([0, *bounds], bounds, strict=False)]


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Return one piece of text per token, for display.

    A piece is the text that its token added to the decoded text, so the pieces of ordinary tokens
    join to the decoded response; a special token shows its own name. A token that only begins a
    character (byte-level vocabularies) shows nothing, and the one that completes it shows the
    character.
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
        shown = max(shown, stable, key=len)  # shorter while a character is unfinished
    return pieces


def response_texts(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], response_ids: Sequence[int]
) -> list[str]:
    """Return one piece of text per token of a response, to be shown directly after its prompt.

    These are the `token_texts`; the first has the space that the tokenizer writes between the
    prompt's last word and it, if any.
    """
    before = [*prompt_ids][-_CONTEXT:]
    return token_texts(tokenizer, [*before, *response_ids])[len(before) :]
