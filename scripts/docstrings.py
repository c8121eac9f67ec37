"""Reading docstrings: Gymnasium's headings and Google's arguments."""

import inspect
import re
from typing import Any

_BLOCK = re.compile(r"(Args|Returns|Raises|Example|Source|Yields):")


def sections(owner: Any) -> dict[str, str]:
    """Return the ``## Heading`` parts of a docstring, and what stands before them under "".

    The Google blocks at its end (Args, Raises, ...) are in none of them.
    """
    found: dict[str, list[str]] = {"": []}
    heading: str | None = ""
    for line in (inspect.getdoc(owner) or "").splitlines():
        if line.startswith("## "):
            heading = line[3:].strip()
            found[heading] = []
        elif _BLOCK.match(line):
            heading = None
        elif heading is not None:
            found[heading].append(line)
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


def class_sections(cls: type) -> dict[str, str]:
    """Return `sections` of a class, those that it leaves out taken from its bases."""
    merged: dict[str, str] = {}
    for owner in reversed(cls.__mro__[:-1]):
        if owner.__module__.startswith("tokengym.") and owner.__doc__:
            merged |= sections(owner)
    return merged


def arguments(owner: Any) -> dict[str, str]:
    """Return what a docstring's "Args:" says of each argument, as one line."""
    _, _, block = (inspect.getdoc(owner) or "").partition("\nArgs:\n")
    found: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        if line and not line.startswith(" "):
            break
        if match := re.match(r"    (\w+): (.*)", line):
            name = match[1]
            found[name] = match[2]
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found
