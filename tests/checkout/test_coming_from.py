"""The pages for users of other libraries: their examples run as they stand, only shorter."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.checkout.pages import DOCS, blocks, run, shorter

FOLDER = DOCS / "coming_from"
SHORTER = {
    "cleanrl": {"UPDATES = 5": "UPDATES = 1", "num_envs=32, max_new_tokens=24": "num_envs=8"},
    "rl4lms": {
        "UPDATES, ROWS = 10, 64": "UPDATES, ROWS = 1, 4",
        "num_episodes=64": "num_episodes=4",
    },
    "stable_baselines3": {
        "UPDATES = 15": "UPDATES = 1",
        "num_envs=64": "num_envs=4",
        "* 64 * 24": "* 4 * 24",
        "num_episodes=64": "num_episodes=4",
    },
    "trl": {"UPDATES, ROWS, TOKENS = 10, 64, 48": "UPDATES, ROWS, TOKENS = 1, 4, 8"},
    "verifiers": {"UPDATES, ROWS = 2, 16": "UPDATES, ROWS = 1, 8"},
}
PRINTED = {
    "cleanrl": r"update +0 .*",
    "rl4lms": r"\{'score': .*, 'gold_score': .*, 'kl': .*\}",
    "stable_baselines3": r"-?\d.*",
    "trl": "",
    "verifiers": "",
}


def test_every_page_has_its_case():
    assert {page.stem for page in FOLDER.glob("*.md")} == set(SHORTER) == set(PRINTED)


@pytest.mark.parametrize("name", SHORTER)
def test_the_example_runs(name: str, tmp_path: Path, monkeypatch: Any, capsys: Any):
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 65
    (code,) = blocks(f"coming_from/{name}.md")
    monkeypatch.chdir(tmp_path)
    run(shorter(code, *SHORTER[name].items()))
    assert re.search(PRINTED[name], capsys.readouterr().out)
