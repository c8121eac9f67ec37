"""The floors: base, envs, rewards, agents, evaluation, scripts; `tokengym` composes three.

The laboratory, a distribution of its own, stands on all of them.
"""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tokengym
from tests.checkout import house

ROOT = Path(__file__).parents[2]
MODULES = {*house.module_files(ROOT)}
FLOORS = ["base", "envs", "rewards", "agents", "evaluation", "scripts", "lab"]
MAY_IMPORT = {floor: set(FLOORS[: index + 1]) for index, floor in enumerate(FLOORS)}
MAY_IMPORT["tokengym"] = {"base", "envs", "rewards"}
FACE = ROOT / "tokengym" / "__init__.py"  # names what users import, for types, and loads it lazily
COMMAND_LINE = FACE.with_name("__main__.py")
"""Stands on the floor of the commands, as the script ``tokengym`` does."""
UPKEEP = {ROOT / "scripts" / "build_models.py"}
"""Script of a checkout, which is not installed and uses the laboratory."""
MAY_IMPORT["bridges"] = {"bridges", "base", "envs", "rewards", "agents", "credit"}
MATHEMATICS = [
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
MAX_FILES = 15
"""Python files that a folder of the product may have."""
BY_NAME = ("envs/tasks", "rewards/credits", "rewards/scorers")
"""Folders with one file for each name that users type, as many as there are."""


LABORATORY = {f"tokengym.lab.makers.{name}" for name in ("bundles", "corpora")}
"""Packages that stay in the repository: none of them is installed."""


def mathematics() -> list[Path]:
    found = []
    for name in MATHEMATICS:
        place = ROOT / name
        found += sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return found


def python_files() -> list[Path]:
    return [path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))]


def own_modules(path: Path) -> Iterator[str]:
    """Yield the name under `tokengym` of every module of ours that a file imports or names."""
    tree = house.parse(path)
    for address in house.addresses(tree, MODULES):
        yield address.removeprefix("tokengym.")
    for node in ast.walk(tree):
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


def own_imports(path: Path) -> Iterator[str]:
    """Yield the first name under `tokengym` of everything of ours that a file imports."""
    for module in own_modules(path):
        yield module.split(".")[0]


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path):
    floor = path.relative_to(ROOT).parts[0]
    if path == COMMAND_LINE:
        floor = "scripts"
    if path in UPKEEP:
        floor = "lab"
    if path == FACE:
        pytest.skip("see test_every_name_of_the_face_is_where_type_checkers_find_it")
    upwards = {
        name for name in own_imports(path) if name in FLOORS and name not in MAY_IMPORT[floor]
    }
    assert not upwards, f"{floor} may not import {sorted(upwards)}"


@pytest.mark.parametrize("path", mathematics(), ids=lambda path: str(path.relative_to(ROOT)))
def test_mathematics_imports_nothing_of_ours_but_mathematics(path: Path):
    names = {file.relative_to(ROOT).with_suffix("").as_posix() for file in mathematics()}
    pure = {name.replace("/", ".").removesuffix(".__init__") for name in names}
    assert set(own_modules(path)) <= pure


def test_no_modules_import_one_another():
    assert house.import_cycles(ROOT) == []


def test_folders_import_one_way():
    assert house.mutual_folders(ROOT) == []


def test_cycles_are_found(tmp_path: Path):
    folder = tmp_path / "envs"
    folder.mkdir()
    (folder / "first.py").write_text("from tokengym.envs import second\n")
    (folder / "second.py").write_text("from tokengym.envs.first import name\n")
    assert house.import_cycles(tmp_path) == [["tokengym.envs.first", "tokengym.envs.second"]]
    assert house.mutual_folders(tmp_path) == []
    inside = "def use():\n    from tokengym.envs.first import name\n"
    typed = "if TYPE_CHECKING:\n    from tokengym.envs.first import name\n"
    named = 'ADDRESS = "tokengym.envs.first:name"\n'
    for text in (inside, typed, named):
        (folder / "second.py").write_text(text)
        assert house.import_cycles(tmp_path) != []
    (folder / "second.py").write_text("name = 1\n")
    assert house.import_cycles(tmp_path) == []
    for other, path in (("envs", "agents/third.py"), ("agents", "envs/fourth.py")):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(f"from tokengym.{other} import something\n")
        (tmp_path / path).with_name("__init__.py").touch()
    assert house.mutual_folders(tmp_path) == [("agents", "envs")]


