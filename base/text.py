"""Texts and numbers as reports and terminals show them: safe to show, and 0 without a sign."""

import html
import math
import re
import unicodedata
from collections.abc import Sequence
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
    """Return a template's value, a text as `printable` has it; markup is a subclass of texts."""
    return printable(value) if type(value) is str else value


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


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them.

    Example:
        >>> listed(["a"]), listed(["a", "b", "c"])
        ('a', 'a, b and c')
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def level_percent(level: float) -> str:
    """Return the confidence level of an interval, to three digits where they do not round to all.

    Example:
        >>> [level_percent(level) for level in (0.95, 0.995, 1.0 - 0.05 / 3, 0.9999)]
        ['95%', '99.5%', '98.3%', '99.99%']
    """
    text = f"{100.0 * level:.3g}"
    return f"{100.0 * level:.10g}%" if text == "100" else f"{text}%"


def number(value: float | None) -> str:
    """Return a number to three significant digits, with a true minus sign.

    Example:
        >>> number(0.12345), number(12345.6), number(None)
        ('0.123', '12346', 'n/a')
    """
    if value is None or math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "\u221e"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    text = f"{value:.{digits}f}"
    return text.replace("-", "\u2212") if float(text) else text.removeprefix("-")


def percent(value: float) -> str:
    """Return a share in whole percent, with a true minus sign; what rounds to 0 has none.

    Example:
        >>> percent(0.256), percent(-0.001)
        ('26%', '0%')
    """
    text = f"{value:.0%}"
    return "0%" if text == "-0%" else text.replace("-", "\u2212")


def signed(value: float) -> str:
    """Return `number` with its sign, plus included; what rounds to 0 has none.

    Example:
        >>> signed(0.25), signed(-0.0001)
        ('+0.250', '0.000')
    """
    return f"+{number(value)}" if sign_of(value) > 0 else number(value)


def sign_of(value: float) -> int:
    """Return the sign of a number as it is printed: 0 for one that rounds to 0.

    Example:
        >>> sign_of(0.25), sign_of(-0.0001)
        (1, 0)
    """
    return ((value > 0) - (value < 0)) * bool(number(value).strip("\u22120."))


def fixed(value: float, digits: int) -> str:
    """Return a number with so many decimals; what rounds to 0 has no sign.

    Example:
        >>> fixed(-0.001, 2), fixed(-0.126, 2)
        ('0.00', '-0.13')
    """
    return f"{round(value, digits) + 0.0:.{digits}f}"
