"""What a checkout is made of: its modules, what they import, and what is installed of them.

Imports inside functions and for type checkers count like others, and so do addresses as text.
"""

import ast
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("base", "envs", "rewards", "agents", "evaluation", "bridges", "scripts", "lab")
PACKAGES = ("tokengym", *FLOORS)
"""Folders that are installed."""
ADDRESS = re.compile(r"(tokengym(?:\.\w+)+)(?::\w+)?")
"""Text that stands for an import."""


@cache
def parse(path: Path) -> ast.Module:
    """Parse one file."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of one file, which is walked once."""
    return tuple(ast.walk(parse(path)))


def module_files(root: Path) -> dict[str, Path]:
    """Map the name of every module of the package to its file."""
    files = {}
    for folder in PACKAGES:
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts if folder == "tokengym" else ("tokengym", *parts))
            files[name.removesuffix(".__init__")] = path
    return files


def module_imports(path: Path, modules: set[str]) -> set[str]:
    """Name the modules, among those given, that a file imports anywhere."""
    imported: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                imported.add(inner if inner in modules else node.module)
    return imported & modules


def addresses(path: Path, modules: set[str]) -> set[str]:
    """Name the modules, among those given, that a file reaches by text, "tokengym.x.y:Z"."""
    texts = (node.value for node in nodes(path) if isinstance(node, ast.Constant))
    matches = (ADDRESS.fullmatch(text) for text in texts if isinstance(text, str))
    return {match[1] for match in matches if match} & modules


@cache
def import_graph(root: Path) -> Mapping[str, set[str]]:
    """Map every module to those that it imports, in functions, for types and by text included."""
    files = module_files(root)
    names = set(files)
    return {
        name: module_imports(path, names) | addresses(path, names) for name, path in files.items()
    }


def mutual_folders(root: Path) -> list[tuple[str, str]]:
    """List the pairs of folders that import one another, neither of which holds the other."""
    files = module_files(root)
    folders = {name: path.parent.relative_to(root).as_posix() for name, path in files.items()}
    if (command_line := "tokengym.__main__") in folders:
        folders[command_line] = "scripts"  # the floor on which it stands
    edges = {
        (folders[name], folders[other])
        for name, imported in import_graph(root).items()
        for other in imported
    }
    pairs = {tuple(sorted(edge)) for edge in edges if edge[::-1] in edges and len({*edge}) == 2}
    return sorted((a, b) for a, b in pairs if not b.startswith(f"{a}/"))


def import_cycles(root: Path) -> list[list[str]]:
    """List the groups of modules that import one another, see `import_graph`."""
    edges = import_graph(root)
    reach: dict[str, set[str]] = {}
    for start in edges:
        seen: set[str] = set()
        waiting = list(edges[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += edges[name]
        reach[start] = seen
    groups = {
        tuple(sorted(other for other in reach[name] if name in reach[other]))
        for name in edges
        if name in reach[name]
    }
    return [list(group) for group in sorted(groups)]


def installed_files(root: Path) -> list[Path]:
    """List the Python files of the packages and modules that pyproject.toml names."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    files: set[Path] = set()
    for kind in ("packages", "py-modules"):
        block = re.search(rf"^{kind} = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
        for name in re.findall(r'"([\w.]+)"', block.group(1)) if block else []:
            inside = name.removeprefix("tokengym.")
            path = root.joinpath(*inside.split("."))
            if kind == "packages":
                files.update(path.glob("*.py"))
            else:
                files.update({path.with_suffix(".py"), path.with_name("__init__.py")})
    return sorted(files)
