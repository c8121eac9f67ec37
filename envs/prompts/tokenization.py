"""Conversion between text and token ids: checking the tokenizer, encoding, decoding.

`tokenize` is the one place where texts become ids. A text's control tokens (EOS, the beginning of a
turn) are kept; its contents, which `MarkedText` marks, are characters and never control tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tokengym.base.errors import PretrainedError, TokenizerError, is_fault, reason_of
from tokengym.base.pretrained import from_pretrained
from tokengym.envs.prompts.contents import (
    MarkedText,
    Span,
    content,
    control_tokens,
    ends_with,
    joined,
    special_tokens,
    starts_with,
)
from tokengym.envs.prompts.vocabulary import EosToken, Vocabulary, with_ends

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

_CONTEXT = 8
"""Tokens that are enough for the text of the next: a character may be spread over several."""
_BLOCK = 32
"""Tokens that are decoded behind one context, each with those of the block before it."""
_SEARCH = 64
"""Most tokens before a context that are tried as its first."""
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_UNFINISHED = "\ufffd"
"""What the bytes of an unfinished character decode to."""
_UNSETTLED = 16
"""Characters at a text's end that further tokens may change: spaces before punctuation go."""


def load_tokenizer(
    tokenizer: PreTrainedTokenizerBase | str,
    *,
    eos_token: EosToken | None = None,
    pad_token: str | None = None,
) -> PreTrainedTokenizerBase:
    """Return a tokenizer that an environment can use, loading it from a path or hub name.

    Args:
        tokenizer: The object, or its folder or hub name.
        eos_token: Tokens of its vocabulary that end a text, in place of its own: one or several,
            texts or ids; the caller's object is copied, not changed.
        pad_token: Token for padding, in place of its own; it may be the EOS token, which pads
            where there is none.

    Raises:
        TokenizerError: if it lacks EOS, or cannot be loaded.
    """
    loaded: Any = tokenizer
    if isinstance(tokenizer, str):
        from transformers import AutoTokenizer

        try:
            loaded = from_pretrained(AutoTokenizer, tokenizer)
        except PretrainedError as error:
            raise TokenizerError(str(error)) from error
    if not hasattr(loaded, "eos_token_id") or not callable(loaded):
        raise TypeError(
            f"tokenizer must be a transformers tokenizer, got {type(loaded).__name__}; "
            "load one with AutoTokenizer.from_pretrained"
        )
    is_named = eos_token is not None or pad_token is not None
    if is_named or Vocabulary.of(loaded).pad_id is None:
        loaded = with_ends(loaded, eos_token, pad_token)
    check_tokenizer(loaded)
    return loaded


def encodes_alike(policy: PreTrainedTokenizerBase, model: PreTrainedTokenizerBase) -> bool:
    """Return whether a model's tokenizer makes the same ids of texts as a policy's.

    Vocabulary, merges, normalizer, pre-tokenizer, the tokens put around a text and EOS must be
    equal. The model's may have further special tokens, such as one for padding, which no text has.
    Of tokenizers that are not both fast, vocabularies and the ids of some texts are compared.
    """
    if policy is model:
        return True
    if policy.eos_token_id != model.eos_token_id:
        return False
    if policy.is_fast and model.is_fast:
        backends: Any = policy.backend_tokenizer, model.backend_tokenizer
        ours, theirs = (backend.to_str() for backend in backends)
        if ours == theirs:
            return True
        if not _makes_alike(json.loads(ours), json.loads(theirs), len(policy)):
            return False
    elif policy.get_vocab() != model.get_vocab():
        return False
    return all(_framed(policy, text) == _framed(model, text) for text in _PROBES)


_PROBES = ("", "a", " b", "The End.\n", "1 + 23 = 24", "caf\u00e9 \u00fc")


