"""SECURITY.md: no file makes a command write outside the folders that it was given.

A folder from somebody else may hold links, which a clone keeps. Each file that a command writes is
replaced by a link to a file of the user's, and the command is given again.
"""

import shutil
from pathlib import Path

import pytest

from tokengym.scripts.cli import main

pytestmark = pytest.mark.skipif(not hasattr(Path, "symlink_to"), reason="no links")
TINY = (
    "--updates 1 --batch-size 4 --eval-episodes 4 --reference-samples 0 --max-new-tokens 6 "
    "--device cpu"
).split()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what each command that makes a folder of results wrote."""
    top = tmp_path_factory.mktemp("made")
    assert (
        main(["compare", "--rewards", "sparse", "--seeds", "2", *TINY, "--out", f"{top}/all"]) == 0
    )
    assert main(["train", *TINY, "--out", f"{top}/one"]) == 0
    return top


@pytest.fixture
def theirs(made: Path, tmp_path: Path) -> Path:
    """Return a copy of these, beside a file and a folder of the user's."""
    (tmp_path / "yours").mkdir()
    (tmp_path / "yours" / "file").write_text("precious")
    (tmp_path / "yours" / "folder").mkdir()
    return Path(shutil.copytree(made, tmp_path / "theirs"))


def unharmed(theirs: Path) -> bool:
    """Return whether the user's file and folder are as they were."""
    yours = theirs.parent / "yours"
    left = sorted(path.name for path in yours.rglob("*"))
    return left == ["file", "folder"] and (yours / "file").read_text() == "precious"


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_report_replaces_the_links_of_its_folder(theirs: Path) -> None:
    folder = theirs / "all"
    written = [path for path in files_of(folder) if path.parent == folder]
    assert {"report.html", "summary.json", "curves.csv"} <= {path.name for path in written}
    for path in written:
        path.unlink()
        path.symlink_to("../../yours/file")
    assert main(["report", str(folder)]) == 0
    assert unharmed(theirs)
    assert not [path.name for path in written if path.is_symlink() and path.name != ".lock"]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("all", ["compare", "--rewards", "sparse", "--seeds", "3", *TINY, "--out"]),
        ("one", ["train", *TINY, "--out"]),
    ],
)
def test_a_folder_that_is_written_holds_no_link(
    theirs: Path, name: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = theirs / name
    inner = sorted({path.parent for path in files_of(folder)} - {folder}, reverse=True)
    for path in [*files_of(folder), folder / ".lock", *inner]:
        aside = theirs.parent / "aside"
        if path.exists():
            path.rename(aside)
        is_folder = path in inner
        path.symlink_to(theirs.parent / "yours" / ("folder" if is_folder else "file"))
        assert main([*command, str(folder)]) != 0, path
        said = capsys.readouterr().err
        assert said.startswith(f"error: {folder}"), path
        assert said.count("\n") == 1, said
        assert unharmed(theirs), path
        path.unlink()
        if aside.exists():
            aside.rename(path)


def test_a_folder_that_is_named_may_be_a_link(theirs: Path) -> None:
    (theirs / "link").symlink_to(theirs / "all")
    again = ["compare", "--rewards", "sparse", "--seeds", "2", *TINY, "--out"]
    assert main([*again, str(theirs / "link")]) == 0
    assert main(["report", str(theirs / "link")]) == 0
    assert (theirs / "link").is_symlink()
