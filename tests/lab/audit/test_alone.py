"""The audit's file by itself: what it imports, and as a plug-in of pytest where it is copied."""

import ast
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.forked import Forked, execute
from tokengym.lab.audit import tokengym_audit

FILE = Path(tokengym_audit.__file__)
MINE = """
def right(token_rewards, response_mask):
    return (token_rewards * response_mask).flip(1).cumsum(1).flip(1)

def wrong(token_rewards, response_mask):
    return token_rewards * response_mask
"""
TEST = """
import pytest, my, tokengym_audit

@pytest.mark.parametrize("name", ["right", "wrong"])
def test_estimator(name):
    audit = tokengym_audit.check_estimator(getattr(my, name), group_sizes=(2, 4))
    assert audit.holds, str(audit)
"""


def test_it_imports_torch_and_numpy_alone() -> None:
    tree = ast.parse(FILE.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names}  # fmt: skip
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    others = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert others == {"numpy", "torch", "pytest"}  # pytest inside of the plug-in's functions


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copy(FILE, tmp_path / "tokengym_audit.py")
    (tmp_path / "my.py").write_text(MINE)
    return tmp_path


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    command = ["-q", "-p", "no:cacheprovider", *arguments]
    code = "import os, sys; os.chdir({!r}); sys.path.insert(0, ''); import pytest\n"
    process = Forked(execute, f"{code.format(str(folder))}sys.exit(pytest.main({command}))")
    try:
        return process.end(), process.printed
    finally:
        process.kill()


def test_copied_it_is_a_plug_in(copied: Path) -> None:
    (copied / "test_other.py").write_text("def test_fails(): assert False")
    plug = ("-p", "tokengym_audit", "--audit")
    status, said = run(copied, *plug, "my.py:right")  # and nothing else is run
    assert (status, "5 passed, 3 skipped" in said) == (0, True), said
    status, said = run(copied, *plug, "my.py:wrong")
    assert status == 1
    assert "my.py:wrong[token rewards]: reversed" in said
    assert "no reward to go" in said
    status, said = run(copied, *plug, "my.py:rigth")
    assert (status, "did you mean 'right'" in said) == (4, True), said


def test_five_lines_of_pytest_do_as_well(copied: Path) -> None:
    (copied / "test_mine.py").write_text(TEST)
    status, said = run(copied, "test_mine.py")
    assert (status, "1 failed, 1 passed" in said) == (1, True), said
    assert "fails, no reward to go" in said
