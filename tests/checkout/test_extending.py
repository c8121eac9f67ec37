"""The recipes of docs/extending.md, run as they are printed."""

import importlib
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkout.house import PACKAGES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = PAGE.split("\n## ")[1:]
RECIPES: dict[str, list[tuple[str, str, str]]] = {
    section.splitlines()[0]: re.findall(
        r"```(python|diff)\n# (\S+\.py)\n(.*?)```", section, re.DOTALL
    )
    for section in SECTIONS
    if "```python" in section
}
USES = {
    section.splitlines()[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL)[-1]
    for section in SECTIONS
    if "```python" in section
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder with links to every file of this checkout, which a recipe may replace."""
    folder = tmp_path / "checkout"
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, copy_function=os.symlink)
    (folder / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
    return folder


def follow(kind: str, name: str, block: str, folder: Path) -> None:
    """Add a file, or change the one that is there."""
    file = folder / name
    assert file.exists() == (kind == "diff")
    if kind == "diff":
        lines = block.splitlines(keepends=True)
        old, new = (
            "".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +")
        )
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name} has {text.count(old)} places for {old}"
        file.unlink()
        block = text.replace(old, new)
    assert (
        file.parent.is_dir() or file.name == "settings.py" or (file.parent / "settings.py").exists()
    )
    file.parent.mkdir(exist_ok=True)
    file.write_text(block, encoding="utf-8")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"},
    )


def use(code: str, folder: Path, printed: Path) -> None:
    """Run code on a checkout, in a process that has imported nothing of the suite."""
    file = os.open(printed, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(file, stream)
    assert "tokengym" not in sys.modules
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    exec(code, {"__name__": "__main__"})
    import tokengym

    assert Path(tokengym.__file__).is_relative_to(folder)


def serve(asked: Any) -> None:
    """Answer each (code, folder, printed) with the exit status of a fork that `use`s it.

    The fork has what takes seconds to import, of other packages alone.
    """
    for name in ("gymnasium", "peft", "scipy.stats", "torch", "transformers"):
        importlib.import_module(name)
    while (task := asked.recv()) is not None:
        process = multiprocessing.get_context("fork").Process(target=use, args=task)
        process.start()
        process.join()
        asked.send(process.exitcode)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """Yield the end of a pipe to a process that `serve`s."""
    here, there = multiprocessing.Pipe()
    # Spawned: the server that the tests' processes are forked from has imported the suite.
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there,))
    process.start()
    there.close()
    yield here
    here.send(None)
    process.join()


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_runs(name: str, checkout: Path, tmp_path: Path, server: Any):
    """In a process of its own, since what a recipe registers stays registered."""
    for kind, file, block in RECIPES[name]:
        follow(kind, file, block, checkout)
    printed = tmp_path / "printed.txt"
    server.send((USES[name], checkout, printed))
    assert server.recv() == 0, printed.read_text()[-2000:]


def test_an_environment_option_fails_until_it_has_a_case(checkout: Path):
    *files, case = RECIPES["An environment option"]
    for change in files:
        follow(*change, checkout)
    arguments = (
        "-m",
        "pytest",
        "-q",
        "tests/suite/envs/test_sync_equality.py",
        "-k",
        "special_tokens",
    )
    done = run(checkout, *arguments)
    assert done.returncode == 1
    assert "SETTINGS has no case of special_tokens" in done.stdout
    follow(*case, checkout)
    done = run(checkout, *arguments)
    assert done.returncode == 0, done.stdout[-2000:]
