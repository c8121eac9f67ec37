"""The page on stored rollouts: its files are written, its commands print what it shows."""

import csv
import re
from pathlib import Path

import pytest

from tests.checkout.pages import DOCS, blocks, run
from tests.support.checkout.documents import commands_of
from tokengym.scripts.cli import main

PAGE = DOCS / "guide" / "rescoring.md"


def test_the_commands_print_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    make, verifier = blocks("guide/rescoring.md")
    run(make)
    Path("verifier.py").write_text(verifier, encoding="utf-8")
    again, credit = commands_of(PAGE)
    assert main(again) == 0
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert " ".join(shown.split()) in " ".join(capsys.readouterr().out.split())
    with Path("runs/again/scores.csv").open(newline="") as file:
        scores = {row["response"]: row for row in csv.DictReader(file)}
    assert (scores["420"]["contains"], scores["420"]["last_number"]) == ("1", "0")
    assert scores["it is 56, not 54"]["last_number"] == "0"
    assert main(credit) == 0
    assert " contains 0.778 +0.444" in " ".join(capsys.readouterr().out.split())
