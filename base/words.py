r"""Words of a text in any script: what metrics, R3, ROUGE and lists of words count.

Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without spaces between words. There
each character with its marks is a word, as the usual measures of these languages have it; a text
without such characters is split by a regular expression alone.
"""

import re
import unicodedata

WORDS = re.compile(r"\w+|[^\w\s]+")
"""Words, and runs of punctuation as words of their own."""

_SOUTH_EAST_ASIAN = ((0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0xAA60, 0xAA7F))
"""Blocks of Thai and Lao, Myanmar, Khmer, and further letters of Myanmar."""
_EAST_ASIAN = (
    *((0x2E80, 0x2FD5), (0x3005, 0x3007), (0x3021, 0x3029), (0x3031, 0x3035), (0x3038, 0x303C)),
    *((0x3041, 0x3096), (0x309D, 0x309F), (0x30A1, 0x30FA), (0x30FC, 0x312F), (0x31A0, 0x31BF)),
    *((0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9D)),
    *((0x1B000, 0x1B16F), (0x20000, 0x3FFFD)),
)
"""Ranges of Chinese characters, kana and bopomofo."""
_EAST_ASIAN_MARKS = "\u3099\u309a\uff9e\uff9f\ufe00-\ufe0f\U000e0100-\U000e01ef"
"""Marks of voiced kana, and selectors of variants."""


def _of_blocks(*kinds: str) -> str:
    """Return the South-East Asian characters of some general categories, for a pattern's set."""
    codes = (code for first, last in _SOUTH_EAST_ASIAN for code in range(first, last + 1))
    return "".join(one for one in map(chr, codes) if unicodedata.category(one).startswith(kinds))


# Sara am is a letter to Unicode, and belongs to the consonant before it.
_MARKS = f"{_of_blocks('M')}\u0e33\u0eb3"
_LETTERS = "".join(f"{chr(first)}-{chr(last)}" for first, last in _EAST_ASIAN) + _of_blocks("L")
_UNSPACED = re.compile(f"([{_LETTERS}{_MARKS}][{_MARKS}{_EAST_ASIAN_MARKS}]*)\u200b*")
"""One character with its marks; a space of no width behind it belongs to no word."""


def words(text: str, pattern: re.Pattern[str] = WORDS) -> list[str]:
    """Return the words of a text, in order.

    Args:
        text: Any text.
        pattern: Word of a text whose words stand apart; without groups.

    Example:
        >>> words("It shines, truly!")
        ['It', 'shines', ',', 'truly', '!']
        >>> words("東京は2度目。")
        ['東', '京', 'は', '2', '度', '目', '。']
    """
    # A pattern with a group keeps its matches: text before, then character and text by turns.
    pieces = [text] if text.isascii() else _UNSPACED.split(text)
    found: list[str] = pattern.findall(pieces[0])
    for character, rest in zip(pieces[1::2], pieces[2::2], strict=True):
        found += [character, *pattern.findall(rest)]
    return found
