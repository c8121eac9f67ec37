"""Measure a checkout: lines, modules, long functions, import cycles, where settings are declared.

`python tests/checkout/house.py [ROOT] [--json]` needs nothing but the standard library.
The product is what a user runs: the five floors, the command line and its commands. Its core is
what makes an environment, pays a rule, trains a learner, compares and reports; the laboratory
and its commands stand above, and doors are reached by name alone. Imports inside functions and
for type checkers count like others.
With `--path`, which needs the package, it traces PPO with ABC from `gym.make_vec` to the first
gradient and lists the files on the way. `--carried` lists those that a comparison's configuration
and the word after `--rewards` enter as an argument of a function, until the curves are written; a
return is an entry into a file that it had entered and left.
"""

import argparse
import ast
import inspect
import io
import json
import pickle
import re
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
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
SETTINGS = {
    "PPO setting": "gae_lambda",
    "environment option": "prompt_sampling",
    "command-line option": "learning_rate",
}
"""One setting of each kind, to count the files that declare it."""
ADDRESS = re.compile(r"(tokengym(?:\.\w+)+)(?::\w+)?")
"""Text that stands for an import."""
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class House:
    """Measurements of one checkout."""

    lines: int
    code_lines: int
    installed_lines: int
    modules: int
    core_lines: int
    core_code_lines: int
    core_modules: int
    most_files: tuple[str, int]
    long_functions: dict[str, int]
    cycles: list[list[str]]
    mutual_folders: list[tuple[str, str]]
    dynamic_attributes: int
    declaring: dict[str, list[str]]


def product_files(root: Path) -> list[Path]:
    """List the Python files of the product."""
    paths = [root / name for name in PRODUCT]
    files = [file for path in paths for file in sorted(path.rglob("*.py"))]
    return files + [path for path in paths if path.is_file()]


def parse(path: Path) -> ast.Module:
    """Parse one file."""
    return ast.parse(path.read_text(encoding="utf-8"))


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


def declares(tree: ast.Module, name: str) -> bool:
    """Tell whether a file has a parameter or an annotated field of a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.arg == name:
            return True
        if isinstance(node, ast.ClassDef):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and ast.unparse(field.target) == name:
                    return True
    return False


def dynamic_attributes(root: Path) -> int:
    """Count the calls of getattr and hasattr in the rewards."""
    calls = (
        node.func.id
        for path in sorted((root / "rewards").rglob("*.py"))
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    return sum(name in ("getattr", "hasattr") for name in calls)


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


def count_lines(paths: list[Path]) -> int:
    """Count the lines of files."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def count_code(paths: list[Path]) -> int:
    """Count the lines of files that hold code."""
    return sum(len(code_lines(path.read_text(encoding="utf-8"))) for path in paths)


def measure(root: Path) -> House:
    """Measure a checkout."""
    files = product_files(root)
    core = [path for path in files if is_core(path, root)]
    trees = {str(path.relative_to(root)): parse(path) for path in files}
    return House(
        lines=count_lines(files),
        code_lines=count_code(files),
        installed_lines=count_lines(installed_files(root)),
        modules=len(files),
        core_lines=count_lines(core),
        core_code_lines=count_code(core),
        core_modules=len(core),
        most_files=files_per_folder(root).most_common(1)[0],
        long_functions={
            f"{path.relative_to(root)}:{name}": length
            for path in files
            for name, length in long_functions(path).items()
        },
        cycles=import_cycles(root),
        mutual_folders=mutual_folders(root),
        dynamic_attributes=dynamic_attributes(root),
        declaring={
            f"{kind} ({name})": [path for path, tree in trees.items() if declares(tree, name)]
            for kind, name in SETTINGS.items()
        },
    )


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
        path.relative_to(root): (count_lines([path]), lines)
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


