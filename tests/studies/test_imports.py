"""Studies stand outside: nothing imports them, they register nothing, and they use public names."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = (
    "base",
    "envs",
    "rewards",
    "agents",
    "evaluation",
    "lab",
    "bridges",
    "scripts",
    "tokengym",
)
STUDIES = sorted((ROOT / "studies").glob("*.py"))
FACES = ("agents", "agents.losses", "credit", "envs", "evaluation.statistics", "rewards")
PUBLIC = {"tokengym", *(f"tokengym.{name}" for name in (*FACES, "rewards.credits"))}
"""Packages of the suite with reference pages."""
MOST_INNER_NAMES = 70
"""Names of the suite that studies take from other modules."""


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of what a file imports by ``from``, and the modules of the others."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def test_nothing_of_the_package_imports_a_study_or_a_benchmark() -> None:
    for folder in PACKAGE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            roots = {module.partition(".")[0] for module, _ in imported(path)}
            assert not {"studies", "benchmarks"} & roots, path


def test_importing_the_studies_registers_nothing() -> None:
    names = ", ".join(f"studies.{path.stem}" for path in STUDIES)
    code = (
        "from tokengym.rewards import registered_rewards as known; before = [*known()]; "
        f"import {names}; print([*known()] == before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.strip() == "True"


def test_studies_use_mostly_public_names_of_the_suite() -> None:
    names = {found for path in STUDIES for found in imported(path)}
    suite = {
        (module, name)
        for module, name in names
        if module.partition(".")[0] == "tokengym" and not module.startswith("tokengym.lab")
    }
    inner = {(module, name) for module, name in suite if module not in PUBLIC}
    assert len(inner) <= MOST_INNER_NAMES, sorted(inner)
