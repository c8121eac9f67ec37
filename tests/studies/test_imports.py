"""Studies stand outside: nothing imports them, they register nothing, and they use public names."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.makers.public_names import PUBLIC, homes_of
from tests.checkout.house import PACKAGES
from tests.support.forked import execute, forked

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "studies").glob("*.py"))
LABORATORY = sorted((ROOT / "lab").rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of what a file imports by ``from``, and the modules of the others."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def test_nothing_of_the_package_imports_what_only_a_checkout_has() -> None:
    for folder in PACKAGES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            roots = {module.partition(".")[0] for module, _ in imported(path)}
            assert not {"studies", "benchmarks", "docs", "tests"} & roots, path


def test_importing_the_studies_registers_nothing() -> None:
    names = ", ".join(f"studies.{path.stem}" for path in STUDIES)
    code = (
        "from tokengym.rewards import registered_rewards as known; before = [*known()]; "
        f"import {names}; print([*known()] == before)"
    )
    assert forked(execute, code).splitlines()[-1] == "True"


def used() -> set[tuple[str, str]]:
    """Return module and name of what the laboratory and the studies import of the suite."""
    found = {found for path in (*STUDIES, *LABORATORY) for found in imported(path)}
    return {
        (module, name)
        for module, name in found
        if module.partition(".")[0] == "tokengym"
        and not module.startswith("tokengym.lab")
        and (module, name) != ("tokengym", "lab")
    }


def test_the_laboratory_and_the_studies_use_public_names_of_the_suite_alone() -> None:
    assert {module for module, _ in used()} <= {*PUBLIC}
    for module, name in sorted(used()):
        package = importlib.import_module(module)
        exported = {*package.__all__, "__version__"}
        assert name in exported, f"{module} does not export {name}"
        assert hasattr(package, name), f"{module} has no {name}"


@pytest.mark.parametrize("package", PUBLIC)
def test_a_package_exports_what_it_shows_to_type_checkers(package: str) -> None:
    """Names are read from the imports for types, and each has a module."""
    module = importlib.import_module(package)
    homes = homes_of(package)
    assert {*module.__all__} - {"losses", "statistics"} <= {*homes}
    for name, home in homes.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
