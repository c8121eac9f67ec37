"""Words that a user types: a name with options, or an object of a file with options."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Spec:
    """A user's word for one thing, taken apart."""

    text: str
    """As it was written."""
    name: str
    """Registered name, or that of an object in ``file``."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Options by name: numbers, switches and texts."""
    file: Path | None = None
    """File of the user's own that defines the object; None for registered names."""

    @property
    def without_options(self) -> str:
        """The word up to its options: "abc", "rules.py:Half"."""
        return f"{self.file}:{self.name}" if self.file else self.name

    def __str__(self) -> str:
        return self.text


def split_file_word(text: str) -> tuple[Path, str, str] | None:
    """Return file, name and options of "file.py:Name:option=value"; None for any other word.

    Example:
        >>> split_file_word("rules.py:Half:share=0.5")[1:], split_file_word("abc:beta=1")
        (('Half', 'share=0.5'), None)
        >>> split_file_word("ppo:advantage=mine.py:Mean")  # a file in an option, not before it
    """
    file, dot, rest = text.partition(".py:")
    if not dot or re.match(r"[^:=]+:[^:=,]+=", file):
        return None
    name, _, options = rest.partition(":")
    return Path(f"{file}.py"), name, options


def words_in_options(text: str) -> list[str]:
    """Return the words for objects of files that the options of a word have as values.

    Example:
        >>> words_in_options("ppo:advantage=mine.py:Mean,n_epochs=1")
        ['mine.py:Mean']
    """
    in_file = split_file_word(text)
    options = in_file[2] if in_file else text.partition(":")[2]
    values = (option.partition("=")[2].strip() for option in options.split(","))
    return [value for value in values if split_file_word(value)]


def name_of(text: str) -> str:
    """Return a word without its options.

    Example:
        >>> name_of("abc:beta=1"), name_of("rules.py:Half:share=0.5")
        ('abc', 'rules.py:Half')
    """
    in_file = split_file_word(text)
    return f"{in_file[0]}:{in_file[1]}" if in_file else text.partition(":")[0]


def option_value(text: str) -> Any:
    """Return the number, switch or text that an option's value is."""
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
