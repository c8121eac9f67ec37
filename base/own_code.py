"""Python files of the user's own: what they define, and the objects that running them gives."""

from __future__ import annotations

import ast
import difflib
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tokengym.base.errors import SettingsError, TokenGymError, is_fault

MODULE_PREFIX = "tokengym_own_"
"""Beginning of the names of modules that are files of the user's."""


# --- texts that are read in place of files --------------------------------------------------------

_SOURCES: list[Callable[[Path], Path]] = []
"""Functions that return what is read in place of a file; the last counts."""


@contextmanager
def reading(source: Callable[[Path], Path]) -> Iterator[None]:
    """Read the texts of files of the user's elsewhere while the block runs.

    The text alone is the other's: its path, its name and what lies beside it are the file's.

    Args:
        source: Returns what is read in place of a file, the file itself for most.
    """
    _SOURCES.append(source)
    try:
        yield
    finally:
        _SOURCES.pop()


def source_of(path: Path) -> Path:
    """Return what is read in place of a file of the user's, see `reading`."""
    return _SOURCES[-1](path) if _SOURCES else path


def text_of(path: Path) -> bytes:
    """Return the text of a file of the user's, see `reading`."""
    return source_of(path).read_bytes()


# --- what a file defines --------------------------------------------------------------------------


def definitions(path: Path) -> list[ast.ClassDef | ast.FunctionDef]:
    """Return what a file defines at its top; the file is not run."""
    try:
        body = ast.parse(text_of(path)).body
    except (OSError, SyntaxError, ValueError):
        return []
    return [node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]


def defined_names(path: Path) -> str:
    """Return the public names that a file defines at its top, in brackets."""
    names = [node.name for node in definitions(path) if node.name[0] != "_"]
    return f" (it has {', '.join(names)})" if names else ""


def _own_names(path: Path) -> set[str]:
    """Return the public names that a file defines or assigns, without those that it imports."""
    tree = ast.parse(text_of(path))
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    made |= {node.name for node in definitions(path)}
    return {name for name in made if not name.startswith("_")}