def _framed(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenize(tokenizer, [content(text)], add_special_tokens=True)[0].ids


def _makes_alike(ours: dict[str, Any], theirs: dict[str, Any], size: int) -> bool:
    """Return whether rules of fast tokenizers make the same ids of a text without its frame."""
    own, added = ({t["id"]: t for t in rules["added_tokens"]} for rules in (ours, theirs))
    further = {index: token for index, token in added.items() if own.get(index) != token}
    return (
        all(token["special"] and index >= size for index, token in further.items())
        and added == own | further
        and all(ours[name] == theirs[name] for name in ("normalizer", "pre_tokenizer", "model"))
    )


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
    rows = encode_contents(tokenizer, texts)
    for index, ids in enumerate(rows):
        shares[index] = np.mean(np.equal(ids, tokenizer.unk_token_id)) if ids else 0.0
    return shares


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse a tokenizer without EOS, padding token or tokens of a text."""
    name, vocabulary = type(tokenizer).__name__, Vocabulary.of(tokenizer)
    size = vocabulary.size
    for kind, token_id in (
        ("eos", next(iter(vocabulary.end_ids), None)),
        ("pad", vocabulary.pad_id),
    ):
        if token_id is None:
            raise TokenizerError(
                f"{name} has no {kind} token (None); pass {kind}_token= with one of its vocabulary"
            )
        if not 0 <= token_id < size:
            raise TokenizerError(
                f"{name}'s {kind} token id {token_id} lies outside its vocabulary of {size}; "
                "load the tokenizer with its added tokens"
            )
    if size <= len(special_tokens(tokenizer)):
        raise TokenizerError(
            f"{name} has {size} tokens and none of a text, as transformers makes it of a folder "
            "without the tokenizer's files; pass tokenizer= with one that has them"
        )


def in_parts(items: Sequence[T], *, size: int = 5000) -> Iterator[Sequence[T]]:
    """Yield consecutive parts, whose encodings take less memory than all at once."""
    return (items[start : start + size] for start in range(0, len(items), size))


@contextmanager
def panics_refused() -> Iterator[None]:
    """Turn a panic of a tokenizer's Rust code within the block into one line."""
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


class Tokens(NamedTuple):
    """A text, or a pair of texts, as tokens."""

    ids: list[int]
    """Ids of the tokens."""
    spans: list[Span]
    """Characters of each token in its text; they may be [] where they were not asked for."""
    parts: list[int | None]
    """Text of each token, 0 or 1; None for those that the tokenizer adds to texts. [] likewise."""


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    seconds: Sequence[str] | None = None,
    *,
    add_special_tokens: bool = False,
    max_length: int | None = None,
    spans: bool = False,
) -> list[Tokens]:
    """Return texts as tokens: the one place where text becomes ids.

    Control tokens are kept where a text has them, but for the contents of a `MarkedText`, whose
    characters are never control tokens.

    Args:
        tokenizer: The tokenizer; a fast one where spans are asked for.
        texts: The texts.
        seconds: Their second texts, where they are pairs.
        add_special_tokens: Whether the tokenizer puts its own tokens around each.
        max_length: Most tokens; the tokenizer's ``truncation_side`` says where longer ones are cut.
            None cuts none.
        spans: Whether to say which characters each token has.
    """
    rows = [*zip(texts)] if seconds is None else [*zip(texts, seconds, strict=True)]
    if not rows:
        return []
    marked = [i for i, row in enumerate(rows) if any(isinstance(text, MarkedText) for text in row)]
    control = control_tokens(tokenizer) if marked else None
    mistaken = {i for i in marked if control and any(map(control.mistaken, rows[i]))}
    plain = [i for i in range(len(rows)) if i not in mistaken]
    tokens: dict[int, Tokens] = {}
    if plain:
        pairs = {} if seconds is None else {"text_pair": [seconds[i] for i in plain]}
        with panics_refused():
            encoded: Any = tokenizer(
                [texts[i] for i in plain],
                **pairs,
                add_special_tokens=add_special_tokens,
                padding=False,
                truncation=max_length is not None,
                max_length=max_length,
                return_offsets_mapping=spans,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
        for n, (i, ids) in enumerate(zip(plain, encoded["input_ids"], strict=True)):
            places = (encoded["offset_mapping"][n], encoded.sequence_ids(n)) if spans else ([], [])
            tokens[i] = Tokens(ids, *places)
    for i in mistaken:
        tokens[i] = _guarded(tokenizer, rows[i], add_special_tokens, max_length)
    return [tokens[i] for i in range(len(rows))]


def _guarded(
    tokenizer: PreTrainedTokenizerBase,
    row: tuple[str, ...],
    add_special_tokens: bool,
    max_length: int | None,
) -> Tokens:
    """Return a text, or a pair of texts, whose contents look like control tokens, as tokens."""
    if not tokenizer.is_fast:
        raise TokenizerError(
            f"{type(tokenizer).__name__} is no fast tokenizer and cannot tell contents from its "
            f"control tokens, got {row[-1][:60]!r}; take one with a tokenizer.json"
        )
    guard = control_tokens(tokenizer).guard(tokenizer, row)
    twin: Any = guard.twin
    if max_length is not None:
        twin.enable_truncation(max_length, direction=tokenizer.truncation_side)
    with panics_refused():
        encoding = twin.encode(*map(guard.rewritten, row), add_special_tokens=add_special_tokens)
    twin.no_truncation()
    return Tokens(encoding.ids, encoding.offsets, encoding.sequence_ids)


def encode_contents(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, add_special_tokens: bool = False
) -> list[list[int]]:
    """Return the ids of contents: what a policy, a partner or a data set says.

    ``add_special_tokens`` has the tokenizer put its own tokens around each.
    """
    marked = [content(text) for text in texts]
    rows = tokenize(tokenizer, marked, add_special_tokens=add_special_tokens)
    return [tokens.ids for tokens in rows]


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of prompts that a causal model can continue.

    The tokenizer's own special tokens are added, but never a second BOS (a chat template writes
    one into the text) and never a trailing EOS (it would say that the text is over). Control tokens
    that a prompt was written with are kept, but for the contents of a `MarkedText`.
    """
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    encoded: list[list[int]] = [[] for _ in texts]
    has_start = [bos is not None and starts_with(text, bos) for text in texts]
    for has_bos in (False, True):
        places = [i for i, begins in enumerate(has_start) if begins == has_bos]
        batch = tokenize(tokenizer, [texts[i] for i in places], add_special_tokens=not has_bos)
        for i, (ids, _, _) in zip(places, batch, strict=True):
            if ids and ids[-1] == tokenizer.eos_token_id and not ends_with(texts[i], eos):
                ids = ids[:-1]
            encoded[i] = ids
    return encoded


_ANCHORS = ("\n", ".", "a", "1")
"""Texts behind which another is encoded as it is inside a text, without what a tokenizer puts
before its first word; with several, one does not merge with it."""


def encode_next(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], before: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Return the ids of contents that follow other tokens, so that all of them spell both.

    Tokenizers in the line of Llama 2 put a space before every text, and one of word pieces begins a
    word: encoded by itself, a text would join with characters that nobody wrote. Where a tokenizer
    cannot spell the two, which some of whole words cannot, the text is encoded by itself.

    Args:
        tokenizer: The tokenizer.
        texts: The contents, or texts with contents marked.
        before: (texts,) ids that each follows.
    """
    marked = [text if isinstance(text, MarkedText) else content(text) for text in texts]
    alone = [tokens.ids for tokens in tokenize(tokenizer, marked)]
    backend: Any = tokenizer.backend_tokenizer if tokenizer.is_fast else None
    if backend is not None and backend.decoder is None:  # it joins all tokens by spaces
        return alone
    control = control_tokens(tokenizer)
    starts = decode(tokenizer, before)
    wholes = [start + control.shown(text) for start, text in zip(starts, marked, strict=True)]
    spelled = decode(tokenizer, [[*b, *ids] for b, ids in zip(before, alone, strict=True)])
    rows = zip(marked, alone, before, wholes, spelled, strict=True)
    return [
        ids if spelling == whole else _behind_anchor(tokenizer, text, context, whole) or ids
        for text, ids, context, whole, spelling in rows
    ]