def test_functions_run_are_found_without_those_of_imports(tmp_path: Path):
    (tmp_path / "house_called.py").write_text("import house_imported\n\n\ndef call():\n    pass\n")
    (tmp_path / "house_imported.py").write_text("def note():\n    pass\n\n\nnote()\n")
    sys.path.insert(0, str(tmp_path))
    try:
        run = house.functions_run(tmp_path, lambda: importlib.import_module("house_called").call())
    finally:
        sys.path.remove(str(tmp_path))
    assert run == {tmp_path / "house_called.py": 2}


@pytest.mark.parametrize("folder", sorted({*house.files_per_folder(ROOT)} - {*BY_NAME}))
def test_folders_can_be_taken_in(folder: str):
    assert house.files_per_folder(ROOT)[folder] <= MAX_FILES


@pytest.mark.parametrize(
    "path", house.product_files(ROOT), ids=lambda path: str(path.relative_to(ROOT))
)
def test_functions_fit_on_a_page(path: Path):
    assert house.long_functions(path) == {}


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
    """The lazy names are those imported for types, from the same modules, and nothing else is."""
    typed = next(n for n in ast.parse(FACE.read_text()).body if isinstance(n, ast.If))
    found: dict[str, str] = {}
    for node in typed.body:
        assert isinstance(node, ast.ImportFrom)
        assert node.module is not None
        assert all(alias.asname == alias.name for alias in node.names)  # or it is not re-exported
        found |= {alias.name: node.module for alias in node.names}
    assert {"__version__", *found} == set(tokengym.__all__) <= set(dir(tokengym))
    for name, module in found.items():
        assert getattr(tokengym, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match="no attribute 'PP0'"):
        tokengym.PP0  # noqa: B018


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


def test_the_core_reaches_doors_by_name():
    """Nothing of the core imports what is behind a door, in functions and for types included."""
    files = house.module_files(ROOT)
    core = {name for name, path in files.items() if house.is_core(path, ROOT)}
    assert {"tokengym.agents.ppo.ppo", "tokengym.rewards.registry"} < core
    assert not {"tokengym.agents.fast.captured", "tokengym.agents.fast.kernels.check"} & core
    product = set(house.product_files(ROOT))
    faces = {
        "tokengym",
        "tokengym.agents",
        "tokengym.rewards",
    }  # they name what a user may import, for types
    for name in sorted(core - faces):
        imported = house.module_imports(house.parse(files[name]), set(files)) - core
        if files[name] in product and not name.startswith("tokengym.scripts"):
            assert not imported, f"{name} imports {sorted(imported)}"


def test_only_the_face_of_the_agents_names_what_is_behind_their_door():
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
    assert {*lab["packages"]} == packages_in("lab") - LABORATORY
    assert lab["package-dir"] == {"tokengym.lab": "."}


def modules() -> list[str]:
    names = []
    for folder in ["tokengym", *(f"tokengym.{floor}" for floor in FLOORS)]:
        package = importlib.import_module(folder)
        names += [folder]
        names += [info.name for info in pkgutil.walk_packages(package.__path__, folder + ".")]
    return sorted({*names, house.__name__})


@pytest.mark.parametrize("name", modules())
def test_doctests(name: str):
    if name.startswith("tokengym.agents.fast.kernels."):
        pytest.importorskip("triton", reason="Triton is not installed; it comes with CUDA")
    if name == "tokengym.bridges.verl_loop":
        pytest.importorskip("verl", reason="verl is not installed; tests/support plays its classes")
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
