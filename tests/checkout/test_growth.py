"""The sizes that end the log of these tests are those of the files."""

import subprocess
from pathlib import Path

from tests.checkout.house import sizes


def test_lines_and_words_are_counted_by_folder(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name, text in {
        "a/b/c.py": "1\n2\n",
        "a/d.py": "3\n",
        "tests/lab/x/t.py": "4\n",
        "README.md": "two words",
        "docs/guide/x/p.md": "three more words",
        "a/data.csv": "1\n",
        "ignored/e.py": "5\n",
        ".gitignore": "ignored/\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert sizes(tmp_path) == {
        "Python": {"a": 3, "tests/lab": 1},
        "documents": {"docs/guide": 3, ".": 2},
    }


def test_without_git_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert sizes(tmp_path) == {"Python": {}, "documents": {}}