def _behind_anchor(
    tokenizer: PreTrainedTokenizerBase, text: MarkedText, before: Sequence[int], whole_text: str
) -> list[int] | None:
    """Return the ids of a text that spell what is wanted behind others; None if none are found."""
    wholes = tokenize(tokenizer, [joined(anchor, text) for anchor in _ANCHORS])
    candidates = [
        whole.ids[len(anchor.ids) :]
        for anchor, whole in zip(tokenize(tokenizer, _ANCHORS), wholes, strict=True)
        if whole.ids[: len(anchor.ids)] == anchor.ids
    ]
    spelled = decode(tokenizer, [[*before, *ids] for ids in candidates])
    for ids, spelling in zip(candidates, spelled, strict=True):
        if spelling == whole_text:
            return ids
    return None


def decode(tokenizer: PreTrainedTokenizerBase, sequences: Sequence[Sequence[int]]) -> list[str]:
    """Return the texts of many id sequences, without special tokens.

    Equal to ``tokenizer.decode`` on each; fast tokenizers decode all in one call.
    """
    lists = [ids if isinstance(ids, list) else list(ids) for ids in sequences]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.clean_up_tokenization_spaces:
        return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in lists]
    return backend.decode_batch(lists, skip_special_tokens=True)


class Growth(NamedTuple):
    """The text of ids as it grows, token by token."""

    start: str
    """Text of the ids that are given, without an unfinished character at its end."""
    whole: str
    """Text of all ids."""
    parts: list[tuple[int, str]]
    """For each further id the text up to it, in two parts: so many characters of ``whole``, and
    what follows these, without an unfinished character at its end. (0, "") stands for a text of
    which nothing is finished that was not before."""


