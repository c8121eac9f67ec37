"""The tests that guard files: those that reach them by few imports, of the nearest folders first.

python -m tests.checkout.guards [FILE ...] [--most 20] [--list] [arguments of pytest]

Without a file: those that git says are changed. The test with a file's name is not always the one
that fails: a module is also held by the tests of what is made of it. A test file is one step from
the modules whose names it uses, itself or through fixtures and helpers, and two from what those
modules import. A test file that is given guards itself, and a helper of tests is guarded by the
files that use it.
"""

import argparse
import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from tests.checkout import house

ROOT = house.ROOT
FOLDERS = ("suite", "lab", "studies", "checkout", "campaign")
"""Folders of tests that need no package of another trainer."""
STEPS = 2
"""Most imports between a test and what it guards."""
MOST = 20
"""Files of tests that are run."""


def main() -> None:
    """Run the guards of files, or list them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="default: those changed, as git says")
    parser.add_argument("--most", type=int, default=MOST, help=f"files of tests; default {MOST}")
    parser.add_argument("--list", action="store_true", help="list the tests and run none")
    options, further = parser.parse_known_args()
    files = [file.resolve() for file in options.files] or changed_files()
    tests = guards(files)
    if not tests:
        names = ", ".join(file.relative_to(ROOT).as_posix() for file in files)
        raise SystemExit(f"no test is within {STEPS} imports of {names or 'a changed file'}")
    chosen, more = tests[: options.most], len(tests[options.most :])
    for test in chosen:
        print(test.relative_to(ROOT).as_posix())
    if more:
        print(f"and {more} more: --most {len(tests)}", file=sys.stderr, flush=True)
    if not options.list:
        sys.exit(subprocess.call([sys.executable, "-m", "pytest", *further, *chosen], cwd=ROOT))


def changed_files() -> list[Path]:
    """List the Python files that differ from the last commit, new ones included."""
    asked = ("git", "status", "--porcelain", "--no-renames", "--untracked-files=all", "-z")
    told = subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = (ROOT / line[3:] for line in told.split("\0") if line)
    return [file for file in files if file.suffix == ".py" and file.exists()]


def guards(files: Iterable[Path]) -> list[Path]:
    """List the test files that guard any of the files: by folders between, steps, and name."""
    names = {path: name for name, path in _files().items()}
    places: dict[Path, tuple[int, int, Path]] = {}
    for file in files:
        for test in test_files():
            steps = _steps(test, names[file]) if file in names else _is_used(test, file)
            if steps is not None:
                place = (folders_between(test, file), steps, test)
                places[test] = min(places.get(test, place), place)
    return sorted(places, key=places.__getitem__)


def _steps(test: Path, module: str) -> int | None:
    """Return the imports between a test and a module, None if more than `STEPS`."""
    reached, edge = set[str](), set(used_modules(test))
    for step in range(1, STEPS + 1):
        if module in edge:
            return step
        reached |= edge
        edge = {other for name in edge for other in product_graph()[name]} - reached
    return None


def _is_used(test: Path, helper: Path) -> int | None:
    """Return 0 if a test file is, or uses, a file of the tests; else None."""
    return 0 if helper in {file for file, _ in _used(test)} else None


def folders_between(test: Path, file: Path) -> int:
    """Return the folders to leave and to enter from a test to where a file's own tests stand."""
    mine, yours = test.parent.relative_to(ROOT / "tests").parts, file.parent.relative_to(ROOT).parts
    yours = yours[1:] if yours[:1] == ("tests",) else yours
    if yours[:1] != ("lab",) and yours[:1] != mine[:1]:
        yours = ("suite", *yours)
    shared = sum(mine[: n + 1] == yours[: n + 1] for n in range(min(len(mine), len(yours))))
    return len(mine) + len(yours) - 2 * shared


@cache
def test_files() -> tuple[Path, ...]:
    """List the test files of the checkout, without those that need a trainer's own package."""
    folders = (ROOT / "tests" / name for name in FOLDERS)
    return tuple(path for folder in folders for path in sorted(folder.rglob("test_*.py")))


@cache
def product_graph() -> Mapping[str, frozenset[str]]:
    """Map each module to those whose names it uses; a name counts where it is defined."""
    graph = {}
    for name, path in _files().items():
        used = {home for home, _ in _imports(path).values()} & _modules()
        graph[name] = frozenset(used | house.addresses(path, _modules())) - {name}
    return graph


