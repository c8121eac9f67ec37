"""The floors: base, envs, rewards, agents, evaluation, scripts; `tokengym` composes three.

The laboratory, a distribution of its own, stands on all of them.
"""

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tokengym
from docs.makers import public_names
from tests.checkout import house
from tokengym.base.plugins import plugins
from tokengym.envs.tasks.task import LABORATORY

ROOT = Path(__file__).parents[2]
MODULES = {*house.module_files(ROOT)}
FLOORS = ["base", "envs", "rewards", "agents", "evaluation", "scripts", "lab"]
COMPOSED = {"credit", "keywords", "registration"}
"""Modules of the face that compose environments and rewards; ``version`` imports nothing."""
MAY_IMPORT = {floor: {*FLOORS[: index + 1], "version"} for index, floor in enumerate(FLOORS)}
MAY_IMPORT["tokengym"] = {"base", "envs", "rewards", "version", *COMPOSED}
FACE = ROOT / "tokengym" / "__init__.py"  # names what users import, for types, and loads it lazily
COMMAND_LINE = FACE.with_name("__main__.py")
"""Stands on the floor of the commands, as the script ``tokengym`` does."""
UPKEEP = ROOT / "scripts" / "build_models.py"
"""Script of a checkout, which is not installed and uses the laboratory."""
MAY_IMPORT["bridges"] = {"bridges", "base", "envs", "rewards", "agents", "credit", "version"}
MAY_IMPORT["lab"] |= {"bridges", *COMPOSED, *tokengym.__all__}  # whatever is public
PURE_AGENTS = ("losses", "ppo.advantages", "ppo.functions", "ppo.inputs", "ppo.settings")
"""Folders and modules of the agents that bridges may import: functions of rows, and what these
read."""
MATHEMATICS = [
    "base/words.py",
    "rewards/maths",
    "agents/losses",
    "evaluation/statistics",
    "lab/replay/agreement.py",
    "lab/envs/oracle/dynamic_programming.py",
    "lab/training/pairwise.py",
    "rewards/gold/base.py",
    "rewards/gold/sentiment_lexicon.py",
]
"""Folders and modules of pure functions."""


def mathematics() -> list[Path]:
    found = []
    for name in MATHEMATICS:
        place = ROOT / name
        found += sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return found


def own_modules(path: Path) -> Iterator[str]:
    """Yield the name under `tokengym` of every module of ours that a file imports or names."""
    for address in house.addresses(path, MODULES):
        yield address.removeprefix("tokengym.")
    for node in house.nodes(path):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            modules = [node.module or ""]
            if node.module == "tokengym":
                modules = [f"tokengym.{alias.name}" for alias in node.names]
        for module in modules:
            package, _, rest = module.partition(".")
            if package == "tokengym" and rest:
                yield rest


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_go_down_only(folder: str):
    for path in sorted((ROOT / folder).rglob("*.py")):
        floor = {COMMAND_LINE: "scripts", UPKEEP: "lab"}.get(path, folder)
        # What the face names for types is held by a test of its own.
        assert path == FACE or not (names := upward(path, floor)), f"{path} imports {names}"


def upward(path: Path, floor: str) -> list[str]:
    """List the floors, modules and names of the face that a file of a floor must not import."""
    names = {module.split(".")[0] for module in own_modules(path)}
    return sorted(names - MAY_IMPORT[floor])


def test_bridges_import_pure_functions_of_the_agents():
    graph = house.import_graph(ROOT)
    bridges = [name for name in graph if name.startswith("tokengym.bridges")]
    imported = {f"{one}." for name in bridges for one in graph[name]}
    of_agents = {one for one in imported if one.startswith("tokengym.agents.")}
    assert of_agents
    pure = tuple(f"tokengym.agents.{name}." for name in PURE_AGENTS)
    assert sorted(one for one in of_agents if not one.startswith(pure)) == []


@pytest.mark.parametrize("path", mathematics(), ids=lambda path: str(path.relative_to(ROOT)))
def test_mathematics_imports_nothing_of_ours_but_mathematics(path: Path):
    names = {file.relative_to(ROOT).with_suffix("").as_posix() for file in mathematics()}
    pure = {name.replace("/", ".").removesuffix(".__init__") for name in names}
    lazily = {"base.plugins"} if path.name == "__init__.py" else set()  # torch when it is needed
    assert set(own_modules(path)) <= pure | lazily


def test_no_modules_import_one_another():
    assert house.import_cycles(ROOT) == []


def test_folders_import_one_way():
    assert house.mutual_folders(ROOT) == []


def test_import_stays_light():
    """Torch and transformers take seconds to load; naming an environment must not."""
    code = (
        "import sys, tokengym, tokengym.envs; "
        "print([name for name in ('torch', 'transformers', 'datasets', 'stable_baselines3') "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT.parent
    )
    assert done.stdout.strip() == "[]"


def test_every_name_of_the_face_is_where_type_checkers_find_it():
    """The lazy names are those imported for types, and nothing else is."""
    typed = next(n for n in ast.parse(FACE.read_text()).body if isinstance(n, ast.If))
    aliases = [alias for node in typed.body for alias in getattr(node, "names", ())]
    assert all(alias.asname == alias.name for alias in aliases)  # or it is not re-exported
    assert {"__version__", *(a.name for a in aliases)} == set(tokengym.__all__)
    for name in tokengym.__all__:
        assert getattr(tokengym, name)
    with pytest.raises(AttributeError, match="no attribute 'PP0'"):
        tokengym.PP0  # noqa: B018


