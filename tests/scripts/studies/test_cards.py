"""The table of docs/results/cards.md, from the published cards and with a row added."""

import json
import shutil
from pathlib import Path

from tokengym.scripts.studies import cards

ROOT = Path(__file__).parents[3]


def published(folder: Path) -> Path:
    shutil.copytree(ROOT / cards.DOCS / "cards", folder / "cards")
    shutil.copy(ROOT / cards.DOCS / "cards.md", folder / "cards.md")
    return folder


def test_the_page_is_current(tmp_path: Path):
    cards.main(docs=published(tmp_path))
    assert (tmp_path / "cards.md").read_bytes() == (ROOT / cards.DOCS / "cards.md").read_bytes()


def test_a_card_adds_a_row_under_the_name_in_its_file(tmp_path: Path):
    docs = published(tmp_path / "docs")
    card = json.loads((docs / "cards" / "uniform" / "card.json").read_text())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "card.json").write_text(
        json.dumps({**card, "subject": "/home/me/rules.py:Mine"})
    )
    cards.main(add=(tmp_path / "mine",), docs=docs)
    (row,) = [
        line
        for line in (docs / "cards.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `rules.py:Mine` |")
    ]
    assert "0.964" in row  # uniform's cosine
    assert "/home/me" not in (docs / "cards" / "rules.py_Mine" / "card.json").read_text()