@cache
def used_modules(test: Path) -> frozenset[str]:
    """Return the modules whose names a test file uses, itself or through fixtures and helpers."""
    return frozenset[str]().union(*(_edges(*place)[0] for place in _used(test)))


@cache
def _used(test: Path) -> frozenset[tuple[Path, str]]:
    """Return the test file, and the names in files of the tests that it uses; "*" is all of one."""
    seen: set[tuple[Path, str]] = set()
    waiting = {(test, "*")}
    while waiting:
        seen |= waiting
        waiting = {place for here in waiting for place in _edges(*here)[1]} - seen
    return frozenset(seen)


@cache
def _edges(path: Path, symbol: str) -> tuple[frozenset[str], frozenset[tuple[Path, str]]]:
    """Return the modules that a definition in a file of the tests uses, and its places there."""
    whole = symbol == "*"
    found = [] if whole else _definitions(path).get(symbol, [])
    nodes = house.nodes(path) if whole else (node for one in found for node in ast.walk(one))
    modules, places = set[str](), set[tuple[Path, str]]()
    for word in {*_words(nodes)}:
        home, name = _imports(path).get(word, ("", ""))
        if home in _modules():
            modules.add(home)
        elif helper := _helpers().get(home):
            places.add((helper, name))
        elif not whole and word in _definitions(path):
            places.add((path, word))
        elif (match := house.ADDRESS.fullmatch(word)) and match[1] in _modules():
            modules.add(match[1])
        elif word.isidentifier() and (fixture := _fixture(word, path.parent)):
            places.add((fixture, word))
    return frozenset(modules), frozenset(places)


@cache
def _fixture(name: str, folder: Path) -> Path | None:
    """Return the nearest conftest.py or plugin that defines a fixture, as pytest finds it."""
    return next((file for file in _conftests(folder) if name in _fixtures(file)), None)


@cache
def _conftests(folder: Path) -> tuple[Path, ...]:
    """Return the files whose fixtures the tests of a folder may name, the nearest first."""
    folders = [one for one in (folder, *folder.parents) if one.is_relative_to(ROOT / "tests")]
    near = (one / "conftest.py" for one in folders)
    return (*(file for file in near if file.exists()), *_plugins())


@cache
def _plugins() -> tuple[Path, ...]:
    """Return the files that tests/conftest.py names as plugins."""
    words = {*_words(house.nodes(ROOT / "tests" / "conftest.py"))}
    helpers = _helpers()
    return tuple(helpers[word] for word in sorted(words) if word in helpers)


@cache
def _fixtures(path: Path) -> frozenset[str]:
    """Return the names of the fixtures that a file defines, those always used included."""
    return frozenset(
        name
        for name, nodes in _definitions(path).items()
        for node in nodes
        if isinstance(node, ast.FunctionDef)
        and any("fixture" in ast.unparse(decorator) for decorator in node.decorator_list)
    )


@cache
def _helpers() -> Mapping[str, Path]:
    """Map the name of every module of the tests to its file."""
    files = (ROOT / "tests").rglob("*.py")
    return {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}


@cache
def _files() -> Mapping[str, Path]:
    return house.module_files(ROOT)


@cache
def _modules() -> set[str]:
    return set(_files())


@cache
def _definitions(path: Path) -> Mapping[str, list[ast.stmt]]:
    """Map the names that a file binds at its top to the statements that do."""
    found: dict[str, list[ast.stmt]] = {}
    for node in house.parse(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        found.setdefault(name.id, []).append(node)
    return found


@cache
def _imports(path: Path) -> Mapping[str, tuple[str, str]]:
    """Map the names that a file imports to the module that defines each, and its name there."""
    found: dict[str, tuple[str, str]] = {}
    for node in house.nodes(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = alias.name, "*"
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found[alias.asname or alias.name] = _home(node.module, alias.name)
    return found


@cache
def _home(module: str, name: str) -> tuple[str, str]:
    """Return the module that defines a name, and its name there, as packages pass names on."""
    if (inner := f"{module}.{name}") in _modules() or inner in _helpers():
        return inner, "*"
    path = _files().get(module)
    if path is not None and path.name == "__init__.py" and name not in _definitions(path):
        return _imports(path).get(name, (module, name))
    return module, name


def _words(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names that code reads, takes as arguments or has as texts, as of fixtures."""
    for node in nodes:
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


if __name__ == "__main__":
    main()