@pytest.mark.parametrize("package", public_names.PUBLIC)
def test_a_public_package_shows_its_public_names_and_no_others(package: str):
    """Not what it imports itself; those that entry points add are public too."""
    module = importlib.import_module(package)
    prefix = f"{package}.".removeprefix("tokengym.")
    points = [point.name for point in plugins("names") if point.name.startswith(prefix)]
    added = {name.removeprefix(prefix) for name in points}
    shown = dir(module)
    assert shown == sorted({*module.__all__, *(name for name in added if "." not in name)})
    assert not {"TYPE_CHECKING", "lazily", "sys", "os"} & {*shown}


def test_the_suite_imports_nothing_that_stays_out_of_its_wheel():
    """Neither the laboratory nor what only a checkout has; text counts."""
    files = house.module_files(ROOT)
    installed = set(house.installed_files(ROOT))
    names = {name for name, path in files.items() if path in installed}
    assert {"tokengym.scripts", "tokengym.scripts.cli", "tokengym.rewards.credits"} < names
    assert not {"tokengym.scripts.build_models", "tokengym.lab", "tokengym.lab.rules.scar"} & names
    for name, imported in house.import_graph(ROOT).items():
        if name in names:
            assert imported <= names, f"{name} imports {sorted(imported - names)}"


def test_only_the_face_of_the_agents_names_the_backend():
    behind = "tokengym.agents.fast"
    naming = {
        name
        for name, imported in house.import_graph(ROOT).items()
        if any(module.startswith(behind) for module in imported)
    }
    assert {name for name in naming if not name.startswith(behind)} == {"tokengym.agents"}


def packages_in(*folders: str) -> set[str]:
    found = set()
    for folder in folders:
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            found.add(".".join(parts if parts[0] == "tokengym" else ("tokengym", *parts)))
    return found


def test_every_package_is_declared_by_its_distribution():
    tomllib = pytest.importorskip("tomllib", reason="in the standard library from Python 3.11")

    def declared(file: Path) -> dict[str, Any]:
        settings: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        return settings["tool"]["setuptools"]

    suite, lab = declared(ROOT / "pyproject.toml"), declared(ROOT / "lab" / "pyproject.toml")
    floors = [folder for folder in MAY_IMPORT if folder != "lab"]
    # Of scripts, some modules are declared.
    assert {*suite["packages"]} == packages_in(*floors) - {"tokengym.scripts"}
    assert suite["package-dir"] == {
        "tokengym": "tokengym",
        **{f"tokengym.{floor}": floor for floor in floors if floor != "tokengym"},
    }
    assert {*lab["packages"]} == packages_in("lab")
    assert lab["package-dir"] == {"tokengym.lab": "."}


@pytest.mark.parametrize("folder", house.PACKAGES)
def test_a_package_lists_modules_that_it_has(folder: str):
    words = ast.get_docstring(house.parse(ROOT / folder / "__init__.py")) or ""
    for name in re.findall(r"^- `(\w+)`:", words, re.MULTILINE):
        assert {f"tokengym.{folder}.{name}", f"tokengym.{name}"} & MODULES, name


def test_types_are_checked_for_the_oldest_python_that_is_declared():
    """Nothing else in `make test` finds a name that only a newer Python has, as `typing.Self`."""
    tomllib = pytest.importorskip("tomllib", reason="in the standard library from Python 3.11")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    versions = [
        tuple(int(part) for part in words.rsplit(" ", 1)[1].split("."))
        for words in settings["project"]["classifiers"]
        if re.search(r":: 3\.\d+$", words)
    ]
    oldest = ".".join(map(str, min(versions)))
    assert settings["project"]["requires-python"] == f">={oldest}"
    assert settings["tool"]["mypy"]["python_version"] == oldest
    # Of Ruff the target is `requires-python`, where no other is named.
    assert "target-version" not in settings["tool"]["ruff"]


def test_the_ids_kept_for_the_laboratory_are_those_of_its_tasks():
    tomllib = pytest.importorskip("tomllib", reason="in the standard library from Python 3.11")
    project = tomllib.loads((ROOT / "lab" / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    assert sorted(LABORATORY) == sorted(project["entry-points"]["tokengym.tasks"])


def modules() -> list[str]:
    names = []
    for folder in ["tokengym", *(f"tokengym.{floor}" for floor in FLOORS)]:
        package = importlib.import_module(folder)
        names += [folder]
        names += [info.name for info in pkgutil.walk_packages(package.__path__, folder + ".")]
    return sorted({*names})


@pytest.mark.parametrize("name", modules())
def test_doctests(name: str):
    if name.startswith("tokengym.agents.fast.kernels."):
        pytest.importorskip("triton", reason="Triton is not installed; it comes with CUDA")
    if name == "tokengym.bridges.verl_loop":
        pytest.importorskip("verl", reason="verl is not installed; tests/support plays its classes")
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_tests_share_through_support():
    """A module of tests takes nothing of another but whole tests, to hold them to its own names."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        modules: set[str] = set()
        for node in house.nodes(path):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("tests."):
                continue
            for alias in node.names:
                if is_module_of_tests(f"{node.module}.{alias.name}"):
                    modules.add(alias.asname or alias.name)
                elif is_module_of_tests(str(node.module)):
                    assert alias.name.startswith("test_"), f"{path}: move {alias.name} to support/"
        for node in house.nodes(path):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in modules:
                assert node.attr.startswith("test_"), f"{path}: move {node.attr} to support/"


def is_module_of_tests(address: str) -> bool:
    """Whether an address is that of a file whose tests pytest collects, or of their set-up."""
    name = address.rpartition(".")[2]
    is_file = (ROOT / f"{address.replace('.', '/')}.py").is_file()
    return is_file and (name.startswith("test_") or name == "conftest")
