"""The recipes of CONTRIBUTING.md, run as they are printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECTIONS = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## ")[1:]
RECIPES = {
    section.splitlines()[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for section in SECTIONS
    if "```python" in section
}
RUNNER = """
import importlib, importlib.util, sys, types
from pathlib import Path
folder = Path(sys.argv[1])
sys.argv = sys.argv[:1]
for name in (folder / "modules").read_text().split():  # as if the files were in the package
    module = "tokengym." + name.removesuffix(".py").replace("/", ".")
    parent = module.rpartition(".")[0]
    try:
        importlib.import_module(parent)
    except ModuleNotFoundError:
        sys.modules[parent] = types.ModuleType(parent)
    spec = importlib.util.spec_from_file_location(module, folder / name)
    sys.modules[module] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[module])
exec(compile((folder / "use").read_text(), "use", "exec"), {"__name__": "__main__"})
"""


def test_each_kind_of_thing_has_a_recipe():
    assert list(RECIPES) == [
        "A credit rule",
        "A scorer",
        "A task",
        "An advantage estimator",
        "A preference loss",
        "A learner",
        "A metric",
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_runs(name: str, tmp_path: Path):
    """In a process of its own, since what a recipe registers stays registered."""
    *files, use = RECIPES[name]
    paths = [re.match(r"# (\S+\.py)\n", block) for block in files]
    assert files
    for path, block in zip(paths, files, strict=True):
        assert path is not None
        file = tmp_path / path[1]
        assert not (ROOT / path[1]).exists()
        assert (ROOT / path[1]).parent.is_dir() or "settings.py" in "".join(files)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block, encoding="utf-8")
    (tmp_path / "modules").write_text("\n".join(path[1] for path in paths if path))
    (tmp_path / "use").write_text(use, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_page_counts_the_recipes():
    """docs/extending.md names the files of each recipe and their lines."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found: dict[str, list[tuple[str, int]]] = {}
    title = ""
    for match in re.finditer(r"^## ([^\n]+)|^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if match[1]:
            title = match[1].lower()
        elif named := re.match(r"# (\S+\.py)\n", match[2]):
            lines = [line for line in match[2].splitlines()[1:] if line.strip()]
            found.setdefault(title, []).append((named[1], len(lines)))
    assert len(found) == len(RECIPES)
    for title, files in found.items():
        names = ", ".join(f"`{name}`" for name, _ in files)
        assert f"| {title} | {names} | {sum(count for _, count in files)} |" in page
