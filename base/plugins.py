"""Entry points of installed packages, tokengym-lab among them, and what our own packages export.

The laboratory is a distribution of its own, and what it adds is found by entry points like
anyone's. Where it is not installed, the message for an unknown name says how to install it.
"""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from importlib.util import find_spec
from typing import Any

INSTALL = "pip install ./lab in a checkout"
"""Command that installs the laboratory."""


def plugins(group: str, name: str | None = None) -> list[EntryPoint]:
    """Return the entry points of ``tokengym.<group>``, all or those of one name."""
    points = entry_points(group=f"tokengym.{group}")
    return [point for point in points if name is None or point.name == name]


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
