"""What a checkout is made of: modules, what they import, long functions, files on a path.

The product is what a user runs: the floors, the command line and its commands. Its core is what
makes an environment, pays a rule, trains a learner, compares and reports; the laboratory and its
commands stand above, and doors are reached by name alone. Imports inside functions and for type
checkers count like others.

python tests/checkout/house.py --path traces PPO with ABC from `gym.make_vec` to the first gradient
and lists the files on the way; it needs the package.
"""

import ast
import inspect
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("base", "envs", "rewards", "agents", "evaluation", "bridges", "scripts", "lab")
PRODUCT = (
    "base",
    "envs",
    "rewards",
    "agents",
    "evaluation",
    "lab",
    "scripts/commands",
    "scripts/cli.py",
)
LABORATORY = ("lab",)
"""The laboratory, a distribution of its own."""
DOORS = ("agents/fast",)
"""Folders and files outside the core that are reached by name."""
LONGEST_FUNCTION = 60
"""Lines of code that a function may have."""
ADDRESS = re.compile(r"(tokengym(?:\.\w+)+)(?::\w+)?")
"""Text that stands for an import."""
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def product_files(root: Path) -> list[Path]:
    """List the Python files of the product."""
    paths = [root / name for name in PRODUCT]
    files = [file for path in paths for file in sorted(path.rglob("*.py"))]
    return files + [path for path in paths if path.is_file()]


def parse(path: Path) -> ast.Module:
    """Parse one file."""
    return _parse(path.read_text(encoding="utf-8"))


@cache
def _parse(text: str) -> ast.Module:
    return ast.parse(text)


def code_lines(source: str) -> set[int]:
    """Number the lines that hold code: neither blank, nor comment, nor docstring."""
    line_numbers: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT and token.type != tokenize.ENDMARKER:
            line_numbers.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            line_numbers.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return line_numbers


def long_functions(path: Path, limit: int = LONGEST_FUNCTION) -> dict[str, int]:
    """Map the functions of a file above a number of lines of code to their length."""
    source = path.read_text(encoding="utf-8")
    lines = code_lines(source)
    lengths = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            length = len(lines & set(range(node.lineno, (node.end_lineno or node.lineno) + 1)))
            if length > limit:
                lengths[f"{node.name}:{node.lineno}"] = length
    return lengths


def files_per_folder(root: Path) -> Counter[str]:
    """Count the Python files of each folder of the product."""
    return Counter(str(path.parent.relative_to(root)) for path in product_files(root))


def module_files(root: Path) -> dict[str, Path]:
    """Map the name of every module of the package to its file."""
    files = {}
    for folder in ("tokengym", *FLOORS):
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts if folder == "tokengym" else ("tokengym", *parts))
            files[name.removesuffix(".__init__")] = path
    return files


def is_core(path: Path, root: Path) -> bool:
    """Tell whether a file of the product is neither in the laboratory nor behind a door."""
    name = path.relative_to(root).as_posix()
    return not any(
        name == excluded or name.startswith(f"{excluded}/") for excluded in (*LABORATORY, *DOORS)
    )


def module_imports(tree: ast.Module, modules: set[str]) -> set[str]:
    """Name the modules, among those given, that a module imports anywhere."""
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                imported.add(inner if inner in modules else node.module)
    return imported & modules


def addresses(tree: ast.Module, modules: set[str]) -> set[str]:
    """Name the modules, among those given, that a module reaches by text, "tokengym.x.y:Z"."""
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    matches = (ADDRESS.fullmatch(text) for text in texts if isinstance(text, str))
    return {match[1] for match in matches if match} & modules


def import_graph(root: Path) -> dict[str, set[str]]:
    """Map every module to those that it imports, in functions, for types and by text included."""
    files = module_files(root)
    graph = {}
    for name, path in files.items():
        tree = parse(path)
        graph[name] = module_imports(tree, set(files)) | addresses(tree, set(files))
    return graph


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


def is_importing(frame: FrameType | None) -> bool:
    """Tell whether a frame runs because a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def functions_run(root: Path, action: Callable[[], None]) -> dict[Path, int]:
    """Map the files below a folder of which an action runs a function to their lines in those.

    Functions that run while a module is imported, such as the decorators of a registry, are not
    counted: a reader need not follow them.
    """
    called: set[CodeType] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event != "call" or code in called or not code.co_filename.startswith(f"{root}/"):
            return
        if code.co_flags & inspect.CO_OPTIMIZED and not is_importing(frame):  # a function
            called.add(code)

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    lines: dict[Path, set[int]] = {}
    for code in called:
        last = max(line for _, _, line in code.co_lines() if line is not None)
        path = Path(code.co_filename).resolve()
        lines.setdefault(path, set()).update(range(code.co_firstlineno, last + 1))
    return {path: len(lines[path]) for path in sorted(lines)}


def learn_once() -> None:
    """Play a round of MovieReview with ABC and take the gradient of PPO's first minibatch."""
    import gymnasium as gym
    import torch

    class GradientReached(Exception):
        pass

    def reached(*_arguments: object, **_options: object) -> None:
        raise GradientReached

    from tokengym.agents import PPO

    try:
        with patch.object(torch.Tensor, "backward", reached):
            envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=4, reward="abc")
            PPO("CausalLMPolicy", envs, seed=0).learn(1)
    except GradientReached:
        return
    raise SystemExit("PPO came to no gradient")


def package_files(root: Path) -> set[Path]:
    """Return the files of the product and its face."""
    return {*product_files(root), *(root / "tokengym").glob("*.py")}


def path_table(root: Path) -> str:
    """Return the files from `gym.make_vec` to the gradient: their lines, and those in use."""
    package = package_files(root)
    run = {
        path.relative_to(root): (len(path.read_text().splitlines()), lines)
        for path, lines in functions_run(root, learn_once).items()
        if path in package
    }
    total, used = (sum(counts[index] for counts in run.values()) for index in (0, 1))
    return "\n".join(
        [
            *(f"{lines:6} {inside:6}  {path}" for path, (lines, inside) in run.items()),
            f"{total:6} {used:6}  lines of {len(run)} files, and of their functions that run",
        ]
    )


if __name__ == "__main__":
    if sys.argv[1:] != ["--path"]:
        sys.exit("usage: python tests/checkout/house.py --path")
    print(path_table(ROOT))
