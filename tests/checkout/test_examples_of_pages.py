"""The examples of pages run as they stand, only shorter."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.checkout.pages import DOCS, blocks, run, shorter

# What is made shorter, and what is printed.
PAGES: dict[str, tuple[dict[str, str], str]] = {
    "coming_from/cleanrl.md": (
        {"UPDATES = 5": "UPDATES = 1", "num_envs=32, max_new_tokens=24": "num_envs=8"},
        r"update +0 .*",
    ),
    "coming_from/rl4lms.md": (
        {"UPDATES, ROWS = 10, 64": "UPDATES, ROWS = 1, 4", "num_episodes=64": "num_episodes=4"},
        r"\{'score': .*, 'gold_score': .*, 'kl': .*\}",
    ),
    "coming_from/stable_baselines3.md": (
        {
            **{"UPDATES = 15": "UPDATES = 3", "num_envs=64": "num_envs=4", "24 * 5": "24 * 1"},
            **{"* 64 * 24": "* 4 * 24", "num_episodes=64": "num_episodes=4"},
        },
        r"-?\d.*",
    ),
    "coming_from/trl.md": (
        {"UPDATES, ROWS, TOKENS = 10, 64, 48": "UPDATES, ROWS, TOKENS = 1, 4, 8"},
        "",
    ),
    "coming_from/verifiers.md": ({"UPDATES, ROWS = 2, 16": "UPDATES, ROWS = 1, 8"}, ""),
    "guide/getting_started.md": (
        {"64, 32, 15": "4, 8, 1", "num_episodes=64": "num_episodes=4"},
        r"before .*'score'.*'gold_score'.*'kl': -?0.0}\nafter ",
    ),
    "guide/gpu.md": ({}, "True\n"),
    "agents/dpo.md": (
        {"HELD_OUT = 4096, 2, 128": "HELD_OUT = 512, 4, 32"},
        "gold_score.*\n.*gold_score",
    ),
}

# Folders that an example leaves, as shortened: pattern -> how many.
WRITTEN: dict[str, dict[str, int]] = {
    "coming_from/stable_baselines3.md": {"runs/sb3/rl_model_*_steps.zip": 3, "runs/sb3/last": 1},
}


def test_every_page_for_users_of_another_library_has_its_case():
    pages = [f"coming_from/{page.name}" for page in DOCS.glob("coming_from/*.md")]
    assert len(pages) > 3
    assert {page for page in pages if blocks(page)} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_the_example_runs(page: str, tmp_path: Path, monkeypatch: Any, capsys: Any):
    shortened, printed = PAGES[page]
    code = [block for block in blocks(page) if not re.match(r"# \w+\.py\n", block)]
    monkeypatch.chdir(tmp_path)
    run(shorter("".join(code), *shortened.items()))
    assert re.search(printed, capsys.readouterr().out)
    for folder in re.findall(r'"(runs/[^"]*)"', "".join(code)):
        assert any(path.is_file() for path in Path(folder).rglob("*")), folder
    for pattern, num_folders in WRITTEN.get(page, {}).items():
        assert len(list(Path().glob(pattern))) == num_folders
