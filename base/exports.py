"""Names that a package exports, told once: by the imports that it shows to type checkers."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from tokengym.base.plugins import missing_laboratory, plugins


def lazily(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    It exports what the block ``if TYPE_CHECKING`` of its ``__init__.py`` imports. Editors and type
    checkers read that block; here it is read as text, and each name is imported when it is first
    used: torch alone takes seconds. Names that installed packages add are found too.

    Args:
        package: Its full name; it is being imported.
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
        return sorted({*vars(module), *homes, *(name for name in added if "." not in name)})

    return find, listed, sorted(homes)


def _plugged(module: str, name: str) -> Any:
    """Return a name that an installed package adds to a package of tokengym.

    Raises:
        ImportError: if it is the laboratory's, which is not installed.
        AttributeError: if nobody has it.
    """
    full = f"{module}.{name}".removeprefix("tokengym.")
    if not name.startswith("__"):
        for point in plugins("names", full):
            value = point.load()
            setattr(sys.modules[module], name, value)  # looked up once
            return value
        if missing := missing_laboratory("names", full):
            raise ImportError(missing.replace(repr(full), f"tokengym.{full}"))
    raise AttributeError(f"module {module!r} has no attribute {name!r}")
