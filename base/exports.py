"""Names that a package exports, imported when they are first used: torch alone takes seconds."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from tokengym.base.plugins import plugged


def listed(names: Mapping[str, str]) -> list[str]:
    """Return the names of `lazily`, for ``__all__``."""
    return sorted(name for words in names.values() for name in words.split())


def lazily(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package, which also finds names of installed packages.

    Args:
        package: Its full name.
        names: Module of the package to the names that it defines, parted by spaces; a module of
            another package beside it begins with a dot, as in ".base.errors".
    """
    homes = {name: home for home, words in names.items() for name in words.split()}

    def find(name: str) -> Any:
        if name in homes:
            return getattr(import_module(f".{homes[name]}", package), name)
        return plugged(package, name)

    return find
