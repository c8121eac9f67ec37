"""The audit's file by itself: what it imports, and as a plug-in of pytest where it is copied."""

import ast
import runpy
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
    audit = tokengym_audit.check_estimator(getattr(my, name))
    assert audit.holds, str(audit)
"""


KINDS = """
from __future__ import annotations
import sys
from dataclasses import dataclass
import neighbour
MODULE = sys.modules[__name__]

@dataclass
class Config:
    gamma: float = 1.0

def right(token_rewards, response_mask):
    return (token_rewards * response_mask).flip(1).cumsum(1).flip(1)

def skips(token_rewards):
    import pytest
    pytest.skip("nothing to see")

def leaves(token_rewards):
    import pytest
    pytest.exit("at once", 0)

def exits(token_rewards):
    sys.exit(0)
"""
IMPORTS = {
    "raises": "raise ValueError('at import')",
    "exits": "import sys; sys.exit(0)",
    "skips": "import pytest; pytest.skip('no', allow_module_level=True)",
    "syntax": "def (",
    "missing": "import a_module_that_is_not_there",
}


def test_it_imports_torch_alone_where_it_is_imported() -> None:
    tree = ast.parse(FILE.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names}  # fmt: skip
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    others = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert others == {"numpy", "torch", "pytest"}
    at_once = [each for each in tree.body if isinstance(each, ast.Import | ast.ImportFrom)]
    assert {ast.unparse(each).split()[1].partition(".")[0] for each in at_once} - (
        sys.stdlib_module_names
    ) == {"torch"}  # NumPy for verl's names of prompts, pytest inside of the plug-in


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
    assert (status, "1 passed" in said) == (0, True), said
    status, said = run(copied, *plug, "my.py::wrong", "-rf")
    assert status == 1
    assert "FAILED my.py::wrong" in said
    assert "my.py::wrong: reversed: at the first token, a (chance" in said
    status, said = run(copied, *plug, "my.py:rigth")
    assert (status, "did you mean 'right'" in said) == (4, True), said


def test_five_lines_of_pytest_do_as_well(copied: Path) -> None:
    (copied / "test_mine.py").write_text(TEST)
    status, said = run(copied, "test_mine.py")
    assert (status, "1 failed, 1 passed" in said) == (1, True), said
    assert "reversed: at the first token" in said


def test_without_numpy_it_judges_as_well(copied: Path) -> None:
    code = (
        f"import os, sys; os.chdir({str(copied)!r}); sys.path.insert(0, ''); import torch\n"
        "for name in [name for name in sys.modules if name.partition('.')[0] == 'numpy']:\n"
        "    del sys.modules[name]\n"
        "sys.modules['numpy'] = None\n"
        "import my, tokengym_audit as audit\n"
        "verdicts = [audit.check_estimator(f).holds for f in (my.right, my.wrong)]\n"
        "backwards = lambda rewards: [each[::-1] for each in rewards]\n"
        "lists = audit.check_estimator(backwards, adapter='steps')\n"
        "print(verdicts, lists.holds)\n"
    )
    process = Forked(execute, code)
    try:
        status, said = process.end(), process.printed
    finally:
        process.kill()
    assert (status, "[True, False] False" in said) == (0, True), said


@pytest.fixture
def kinds(copied: Path) -> Path:
    (copied / "kinds.py").write_text(KINDS)
    (copied / "neighbour.py").write_text("")
    for name, text in IMPORTS.items():
        (copied / f"import_{name}.py").write_text(text)
    return copied


def test_a_file_is_entered_as_a_module(kinds: Path) -> None:
    plug = ("-p", "tokengym_audit", "--audit")
    status, said = run(kinds, *plug, "kinds.py:right")
    assert (status, "1 passed" in said) == (0, True), said


@pytest.mark.parametrize("name", ["skips", "leaves", "exits"])
def test_what_ends_a_call_fails_its_test(kinds: Path, name: str) -> None:
    status, said = run(kinds, "-p", "tokengym_audit", "--audit", f"kinds.py:{name}")
    assert (status, "1 failed" in said) == (1, True), said
    assert "INTERNALERROR" not in said


def test_what_ends_an_import_fails_one_test_of_each(kinds: Path) -> None:
    files = [word for name in IMPORTS for word in ("--audit", f"import_{name}.py:f")]
    status, said = run(kinds, "-p", "tokengym_audit", *files, "--audit", "my.py:right")
    assert (status, "5 failed, 1 passed" in said) == (1, True), said
    assert "INTERNALERROR" not in said
    for name in IMPORTS:
        assert f"import_{name}.py cannot be imported" in said
    status, said = run(kinds, "-p", "tokengym_audit", "--audit", "nothing.py:f")
    assert (status, "there is no Python file" in said) == (4, True), said


def test_run_as_a_program_it_says_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    """It printed nothing and ended with 0, as an audit that holds would."""
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FILE), run_name="__main__")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--audit FILE.py:FUNCTION" in said
    assert said.count("\n") == 1
