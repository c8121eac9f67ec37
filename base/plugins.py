"""Entry points of installed packages, tokengym-lab among them, and what our own packages export.

The laboratory is a distribution of its own, and what it adds is found by entry points like
anyone's. Where it is not installed, the message for an unknown name says how to install it.
"""

import ast
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module, metadata
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution
from importlib.util import find_spec
from typing import Any

INSTALL = "pip install ./lab in a checkout"
"""Command that installs the laboratory."""


def plugins(group: str, name: str | None = None) -> list[EntryPoint]:
    """Return the entry points of ``tokengym.<group>``, all or those of one name."""
    points = entry_points(group=f"tokengym.{group}")
    return [point for point in points if name is None or point.name == name]


def entry_points(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of one of our groups, in the order in which Python finds them.

    The files of all installed packages are read once, and again where a folder of ``sys.path`` has
    changed: a package that is installed meanwhile is found.
    """
    return tuple(point for point in _read_points(*map(_state_of, sys.path)) if point.group == group)


def _state_of(folder: str) -> tuple[str, int, int, int] | None:
    """Return what changes when a package is installed in a folder; None of one that is missing."""
    try:
        status = os.stat(folder or os.curdir)
    except OSError:
        return None
    return folder, status.st_dev, status.st_ino, status.st_mtime_ns


@lru_cache(maxsize=1)
def _read_points(*folders: tuple[str, int, int, int] | None) -> list[EntryPoint]:
    """Return the entry points of all our groups, of the folders in that state."""
    points = metadata.entry_points()
    groups = (group for group in points.groups if group.startswith("tokengym."))
    return [point for group in groups for point in points.select(group=group)]


def missing_laboratory() -> str:
    """Return the end of a message on an unknown name; "" where tokengym-lab is installed."""
    try:
        distribution("tokengym-lab")
    except PackageNotFoundError:
        return f"; tokengym-lab, which is not installed, has more: {INSTALL}"
    return ""


# --- names that a package exports -----------------------------------------------------------------


def lazily(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    It exports what the block ``if TYPE_CHECKING`` of its ``__init__.py`` imports, read as text in
    0.2 ms, and imports each name when it is first used: torch alone takes seconds. Names that
    installed packages add are found too.
    """
    module = sys.modules[package]
    loader: Any = module.__spec__ and module.__spec__.loader
    homes = {
        alias.name: f"{node.module}"
        for block in ast.parse(loader.get_source(package)).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def find(name: str) -> Any:
        if name not in homes:
            return _plugged(package, name)
        if homes[name] == package:  # a module of the package, which becomes its attribute
            return import_module(f"{package}.{name}")
        value = getattr(import_module(homes[name]), name)
        setattr(module, name, value)  # looked up once
        return value

    def listed() -> list[str]:
        prefix = f"{package}.".removeprefix("tokengym.")
        added = (point.name for point in plugins("names") if point.name.startswith(prefix))
        added = (name.removeprefix(prefix) for name in added)
        public = vars(module)["__all__"]  # more than the names here where a package adds to them
        return sorted({*public, *(name for name in added if "." not in name)})

    return find, listed, sorted(homes)


def _plugged(module: str, name: str) -> Any:
    """Return a name that an installed package adds to a package of tokengym."""
    full = f"{module}.{name}".removeprefix("tokengym.")
    for point in plugins("names", full):
        value = point.load()
        setattr(sys.modules[module], name, value)  # looked up once
        return value
    fault = f"module {module!r} has no attribute {name!r}"
    if not name.startswith("_") and find_spec(f"{module}.{name}") is None:
        if missing := missing_laboratory():
            # `from package import name` would hide the text of another error.
            raise ImportError(f"{fault}{missing}")
    raise AttributeError(fault)
