"""Texts that know which of their characters are contents, which are never control tokens.

A control token is a special token of a tokenizer: its end of text, its beginning of a turn. In a
text that a user wrote, or that a chat template writes, the characters of such a token mean the
token. In contents (what a policy, a partner or a message says) they are characters like others.
"""

from __future__ import annotations

import json
import re
import string
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from tokengym.base.errors import TokenizerError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""(start, end) in characters."""

_PRIVATE_AREAS = (0xF0000, 0x100000, 0xE000)
"""First code points of Unicode's private use areas, the last of which has 6,400."""
_AREA_SIZE = 6400
_COMBINING = re.compile("[\u0300-\u036f]")


class MarkedText(str):
    """A text with the places of its contents.

    Its slices keep their marks; all else that strings do gives a plain text.

    Args:
        text: The text.
        contents: Spans of the contents, ascending and apart.
    """

    contents: tuple[Span, ...]
    """Spans of the contents."""

    def __new__(cls, text: str, contents: Iterable[Span] = ()) -> MarkedText:
        """Return the text with its marks."""
        marked = super().__new__(cls, text)
        marked.contents = tuple(contents)
        return marked

    def __getitem__(self, index: Any) -> MarkedText:
        part = super().__getitem__(index)
        if not isinstance(index, slice):
            return MarkedText(part)
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise ValueError(f"a marked text has slices of neighbours only, got step {step}")
        spans = ((max(a, start) - start, min(b, stop) - start) for a, b in self.contents)
        return MarkedText(part, ((a, b) for a, b in spans if a < b))

    def overlaps(self, start: int, stop: int) -> bool:
        """Return whether some of the characters from start to stop are contents."""
        return any(a < stop and start < b for a, b in self.contents)


def _contents_of(text: str) -> tuple[Span, ...]:
    return text.contents if isinstance(text, MarkedText) else ()


def content(text: str) -> MarkedText:
    """Return a text all of which is content."""
    return MarkedText(text, [(0, len(text))] if text else ())


def joined(*parts: str) -> MarkedText:
    """Return texts in a row, with the marks that they have.

    Example:
        >>> joined("<s>film: ", content("<s>")).contents
        ((9, 12),)
    """
    starts = accumulate(map(len, parts), initial=0)
    spans = [
        (start + a, start + b)
        for start, part in zip(starts, parts, strict=False)
        if isinstance(part, MarkedText)
        for a, b in part.contents
    ]
    return MarkedText("".join(parts), spans)


def filled(template: str, contents: Mapping[str, str], **values: object) -> MarkedText:
    """Return a template of ``str.format``, with its fields filled in.

    Args:
        template: The template, whose own text may have control tokens.
        contents: Fields that are contents.
        values: The other fields.

    Example:
        >>> filled("{who}: {text}", {"text": "<s>"}, who="user").contents
        ((6, 9),)
    """
    parts = []
    for literal, name, form, conversion in string.Formatter().parse(template):
        parts.append(literal)
        if name is None:
            continue
        field = "{" + name + (f"!{conversion}" if conversion else "") + f":{form}" + "}"
        field_text = field.format(**contents, **values)
        parts.append(content(field_text) if name in contents else field_text)
    return joined(*parts)


def starts_with(text: str, token: str | None) -> bool:
    """Return whether a text begins with a control token, as no content does."""
    if not token or not text.startswith(token):
        return False
    return not (isinstance(text, MarkedText) and text.overlaps(0, len(token)))


def ends_with(text: str, token: str | None) -> bool:
    """Return whether a text ends with a control token, as no content does."""
    if not token or not text.endswith(token):
        return False
    return not (isinstance(text, MarkedText) and text.overlaps(len(text) - len(token), len(text)))