def load_from_file(path: Path, name: str, *, error: type[TokenGymError] = SettingsError) -> Any:
    """Return an object that a Python file of the user's defines.

    The file is run once per process, and again when its contents have changed, beside what is in
    use of the earlier ones. It may import files beside it, as a script does.
    """
    digest = sha256(f"{path.resolve()} {code_hash(path, error=error)}".encode()).hexdigest()[:16]
    module_name = f"{MODULE_PREFIX}{digest}"
    module = sys.modules.get(module_name) or _run(path, module_name, error)
    if name not in vars(module):
        own = _own_names(path)
        public = [key for key in vars(module) if key in own]
        near = difflib.get_close_matches(name, public, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise error(
            f"{path} defines no {name!r}; {hint}it defines {', '.join(public) or 'nothing'}"
        )
    return vars(module)[name]


def _run(path: Path, module_name: str, error: type[TokenGymError]) -> ModuleType:
    """Return the module that a file is when it is run, kept under its name."""
    loader = _FromSource(module_name, str(path))
    spec = importlib.util.spec_from_file_location(module_name, path, loader=loader)
    assert spec is not None
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        with running_user_code(f"{path} cannot be run", path, error), _importing_beside(path):
            loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def name_of_own(function: FunctionType) -> str:
    """Return the name that a function has in a file of the user's, "" if it is of no such file."""
    module = sys.modules.get(function.__module__)
    if module is None or not module.__name__.startswith(MODULE_PREFIX):
        return ""
    return next((key for key, value in vars(module).items() if value is function), "")


def copy_of_own(function: FunctionType) -> FunctionType | None:
    """Return a function of a file of the user's from another run of that file.

    What it remembers in its module, or in files beside it, is not what the function does.

    Returns:
        The copy; None where the function is of no such file, has no name in it, or the file cannot
        be run a second time.
    """
    name = name_of_own(function)
    if not name:
        return None
    module = sys.modules[function.__module__]
    again = f"{module.__name__}_again"
    try:
        copy = vars(_run(Path(str(module.__file__)), again, SettingsError)).get(name)
    except TokenGymError:
        return None
    sys.modules.pop(again, None)
    return copy if isinstance(copy, FunctionType) else None


def code_hash(path: Path, *, error: type[TokenGymError] = SettingsError) -> str:
    """Return the SHA-256 of a Python file; of a file that imports some beside it, that of all."""
    if not source_of(path).is_file():
        raise error(f"there is no file {path}; write path/to/file.py:Name")
    first, *others = (sha256(text_of(file)).hexdigest() for file in (path, *neighbours(path)))
    return sha256("".join((first, *others)).encode()).hexdigest() if others else first


def neighbours(path: Path) -> list[Path]:
    """Return the files beside a Python file, not run, that it and these import."""
    folder = path.parent.resolve()
    files = imported_files(
        imported_names(path), lambda top: [folder] if _is_beside(top, folder) else []
    )
    return sorted(files.keys() - {path.resolve()})


def imported_files(names: set[str], folders: Callable[[str], list[Path]]) -> dict[Path, str]:
    """Return the files of modules that are imported and of what these import; none is run.

    Args:
        names: Full names of modules, with the packages around them.
        folders: Where the modules of a first name are read from; none for those that are left out.

    Returns:
        The full name of each file's module.
    """
    files, left = dict[Path, str](), [*names]
    while left:
        name = left.pop()
        package, _, _ = name.rpartition(".")
        for folder in folders(name.partition(".")[0]):
            place = folder.joinpath(*name.split("."))
            for file, its_package in (
                (place.with_suffix(".py"), package),
                (place / "__init__.py", name),
            ):
                if source_of(file).is_file() and file not in files:
                    files[file] = name
                    left += imported_names(file, its_package)
    return files


def _is_beside(top: str, folder: Path) -> bool:
    """Return whether a module or package is imported from a folder, which is looked at last."""
    if top in ("tokengym", "__main__"):
        return False
    if (spec := importlib.util.find_spec(top)) is None:
        return True
    places = [place for place in (spec.origin, *(spec.submodule_search_locations or ())) if place]
    return bool(places) and all(Path(place).is_relative_to(folder) for place in places)


def imported_names(path: Path, package: str = "") -> set[str]:
    """Return the full names of modules that a file imports, and of the packages around them.

    Args:
        path: A Python file, which is not run.
        package: The full name of the package that its relative imports start from.
    """
    try:
        tree = ast.parse(text_of(path))
    except (OSError, SyntaxError, ValueError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            listed = [alias.name for alias in node.names]
            names |= names_of_import(node.module or "", listed, node.level, package)
    return with_packages(names)


def names_of_import(module: str, listed: Iterable[str], level: int, package: str) -> set[str]:
    """Return the full names that ``from module import listed`` may import; one may be no module.

    Args:
        module: The name in the statement, without the dots before it.
        listed: What is imported from it.
        level: How many dots are before the name.
        package: The full name of the package that the statement is in.
    """
    try:
        base = importlib.util.resolve_name("." * level + module, package)
    except ImportError:  # as running it would say
        return set()
    return {base, *(f"{base}.{name}" for name in listed)}


def with_packages(names: Iterable[str]) -> set[str]:
    """Return names of modules, and those of the packages around them."""
    parts = [name.split(".") for name in names]
    return {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}


class _Beside(importlib.machinery.FileFinder):
    """Finds the modules in a folder of the user's, and those whose text is read elsewhere."""

    def find_spec(
        self, fullname: str, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the module's spec, see `importlib.abc.PathEntryFinder.find_spec`."""
        if (found := super().find_spec(fullname, target)) is not None and found.loader is not None:
            return found
        place = Path(self.path, fullname.rpartition(".")[2])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if source_of(file) != file:
                loader = _FromSource(fullname, str(file))
                return importlib.util.spec_from_file_location(fullname, file, loader=loader)
        return found


class _FromSource(importlib.machinery.SourceFileLoader):
    """Compiles the text of a file, which is shown and hashed; a compiled one may be of another."""

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code of the text, see `importlib.abc.InspectLoader.get_code`."""
        path = self.get_filename(fullname)
        return self.source_to_code(text_of(Path(path)), path)


@contextmanager
def _importing_beside(path: Path) -> Iterator[None]:
    """Let a file import what lies beside it, after everything that is installed.

    Such a module is of this file alone: another folder may have one of the same name.
    """
    folder, beside = str(path.parent.resolve()), neighbours(path)
    is_shared = folder in sys.path
    folders = {folder, *(str(file.parent) for file in beside)}

    def finder(place: str) -> importlib.machinery.FileFinder:
        if place not in folders:
            raise ImportError(place)
        machinery = importlib.machinery
        extensions = machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES
        return _Beside(place, extensions, (_FromSource, machinery.SOURCE_SUFFIXES))

    def forget_finders() -> None:
        for place in folders:
            sys.path_importer_cache.pop(place, None)

    before = set(sys.modules)
    sys.path.append(folder)
    sys.path_hooks.insert(0, finder)
    forget_finders()
    try:
        yield
    finally:
        made = set() if is_shared else set(sys.modules) - before
        for name in [one for one in made if _is_read_from(folder, one)]:
            del sys.modules[name]
        sys.path.remove(folder)
        sys.path_hooks.remove(finder)
        forget_finders()


def _is_read_from(folder: str, name: str) -> bool:
    """Return whether a loaded module, or the outermost package around it, is in a folder."""
    top = sys.modules.get(name.partition(".")[0])
    if top is None or top.__name__.startswith(MODULE_PREFIX):
        return False
    places = getattr(top, "__path__", None) or [getattr(top, "__file__", None)]
    return any(place and Path(place).parent == Path(folder) for place in places)


@contextmanager
def running_user_code(
    beginning: str, path: Path | None = None, error: type[TokenGymError] = SettingsError
) -> Iterator[None]:
    """Turn what code of the user's raises within the block into one line, ``sys.exit`` too.

    Errors of tokengym pass, and so does Ctrl-C: only a ``raise KeyboardInterrupt`` is an error.
    """
    try:
        yield
    except BaseException as raised:
        is_stop = not is_fault(raised) and not _is_raised_in(path, raised)
        if isinstance(raised, TokenGymError) or is_stop:
            raise
        raise error(f"{beginning}: {type(raised).__name__}: {raised}".rstrip(": ")) from raised


def _is_raised_in(path: Path | None, error: BaseException) -> bool:
    """Return whether a file says ``raise`` where an exception comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    if path is None or not frames or Path(frames[-1].filename).resolve() != path.resolve():
        return False
    return "raise" in (frames[-1].line or "").split()