def growth(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, given: int = 0) -> Growth:
    """Return the text of ids as it grows from the first ``given`` of them on.

    It is that of `decode` for every beginning. A few tokens before the next ones are enough to
    decode these, so that the cost grows with the number of ids, not with its square; the texts are
    compared with that of all ids, and a tokenizer for which they differ decodes every beginning.
    """
    ids = [int(token_id) for token_id in ids]
    start, whole = decode(tokenizer, [ids[:given], ids])
    parts = _grown_by_blocks(tokenizer, ids, given, start, whole)
    if parts is None:
        beginnings = [ids[:end] for end in range(given + 1, len(ids) + 1)]
        parts = [(0, text.rstrip(_UNFINISHED)) for text in decode(tokenizer, beginnings)]
    return Growth(start.rstrip(_UNFINISHED), whole, parts)


def _grown_by_blocks(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], given: int, start: str, whole: str
) -> list[tuple[int, str]] | None:
    """Return `Growth.parts`, decoded in blocks; None if these do not join to the whole."""
    silent = set(special_tokens(tokenizer).values())
    shown = [token_id for token_id in ids[:given] if token_id not in silent]
    parts: list[tuple[int, str]] = []
    end = start  # text that ends where the block begins, of ids that begin at a context
    length = len(start)
    for first in range(given, len(ids), _BLOCK):
        block = ids[first : first + _BLOCK]
        context = _context(tokenizer, shown)
        if context is None:
            return None
        beginnings = [[*context, *block[:size]] for size in range(len(block) + 1)]
        before, *texts = decode(tokenizer, beginnings)
        # The context itself may read otherwise without the tokens before it.
        read = len(before.rstrip(_UNFINISHED))
        place = length - len(before) + read
        for text in texts:
            finished = text.rstrip(_UNFINISHED)
            parts.append((place, finished[read:]) if finished else (0, ""))
        end = texts[-1][read:]
        settled = end.rstrip(_UNFINISHED)[:-_UNSETTLED]
        if place < 0 or not whole.startswith(settled, place):
            return None
        length = place + len(end)
        shown += [token_id for token_id in block if token_id not in silent]
    return parts if length == len(whole) and whole.endswith(end) else None


def _context(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int] | None:
    """Return the last of some ids that show text, enough to decode the next; None if unclear.

    The first of them shows text by itself: behind one that shows none the next word would lose its
    space. It is no byte of a vocabulary of pieces, in which a row of bytes is text only as a whole.
    """
    usual = len(ids) - _CONTEXT
    for first in range(usual, max(usual - _SEARCH, 0), -1):
        name: Any = tokenizer.convert_ids_to_tokens(ids[first])
        if not _BYTE.fullmatch(str(name)) and decode(tokenizer, [ids[first : first + 1]])[0]:
            return ids[first:]
    return ids if usual <= _SEARCH else None


class ResponseDecoder:
    """Fast `decode` for the many responses of a batch.

    A word-level tokenizer without a decoder (the bundled ones) joins its tokens by spaces; a table
    of words is then several times faster than the tokenizer, and knows no later changes to it.
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
        """Return the texts of sequences of some lengths, (sequences,), in one array of ids."""
        ends = np.cumsum(lengths)
        if self._words is None:
            pieces = np.split(flat, ends[:-1]) if len(ends) else []
            return decode(self._tokenizer, [piece.tolist() for piece in pieces])
        has_word = self._shown[flat]
        words = self._words[flat[has_word]].tolist()
        # Where each text ends among the words: tokens that show nothing are not among them.
        bounds = np.concatenate([[0], np.cumsum(has_word)])[ends].tolist()
        return [" ".join(words[a:b]) for a, b in zip([0, *bounds], bounds, strict=False)]


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Return one piece of text per token, for display.

    A piece is the text that its token added to the decoded text, so the pieces of ordinary tokens
    join to the decoded response; a special token shows its own name. A token that only begins a
    character (byte-level vocabularies) shows nothing, and the one that completes it shows the
    character.
    """
    special = {index: text for text, index in special_tokens(tokenizer).items()}
    numbers = [int(token_id) for token_id in ids]
    whole, parts = growth(tokenizer, [i for i in numbers if i not in special])[1:]
    shown, pieces, texts = 0, [], iter(parts)
    for token_id in numbers:
        if token_id in special:
            pieces.append(special[token_id])
            continue
        place, text = next(texts)
        pieces.append(whole[shown:place] + text[max(shown - place, 0) :])
        shown = max(shown, place + len(text))  # shorter while a character is unfinished
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
