"""Objects that a call names without a word: the words that stand for them in settings.

Settings are plain data, which a folder keeps and other processes read. An object that can be found
again is named by its file or module, as on the command line. Any other is kept here, in this
process alone, under a name with a digest of what it is: "Mine@1a2b3c4d", see `base.identity`.
"""

import copy
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from tokengym.base.identity import digest

logger = logging.getLogger(__name__)

T = TypeVar("T")

HERE: dict[str, Any] = {}
"""Objects of this process by their names."""
_COPIES = ContextVar("copies", default=False)
"""Whether `own` copies."""
NAME = re.compile(r"(\w+)@[0-9a-f]{8}")


def word_of(item: Any, packages: Mapping[str, str] | None = None) -> str:
    """Return the word that stands for an object; ``packages`` as a `Registry` has them."""
    return place_of(item, packages) or keep(item)


def keep(item: Any) -> str:
    """Keep an object in this process, and return its name.

    Raises:
        SettingsError: if it cannot be told from one that was changed, see `named`.
    """
    name = getattr(item, "__name__", type(item).__name__)
    name = re.sub(r"\W", "", name) or "function"
    word = f"{name}@{digest(item)}"
    HERE[word] = item
    return word


def found(value: Any) -> Any:
    """Return the object that a word stands for if it is kept here, else the value as it is."""
    return HERE.get(value, value) if isinstance(value, str) else value


@contextmanager
def own_copies() -> Iterator[None]:
    """Have `own` return copies in this block, which leaves the objects that words name alone."""
    token = _COPIES.set(True)
    try:
        yield
    finally:
        _COPIES.reset(token)


def own(item: T) -> T:
    """Return an object that a word names: a deep copy of it in a block of `own_copies`.

    What cannot be copied is shared, with a warning if it holds anything.
    """
    if not _COPIES.get():
        return item
    try:
        return copy.deepcopy(item)
    except Exception as error:  # of the object's own making: it may hold a client of a server
        if hasattr(item, "state_dict") or getattr(item, "__dict__", None):
            logger.warning(
                "%s cannot be copied (%s), so that each run begins with the state that the last "
                "one left; pass its class, which each run makes",
                type(item).__name__,
                error,
            )
        return item


def kept_in(texts: list[str]) -> list[str]:
    """Return the names of objects of this process among texts."""
    return [text for text in texts if NAME.fullmatch(text)]


def words_in(text: str) -> set[str]:
    """Return the names of objects of some process that a text has in it."""
    return {match[0] for match in NAME.finditer(text)}


def short(word: str) -> str:
    """Return a word as readers see it, without the digest of an object.

    Example:
        >>> short("Mine@1a2b3c4d"), short("abc:beta=1")
        ('Mine', 'abc:beta=1')
    """
    match = NAME.fullmatch(word)
    return match[1] if match else word


def place_of(item: Any, packages: Mapping[str, str] | None) -> str | None:
    """Return the file or module of a class or function and its name there; None if it has none."""
    module = str(getattr(item, "__module__", ""))
    name, inside = getattr(item, "__qualname__", ""), sys.modules.get(module)
    if inside is None or module == "__main__" or getattr(inside, name, None) is not item:
        return None  # of a notebook, of a function, or an instance
    for short_name, package in (packages or {}).items():
        if package in sys.modules and getattr(sys.modules[package], name, None) is item:
            return f"{short_name}:{name}"
    if packages and "." in module:
        return f"{module}:{name}"
    file = str(getattr(inside, "__file__", ""))
    if "." in module or not file.endswith(".py") or hasattr(inside, "__path__"):
        return None  # a file of a package cannot be run by itself
    path, here = Path(file), Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{name}"
