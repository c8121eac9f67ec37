"""Files of the user's own, and the files beside them that they import."""

import os
import pickle
import py_compile
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from tokengym.base.errors import SettingsError
from tokengym.base.objects import place_of
from tokengym.base.own_code import code_hash, load_from_file, name_of_own, neighbours
from tokengym.base.saved_code import check_code, keep_code, running_copies


@pytest.fixture
def rule(tmp_path: Path) -> Path:
    """A file that imports a module and a package beside it, of which the latter imports another."""
    (tmp_path / "beside_weights.py").write_text("W = 2.0\n")
    (tmp_path / "beside_parts").mkdir()
    (tmp_path / "beside_parts" / "__init__.py").write_text("from beside_weights import W\n")
    (tmp_path / "beside_parts" / "deep.py").write_text("V = 3.0\n")
    (tmp_path / "numpy.py").write_text("raise SystemExit\n")  # what is installed goes first
    (tmp_path / "idea.py").write_text(
        "import numpy\nfrom beside_parts import W\nfrom beside_parts.deep import V\nA = W + V\n"
    )
    return tmp_path / "idea.py"


def test_a_file_imports_what_lies_beside_it(rule: Path):
    before = sys.path[:]
    assert load_from_file(rule, "A") == 5.0
    names = [path.relative_to(rule.parent).as_posix() for path in neighbours(rule)]
    assert names == ["beside_parts/__init__.py", "beside_parts/deep.py", "beside_weights.py"]
    assert sys.path == before
    assert not any(name.startswith("beside_") for name in sys.modules)


def test_files_of_two_folders_have_neighbours_of_their_own(rule: Path, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "beside_weights.py").write_text("W = 40.0\n")
    (other / "idea.py").write_text("from beside_weights import W\n")
    assert load_from_file(rule, "A") == 5.0
    assert load_from_file(other / "idea.py", "W") == 40.0


@pytest.mark.parametrize("has_init", [True, False])
@pytest.mark.parametrize(
    "statement", ["from .core import weight", "from . import core\nweight = core.weight"]
)
def test_packages_that_import_relatively_are_of_their_own_folder(
    tmp_path: Path, statement: str, has_init: bool
):
    """The package, the module that it imports, and what a module below that imports from above."""
    parts = ["beside_pkg/core.py", "beside_pkg/low/__init__.py", "beside_pkg/low/deep.py"]
    for folder, weight in ((tmp_path / "a", 1), (tmp_path / "b", -100)):
        (folder / "beside_pkg" / "low").mkdir(parents=True)
        (folder / "rules.py").write_text("from beside_pkg.start import weight\n")
        (folder / "beside_pkg" / "start.py").write_text(statement)
        if has_init:
            (folder / "beside_pkg" / "__init__.py").write_text("")
        for name, text in zip(
            parts,
            ("from .low import weight", "from .deep import weight", "from .. import top"),
            strict=True,
        ):
            (folder / name).write_text(text)
        with (folder / parts[-1]).open("a") as deep:
            deep.write("\nweight = top.W\n")
        (folder / "beside_pkg" / "top.py").write_text(f"W = {weight}\n")
    assert load_from_file(tmp_path / "a" / "rules.py", "weight") == 1
    assert load_from_file(tmp_path / "b" / "rules.py", "weight") == -100
    assert not any(name.startswith("beside_") for name in sys.modules)
    found = {
        path.relative_to(tmp_path / "a").as_posix() for path in neighbours(tmp_path / "a/rules.py")
    }
    init = {"beside_pkg/__init__.py"} if has_init else set()
    assert found == {*parts, *init, "beside_pkg/start.py", "beside_pkg/top.py"}


def test_a_change_of_what_a_package_imports_relatively_is_a_change_of_the_file(tmp_path: Path):
    (tmp_path / "beside_pkg").mkdir()
    (tmp_path / "beside_pkg" / "__init__.py").write_text("from .core import weight\n")
    (tmp_path / "beside_pkg" / "core.py").write_text("weight = 1\n")
    (tmp_path / "rules.py").write_text("from beside_pkg import weight\n")
    stored = {str(tmp_path / "rules.py"): code_hash(tmp_path / "rules.py")}
    keep_code(stored, tmp_path / "code")
    assert "weight = 1\n" in {path.read_text() for path in (tmp_path / "code").iterdir()}
    (tmp_path / "beside_pkg" / "core.py").write_text("weight = -100\n")
    with pytest.raises(SettingsError, match=r"rules\.py has changed"):
        check_code(stored, {})


@pytest.mark.parametrize("is_there", [True, False])
def test_a_copy_is_run_in_place_of_a_file_that_changed_or_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside_pkg").mkdir()
    files = {"beside_pkg/core.py": "W = 1\n", "rules.py": "from beside_pkg.core import W\n"}
    for name, text in files.items():
        Path(name).write_text(text)
    code = {"rules.py": code_hash(Path("rules.py"))}
    keep_code(code, tmp_path / "code")
    for name in files:
        Path(name).write_text("W = -100\n") if is_there else Path(name).unlink()
    with running_copies(code, tmp_path / "code"):
        assert load_from_file(Path("rules.py"), "W") == 1
        check_code(code, {})
    with pytest.raises(SettingsError, match=r"rules\.py"):
        check_code(code, {})