class ControlTokens:
    """The control tokens of a tokenizer as it is now, and how to read their characters as text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        id_of: Any = tokenizer.convert_tokens_to_ids
        special = {
            str(token.content): int(index)
            for index, token in tokenizer.added_tokens_decoder.items()
            if token.special
        }
        for text in map(str, tokenizer.all_special_tokens):
            index = id_of(text)  # one that is not in the vocabulary stands for nothing
            if index is not None and tokenizer.convert_ids_to_tokens(index) == text:
                special.setdefault(text, int(index))
        unknown = tokenizer.unk_token_id  # the token of what it does not know controls nothing
        if unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id):  # GPT-2 names its EOS so
            unknown = None
        self.special = special
        """Id of each special token by its text: those that decoding leaves out."""
        self.ids = {text: index for text, index in special.items() if text and index != unknown}
        """Id of each control token by its text."""
        longest_first = sorted(self.ids, key=len, reverse=True)
        self._exact = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._loose = re.compile(self._exact.pattern, re.IGNORECASE)
        firsts = {cased for text in self.ids for cased in (text[0], text[0].swapcase())}
        self._begins = re.compile(f"[{re.escape(''.join(sorted(firsts)))}]" if firsts else r"(?!)")
        self._guards: dict[int, Guard] = {}

    def spans_in(self, text: str) -> list[Span]:
        """Return which characters of a content a tokenizer could take for control tokens.

        A tokenizer may fold case, widths and accents before it looks.
        """
        spans = []
        if self._begins.search(text):
            spans = [match.span() for match in self._loose.finditer(text)]
        if not text.isascii():
            folded = _COMBINING.sub("", unicodedata.normalize("NFKD", text))
            if self._begins.search(folded) and self._loose.search(folded):
                spans += self._spans_folded(text)
        return _merged(spans)

    def _spans_folded(self, text: str) -> list[Span]:
        """Return the same of the text as it is when folded."""
        folds = [_COMBINING.sub("", unicodedata.normalize("NFKD", letter)) for letter in text]
        starts = list(accumulate(map(len, folds), initial=0))
        return [
            (bisect_right(starts, a) - 1, bisect_right(starts, b - 1))
            for a, b in (match.span() for match in self._loose.finditer("".join(folds)))
        ]

    def mistaken(self, text: str) -> bool:
        """Return whether plain encoding could make control tokens of contents."""
        if not isinstance(text, MarkedText) or not text.contents:
            return False
        if self._begins.search(text) and any(
            text.overlaps(*match.span()) for match in self._loose.finditer(text)
        ):
            return True
        return not text.isascii() and any(
            self.spans_in(str(text)[start:stop]) for start, stop in text.contents
        )

    def guard(self, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Guard:
        """Return the guard of a fast tokenizer, whose private letters are in none of the texts."""
        area = free_area(texts)
        if area not in self._guards:
            self._guards[area] = Guard(tokenizer, self.ids, self._exact, area)
        return self._guards[area]

    def shown(self, text: str) -> str:
        """Return a text without its control tokens, as it is decoded; its contents stay."""
        parts, end = list[str](), 0
        for start, stop in _contents_of(text):
            parts += [self._exact.sub("", text[end:start]), text[start:stop]]
            end = stop
        return "".join((*parts, self._exact.sub("", text[end:])))


class Guard:
    """A fast tokenizer's twin, to which its control tokens are words in private letters.

    Its ids are the tokenizer's, so that what is written in everyday letters is text, and the
    control tokens that are meant are written in private ones, from the code point ``area`` on.
    """

    twin: Tokenizer

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        ids: Mapping[str, int],
        exact: re.Pattern[str],
        area: int,
    ) -> None:
        from tokenizers import Tokenizer

        self._exact = exact
        # A letter for a letter: the characters of a text keep their places.
        self._letters = cipher("".join(ids), area)
        backend: Any = tokenizer.backend_tokenizer
        rules = json.loads(backend.to_str())
        rules["truncation"] = rules["padding"] = None
        names = {text: text.translate(self._letters) for text in ids}
        for token in rules["added_tokens"]:
            if token["content"] in names:
                token |= {"content": names[token["content"]], "normalized": False}
        _rename(rules["model"], names)
        self.twin = Tokenizer.from_str(json.dumps(rules))
        for text, index in ids.items():
            if self.twin.token_to_id(names[text]) != index:
                raise TokenizerError(
                    f"the tokenizer's files give its token {text!r} another id than {index}, so "
                    "that it cannot be told from a text's characters; save the tokenizer again"
                )

    def rewritten(self, text: str) -> str:
        """Return a text for the twin: its control tokens, but for its contents, in its letters."""
        plain, parts, end = str(text), list[str](), 0
        for start, stop in (*_contents_of(text), (len(plain), len(plain))):
            outside = plain[end:start]
            parts.append(self._exact.sub(lambda m: m[0].translate(self._letters), outside))
            parts.append(plain[start:stop])
            end = stop
        return "".join(parts)


def free_area(texts: Iterable[str]) -> int:
    """Return the first private use area of which no text has a letter."""
    highest = [text for text in texts if not text.isascii()]
    for area in _PRIVATE_AREAS:
        letters = re.compile(f"[{chr(area)}-{chr(area + _AREA_SIZE - 1)}]")
        if not any(letters.search(text) for text in highest):
            return area
    raise TokenizerError(
        "the texts have private use characters of all three areas (U+E000, U+F0000, U+100000) "
        "beside the names of control tokens; take either out"
    )


def cipher(text: str, area: int) -> dict[int, int]:
    """Return a private letter for each letter of a text."""
    return {ord(letter): area + n for n, letter in enumerate(sorted(set(text)))}


def _merged(spans: list[Span]) -> list[Span]:
    """Return spans in order, those that overlap as one."""
    merged: list[Span] = []
    for start, stop in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Give entries of a model's vocabulary other names, in place, so that no text has them."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(word, word): index for word, index in vocabulary.items()}
    else:  # Unigram's, with the score of each
        model["vocab"] = [[names.get(word, word), score] for word, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        prefix = model.get("continuing_subword_prefix") or ""
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        model["merges"] = [
            [one, two]
            for one, two in pairs
            if names.keys().isdisjoint((one, two, one + two.removeprefix(prefix)))
        ]


_KNOWN: WeakKeyDictionary[Any, tuple[tuple[Any, ...], ControlTokens]] = WeakKeyDictionary()


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> ControlTokens:
    """Return the control tokens of a tokenizer, which are found once unless it is changed."""
    state = (len(tokenizer), *tokenizer.all_special_tokens)
    entry = _KNOWN.get(tokenizer)
    if entry is None or entry[0] != state:
        entry = _KNOWN[tokenizer] = (state, ControlTokens(tokenizer))
    return entry[1]


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, int]:
    """Return the id of each special token by its text: those that no decoded text shows.

    They are those that the tokenizer's files flag, of which transformers' ``all_special_tokens``
    knows some.
    """
    return control_tokens(tokenizer).special
