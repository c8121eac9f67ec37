"""Text that is safe to show and to encode."""

import html
import re
import unicodedata
from typing import Any

_BIDIRECTIONAL = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
"""Code points that change the direction of text."""


def printable(text: str) -> str:
    r"""Return a text that can neither control a terminal nor reorder the text around it.

    Control characters become their symbols. DEL, the C1 controls, line and paragraph separators,
    bidirectional marks and lone surrogates become U+FFFD. Line breaks and tabs stay.

    Example:
        >>> printable("a\x00b")
        'a␀b'
    """
    if text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def printable_value(value: object) -> Any:
    """Return a template's value, a text without what a browser would not show as it is."""
    return printable(value) if type(value) is str else value  # markup is a subclass


def markdown(text: str) -> str:
    r"""Return a text as one line of Markdown that shows it and obeys nothing in it.

    The text passes through `printable`; tags, links, code and the bars of a table are escaped.

    Example:
        >>> markdown("<b>a|[b](c)")
        '&lt;b&gt;a\\|\\[b\\](c)'
    """
    line = html.escape(" ".join(printable(text).split()), quote=False)
    return re.sub(r"([\\`|\[\]])", r"\\\1", line)


def lone_surrogate(text: str) -> int | None:
    """Return the position of the first lone surrogate in a text, None if there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def _shown(character: str) -> str:
    """Return one character as `printable` shows it."""
    code, category = ord(character), unicodedata.category(character)
    hidden = category in ("Cc", "Cs", "Zl", "Zp") or code in _BIDIRECTIONAL
    if character in "\n\t" or not hidden:
        return character
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"
