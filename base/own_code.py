"""Python files of the user's own: what they define, and the objects that running them gives."""

from __future__ import annotations

import ast
import importlib.util
import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from tokengym.base.errors import SettingsError, TokenGymError, is_fault


def definitions(path: Path) -> list[ast.ClassDef | ast.FunctionDef]:
    """Return what a file defines at its top; the file is not run."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []
    return [node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]


def defined_names(path: Path) -> str:
    """Return the public names that a file defines at its top, in brackets."""
    names = [node.name for node in definitions(path) if node.name[0] != "_"]
    return f" (it has {', '.join(names)})" if names else ""


def load_from_file(path: Path, name: str, *, error: type[TokenGymError] = SettingsError) -> Any:
    """Return an object that a Python file of the user's defines.

    The file is run once per process, and again when its contents have changed.
    """
    digest = sha256(f"{path.resolve()} {code_hash(path, error=error)}".encode()).hexdigest()[:16]
    module_name = f"tokengym_own_{digest}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
        try:
            with running_user_code(f"{path} cannot be run", path, error):
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    if name not in vars(module):
        public = [key for key in vars(module) if not key.startswith("_")]
        raise error(f"{path} defines no {name!r}; it defines {', '.join(public) or 'nothing'}")
    return vars(module)[name]


def code_hash(path: Path, *, error: type[TokenGymError] = SettingsError) -> str:
    """Return the SHA-256 of a Python file of the user's."""
    if not path.is_file():
        raise error(f"there is no file {path}; write path/to/file.py:Name")
    return sha256(path.read_bytes()).hexdigest()


@contextmanager
def running_user_code(
    said: str, path: Path | None = None, error: type[TokenGymError] = SettingsError
) -> Iterator[None]:
    """Turn what code of the user's raises within the block into one line, ``sys.exit`` too.

    Errors of tokengym pass, and so does Ctrl-C: only a ``raise KeyboardInterrupt`` is an error.

    Args:
        said: Beginning of the message.
        path: The code's file; None for code that is in no file of its own.
        error: Class of what is raised.

    Raises:
        TokenGymError: naming the exception.
    """
    try:
        yield
    except BaseException as raised:
        is_stop = not is_fault(raised) and not _is_raised_in(path, raised)
        if isinstance(raised, TokenGymError) or is_stop:
            raise
        raise error(f"{said}: {type(raised).__name__}: {raised}".rstrip(": ")) from raised


def _is_raised_in(path: Path | None, error: BaseException) -> bool:
    """Return whether a file says ``raise`` where an exception comes from."""
    last: TracebackType | None = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    file = "" if last is None else last.tb_frame.f_code.co_filename
    if path is None or last is None or Path(file).resolve() != path.resolve():
        return False
    return "raise" in linecache.getline(file, last.tb_lineno).split()