def stations(
    root: Path,
    files: Collection[Path],
    action: Callable[[], None],
    carries: Callable[[object], bool],
) -> list[str]:
    """List the files that something enters as an argument of a function, in order.

    A file that it enters again, after another, is listed again: it was returned to.

    Args:
        root: The checkout.
        files: Files that count; those of installed packages and of Python's library do not.
        action: What is traced.
        carries: Whether an argument is what is followed.
    """
    entered: list[str] = []
    names: dict[str, str | None] = {}

    def note(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event != "call":
            return
        if code.co_filename not in names:
            path = Path(code.co_filename).resolve()
            names[code.co_filename] = str(path.relative_to(root)) if path in files else None
        file = names[code.co_filename]
        count = code.co_argcount + code.co_kwonlyargcount
        if file not in (None, (entered or [""])[-1]) and any(
            carries(frame.f_locals.get(name)) for name in code.co_varnames[:count]
        ):
            entered.append(str(file))

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return entered


def compact(entered: Sequence[str]) -> list[str]:
    """Return stations with what goes to and fro between two files as one line.

    Example:
        >>> compact(["a", "b", "a", "b", "a", "c"])
        ['a, b: 2 times', 'a', 'c']
    """
    lines: list[str] = []
    at = 0
    while at < len(entered):
        pair, times = entered[at : at + 2], 1
        while len(pair) == 2 and entered[at + 2 * times : at + 2 * times + 2] == pair:
            times += 1
        lines.append(f"{', '.join(pair)}: {times} times" if times > 1 else entered[at])
        at += 2 * times if times > 1 else 1
    return lines


def compare_once(word: str) -> None:
    """Compare one reward over one update, the run in this process, until its curve is written.

    The page that is then rendered shows a reward's name as a text among others.
    """
    from tokengym.evaluation.report import curves
    from tokengym.evaluation.runs import compare, results
    from tokengym.evaluation.runs.run import do_plan
    from tokengym.evaluation.runs.spec import RunSpec
    from tokengym.scripts.cli import main

    def run_here(plans: Sequence[RunSpec], *_: object, **_options: object) -> None:
        for plan in plans:
            do_plan(pickle.loads(pickle.dumps(plan)))  # as a process of its own gets it

    class CurvesWritten(GeneratorExit):  # the command line reports other errors as a fault
        pass

    def write_and_stop(*arguments: Any) -> None:
        curves.write_curves(*arguments)
        raise CurvesWritten

    command = f"compare --rewards {word} --seeds 1 --steps 1 --batch-size 4 --max-new-tokens 4"
    command += " --eval-episodes 4 --reference-samples 0 --out "
    with (
        tempfile.TemporaryDirectory() as folder,
        redirect_stdout(io.StringIO()),
        patch.object(compare, "launch", run_here),
        patch.object(results, "write_curves", write_and_stop),
        suppress(CurvesWritten),
    ):
        main([*command.split(), folder])
        raise SystemExit("the comparison wrote no curves")


def carried_table(root: Path) -> str:
    """Return the files that a comparison's configuration and its reward's word pass through."""
    from tokengym.base.registry import Spec
    from tokengym.evaluation.runs.config import ComparisonConfig

    word = "abc:beta=0.7"
    kinds: dict[str, Callable[[object], bool]] = {
        "a comparison's configuration": lambda value: isinstance(value, ComparisonConfig),
        "the word after --rewards": lambda value: (
            isinstance(value, str | Spec) and str(value) == word
        ),
    }
    rows = []
    for name, carries in kinds.items():
        entered = stations(root, package_files(root), lambda: compare_once(word), carries)
        files = len(set(entered))
        rows.append(f"{files:4} files, {len(entered) - files:3} returns  {name}")
        rows += [f"    {line}" for line in compact(entered)]
    return "\n".join(rows)


def table(house: House) -> str:
    """Lay the measurements out as a table, with the names below each count."""
    folder, file_count = house.most_files
    rows: list[tuple[str, object, list[str]]] = [
        ("lines of the product", house.lines, []),
        ("lines of code of the product", house.code_lines, []),
        ("lines that the wheel installs", house.installed_lines, []),
        ("modules of the product", house.modules, []),
        ("lines of the core", house.core_lines, []),
        ("lines of code of the core", house.core_code_lines, []),
        ("modules of the core", house.core_modules, []),
        ("most files in a folder", f"{file_count} ({folder})", []),
        (
            f"functions above {LONGEST_FUNCTION} lines of code",
            len(house.long_functions),
            [f"{name} {length}" for name, length in house.long_functions.items()],
        ),
        ("import cycles", len(house.cycles), [" ".join(cycle) for cycle in house.cycles]),
        ("getattr and hasattr in rewards", house.dynamic_attributes, []),
        *((f"files declaring a {kind}", len(at), at) for kind, at in house.declaring.items()),
    ]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(
        line
        for name, value, details in rows
        for line in (f"{name:<{width}}  {value}", *(f"    {detail}" for detail in details))
    )


def main() -> None:
    """Print the measurements of the checkout that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=ROOT)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--path", action="store_true", help="trace PPO with ABC to its gradient")
    parser.add_argument("--carried", action="store_true", help="trace a configuration and a word")
    arguments = parser.parse_args()
    if arguments.carried:
        print(carried_table(arguments.root.resolve()))
        return
    if arguments.path:
        print(path_table(arguments.root.resolve()))
        return
    house = measure(arguments.root.resolve())
    print(json.dumps(asdict(house), indent=2) if arguments.json else table(house))


if __name__ == "__main__":
    main()