@pytest.mark.parametrize("name", ["rules.py", "beside_pkg_core.py", "unseen.py"])
def test_no_copy_is_run_that_is_not_the_file_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """Somebody else's folder has a copy of what the user named, with other contents."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside_pkg").mkdir()
    Path("beside_pkg/core.py").write_text("W = 1\n")
    lines = ["import importlib", "from beside_pkg.core import W", "try:"]
    lines += ["    importlib.import_module('unseen')", "except ImportError:", "    pass"]
    Path("rules.py").write_text("\n".join(lines))
    code = {"rules.py": code_hash(Path("rules.py"))}
    keep_code(code, tmp_path / "code")
    (tmp_path / "code" / name).write_text("W = 1\nraise RuntimeError('this was run')\n")
    with running_copies(code, tmp_path / "code"):
        assert load_from_file(Path("rules.py"), "W") == 1


def test_a_folder_on_the_path_changes_no_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "beside_pkg").mkdir()
    (tmp_path / "beside_pkg" / "core.py").write_text("weight = 1\n")
    (tmp_path / "rules.py").write_text("from beside_pkg.core import weight\n")
    apart = code_hash(tmp_path / "rules.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert code_hash(tmp_path / "rules.py") == apart


@pytest.mark.parametrize("name", ["beside_weights.py", "beside_parts/deep.py"])
def test_a_change_of_a_neighbour_is_a_change_of_the_file(rule: Path, name: str):
    assert load_from_file(rule, "A") == 5.0
    stored = {str(rule): code_hash(rule)}
    check_code(stored, {})
    keep_code(stored, rule.parent / "code")
    kept = {path.read_text() for path in (rule.parent / "code").iterdir()}
    assert (rule.parent / name).read_text() in kept
    (rule.parent / name).write_text("W = 20.0\nV = 20.0\n")
    with pytest.raises(SettingsError, match=r"idea\.py has changed"):
        check_code(stored, {})
    assert load_from_file(rule, "A") > 20.0


@pytest.mark.parametrize("compiled", ["rule.py", "neighbour.py", "parts/__init__.py"])
def test_what_somebody_else_compiled_is_not_run(tmp_path: Path, compiled: str):
    """A folder may bring a compiled file, which Python takes unread for the one that is shown."""
    (tmp_path / "parts").mkdir()
    for name in ("neighbour.py", "parts/__init__.py"):
        (tmp_path / name).write_text("VALUE = 1\n")
    rule = "import neighbour, parts\nVALUE = 1\nfound = VALUE, neighbour.VALUE, parts.VALUE\n"
    (tmp_path / "rule.py").write_text(rule)
    file, shown = tmp_path / compiled, (tmp_path / compiled).read_text()
    file.write_text(shown.replace("VALUE = 1", "VALUE = 9"))
    how = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(file), invalidation_mode=how)
    file.write_text(shown)
    assert load_from_file(tmp_path / "rule.py", "found") == (1, 1, 1)


@pytest.mark.parametrize("edited", ["rule.py", "neighbour.py"])
def test_what_was_compiled_of_another_text_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edited: str
):
    """Python takes a compiled file for that of a text of the same size and second."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (tmp_path / "neighbour.py").write_text("VALUE = 1\n")
    (tmp_path / "rule.py").write_text(
        "import neighbour\nOWN = 1\ndef value(): return OWN, neighbour.VALUE\n"
    )
    values = []
    for text in ("= 1", "= 2"):
        file = tmp_path / edited
        file.write_text(file.read_text().replace("= 1", text))
        os.utime(file, (1e9, 1e9))
        values.append(sum(load_from_file(tmp_path / "rule.py", "value")()))
    assert values == [2, 3]
    assert not (tmp_path / "__pycache__").exists()


KEEPING = """
class Big:
    pass
BIG = Big()
class Rule:
    text = {number}
    def number(self) -> int:
        return {number}
def rule() -> Big:
    return BIG
"""


def test_what_is_in_use_of_an_earlier_text_is_found_as_before(tmp_path: Path):
    file = tmp_path / "rule.py"
    file.write_text(KEEPING.format(number=1))
    first, rule, big = (load_from_file(file, name) for name in ("Rule", "rule", "BIG"))
    file.write_text(KEEPING.format(number=2))
    second = load_from_file(file, "Rule")
    assert (first().number(), second().number()) == (1, 2)
    assert rule() is big
    for kind in (first, second):
        assert pickle.loads(pickle.dumps(kind)) is kind
        assert type(pickle.loads(pickle.dumps(kind()))) is kind
    assert name_of_own(rule) == "rule"
    assert place_of(first, None) == place_of(second, None)
    assert get_type_hints(first.number) == {"return": int}
    file.write_text(KEEPING.format(number=1))  # as it was: what is in use of it is taken again
    assert load_from_file(file, "Rule") is first
    assert load_from_file(file, "rule") is rule
    assert pickle.loads(pickle.dumps(second)) is second


def test_a_name_that_a_file_lacks_is_told_with_those_that_it_defines(tmp_path: Path):
    file = tmp_path / "rules.py"
    file.write_text("import os\nfrom math import inf\nHALF = 0.5\ndef late(): return inf\n")
    with pytest.raises(ValueError, match=r"no 'lat'; did you mean 'late'\? it defines HALF, late$"):
        load_from_file(file, "lat")


def test_a_file_without_neighbours_has_the_hash_of_its_bytes(rule: Path):
    from hashlib import sha256

    alone = rule.parent / "beside_weights.py"
    assert code_hash(alone) == sha256(alone.read_bytes()).hexdigest()
