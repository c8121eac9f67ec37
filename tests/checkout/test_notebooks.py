"""The notebooks of docs/ are stored with their outputs, and their code fits the package."""

import ast
import importlib
import json
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path: Path) -> list[dict[str, Any]]:
    """Return the code cells."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def source(path: Path) -> str:
    """Return the code, with nothing in place of the notebook's own commands."""
    text = "\n".join("".join(cell["source"]) for cell in cells(path))
    return re.sub(r"(?m)^( *)%pip .*$", r"\1pass", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_was_executed_without_an_error(path: Path):
    outputs = [output for cell in cells(path) for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert [output for output in outputs if "image/png" in output.get("data", {})]
    text = json.dumps(outputs)
    assert not [word for word in ("/work/", "/home/", "/tmp/", "Warning") if word in text]
    assert path.stat().st_size < 400_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_code_compiles_and_imports_what_there_is(path: Path):
    tree = ast.parse(source(path))
    names = [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert any(module and module.startswith("tokengym") for module, _ in names)
    for module, name in names:
        assert hasattr(importlib.import_module(module or ""), name), (module, name)


def of_the_laboratory(path: Path) -> set[str]:
    """Return what a notebook's code imports or names that tokengym-lab adds to the suite."""
    points = distribution("tokengym-lab").entry_points
    added = {f"tokengym.{point.name}" for point in points.select(group="tokengym.names")}
    added |= {f"tokengym/{point.name}-v0" for point in points.select(group="tokengym.tasks")}
    added |= {point.name for point in points.select(group="tokengym.rewards")}
    used: set[str] = set()
    for node in ast.walk(ast.parse(source(path))):
        if isinstance(node, ast.ImportFrom):
            used |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used.add(node.value.partition(":")[0])  # a rule's options follow
    return {name for name in used if name in added or name.startswith("tokengym.lab")}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_installs_what_it_needs(path: Path):
    text = "\n".join("".join(cell["source"]) for cell in cells(path))
    assert 'find_spec("tokengym") is None:\n    %pip install' in text
    (packages,) = re.findall(r'PACKAGE = "(.*)"', text)
    assert not of_the_laboratory(path) or "tokengym_lab-*.whl" in packages.split()


def test_the_first_one_opens_in_colab_with_a_gpu_and_installs_from_an_address():
    notebook = json.loads((FOLDER / "learning.ipynb").read_text())
    assert notebook["metadata"]["accelerator"] == "GPU"
    (install, *_) = cells(FOLDER / "learning.ipynb")
    (choose, _) = "".join(install["source"]).split("if importlib")
    address = "git+https://HOST/OWNER/tokengym"
    named: dict[str, Any] = {}
    exec(choose.replace('REPOSITORY = ""', f'REPOSITORY = "{address}"'), named)
    assert named["PACKAGE"].split() == [address, f"{address}#subdirectory=lab"]
    exec(choose, named)
    assert named["PACKAGE"].split() == ["tokengym-*.whl", "tokengym_lab-*.whl"]
