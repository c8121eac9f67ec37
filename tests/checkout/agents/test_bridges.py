"""The page on other trainers: its code trains, shows credit and reports."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
from tokengym.scripts.cli import main


def test_the_page_trains_shows_credit_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[3] / "docs" / "agents" / "bridges.md"
    found: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        code = code.replace("save_strategy=", "logging_steps=1, disable_tqdm=True, save_strategy=")
        exec(compile(code, "bridges.md", "exec"), found)
    assert "\x1b[48;2;" in capsys.readouterr().out
    state = tmp_path / "runs" / "trl" / "trainer_state.json"
    other = tmp_path / "runs" / "stock" / "trainer_state.json"
    other.parent.mkdir()
    shutil.copy(state, other)
    line, _ = re.findall(r"^tokengym (report .*)$", page.read_text(), re.M)  # and SkyRL's
    assert main(line.split()) == 0
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert list(summary["groups"][0]["rewards"]) == ["stock", "trl"]
