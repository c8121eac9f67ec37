"""The table of docs/results/cards.md, from the published cards and with a row added."""

import json
import shutil
from pathlib import Path

import pytest

from tokengym.lab.cards.card import merged
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
        json.dumps({**card, "subject": "/home/me/rules.py:Mine", "made": {}})
    )
    cards.main(add=(tmp_path / "mine",), docs=docs)
    board, row = [
        line
        for line in (docs / "cards.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `rules.py:Mine` |")
    ]
    assert "0.964" in row  # uniform's cosine
    assert "no better than `random`" in board
    assert "/home/me" not in (docs / "cards" / "rules.py_Mine" / "card.json").read_text()


def test_the_hashes_of_the_published_cards_fit(tmp_path: Path):
    cards.main(check=True, docs=ROOT / cards.DOCS)
    docs = published(tmp_path / "docs")
    file = docs / "cards" / "uniform" / "card.json"
    card = json.loads(file.read_text())
    card["parts"]["gradient"]["rows"][0]["cosine"] = 0.999
    file.write_text(json.dumps(card))
    with pytest.raises(ValueError, match="card of uniform: gradient: its figures were changed"):
        cards.main(check=True, docs=docs)
    with pytest.raises(ValueError, match="its figures were changed"):
        cards.main(add=(file.parent,), docs=docs)


def test_published_rows_have_the_same_figures_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cards, "EXACT", ("best-response", "gradient"))
    cards.main(rerun=("random", "uniform"), docs=ROOT / cards.DOCS)


def test_a_part_is_added_to_a_published_row(tmp_path: Path):
    docs = published(tmp_path)
    file = docs / "cards" / "uniform" / "card.json"
    before = json.loads(file.read_text())
    one = {name: {"gradient": before[name]["gradient"]} for name in ("hashes", "made", "parts")}
    folder = tmp_path / "one"
    folder.mkdir()
    digest = merged({**before, "hashes": {}, "made": {}, "parts": {}}, {**before, **one})["hash"]
    (folder / "card.json").write_text(json.dumps({**before, **one, "hash": digest}))
    cards.main(add=(folder,), docs=docs)
    after = json.loads(file.read_text())
    assert after["parts"] == before["parts"]
    assert after["hash"] == before["hash"]
