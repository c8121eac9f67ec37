"""The table of docs/results/details/cards.md, from the published cards and with a row added."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from studies import cards, forks, ledger
from tokengym.base.text import number
from tokengym.lab.benchmark.definition import V1
from tokengym.lab.benchmark.figures import row_hash
from tokengym.lab.cards.card import CardConfig, figures_hash, make_card, merged

ROOT = Path(__file__).parents[2]
PAGE = "details/cards.md"


def published(folder: Path) -> Path:
    shutil.copytree(ROOT / cards.DOCS / "cards", folder / "cards")
    (folder / "details").mkdir()
    shutil.copy(ROOT / cards.DOCS / PAGE, folder / PAGE)
    (folder / cards.V1_FOLDER).mkdir()  # where rows and pictures are written
    for row in (ROOT / cards.DOCS / cards.V1_FOLDER).glob("*.json"):
        shutil.copy(row, folder / cards.V1_FOLDER)
    for runs in ("ledger", "forks"):  # what stands beside the cards
        (folder / runs).symlink_to(ROOT / cards.DOCS / runs)
    return folder


def submitted(docs: Path, subject: str, folder: Path, code: str | None = None) -> Path:
    """Return the file of a card with uniform's gradient, as bench would have written it."""
    card = json.loads((docs / "cards" / "uniform" / "card.json").read_text())
    made = card["made"]["gradient"]
    source = None if code is None else digest(code)
    settings = {**json.loads(made["settings"]), "subject": subject, "source": source}
    text = json.dumps(settings, sort_keys=True)
    card |= {"subject": subject, "hashes": {"gradient": digest(text)}, "code": code}
    rows = [{**row, "rule": subject} for row in card["parts"]["gradient"]["rows"]]
    card["parts"] = {"gradient": {"rows": rows}}
    figures = figures_hash(card["parts"]["gradient"])
    card |= {"made": {"gradient": {**made, "settings": text, "figures": figures}}}
    card["hash"] = digest(json.dumps(card["hashes"], sort_keys=True))
    file = folder / "mine.json"
    file.write_text(json.dumps(card))
    return file


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_a_card_adds_a_row_under_the_name_in_its_file(tmp_path: Path):
    docs = published(tmp_path / "docs")
    cards.main(add=(submitted(docs, "rules.py:Mine", tmp_path),), docs=docs)
    board, row = [
        line
        for line in (docs / PAGE).read_text(encoding="utf-8").splitlines()
        if "`rules.py:Mine`" in line and line.startswith("|")
    ]
    assert "0.964" in row  # uniform's cosine
    assert "(../cards/rules.py_Mine/card.json)" in board
    assert "Turns the gradient, was not trained." in board


def test_a_row_of_v1_stands_in_the_table_of_its_track(tmp_path: Path):
    docs = published(tmp_path / "docs")
    seeds = range(10)
    figures = {
        "way": [0.0, 2.0],
        "baseline_areas": [1.0] * 10,
        "gold_lead": [0.1] * 10,
        "times_baseline": 1.0,
    }
    leads = [1.2 + 0.02 * seed for seed in seeds]
    row = {
        "format": 1,
        "definition": V1.name,
        "definition_hash": V1.hash,
        "track": "inside",
        "subject": "rules.py:Mine",
        "code": "class Mine: ...",
        "hidden": False,
        "seeds": [*seeds],
        "versions": {},
        "settings": {s.name: {**figures, "task": s.task, "areas": leads} for s in V1.settings},
    }
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({**row, "hash": row_hash(row)}))
    cards.main(add=(file,), docs=docs)
    text = (docs / PAGE).read_text(encoding="utf-8")
    # a lead of 1.29 - 1 over a way of 2
    assert "| 1 | 1 to 1 | `rules.py:Mine` | +14.5 |" in text
    assert "ranks-inside.png" not in text  # one rule has no rank to draw
    second = {**row, "subject": "rules.py:Other"}
    (tmp_path / "other.json").write_text(json.dumps({**second, "hash": row_hash(second)}))
    cards.main(add=(tmp_path / "other.json",), docs=docs)
    assert "(../v1/ranks-inside.png)" in (docs / PAGE).read_text(encoding="utf-8")
    assert (docs / "v1" / "ranks-inside.png").stat().st_size > 0
    (docs / "v1" / "rules.py_Other-inside.json").unlink()
    cards.main(check=True, docs=docs)
    other = {**row, "code": "class Mine: pass"}
    file.write_text(json.dumps({**other, "hash": row_hash(other)}))
    with pytest.raises(ValueError, match=r"has a row of rules.py:Mine with other code"):
        cards.main(add=(file,), docs=docs)
    (made,) = (docs / "v1").glob("*-inside.json")
    made.write_text(json.dumps({**row, "hash": "0"}))
    with pytest.raises(ValueError, match="was changed after it was made"):
        cards.main(check=True, docs=docs)


def forged(card: dict[str, Any]) -> None:
    card["parts"]["gradient"]["rows"][0]["cosine"] = 0.999


def unmeasured(card: dict[str, Any]) -> None:
    card["made"] = {}


def unsettled(card: dict[str, Any]) -> None:
    card["made"]["gradient"]["settings"] = None


def added(card: dict[str, Any]) -> None:
    card["parts"]["convergence"] = {"MovieReview": {}}


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (forged, "card of rules.py:Mine: gradient: its figures were changed"),
        (unmeasured, "gradient: its figures were changed after they were measured"),
        (unsettled, "gradient does not say how it was measured; submit what bench wrote"),
        (added, "convergence: its figures were changed"),
    ],
)
def test_a_tampered_row_is_refused(tamper, message: str, tmp_path: Path):
    docs = published(tmp_path / "docs")
    file = submitted(docs, "rules.py:Mine", tmp_path)
    card = json.loads(file.read_text())
    tamper(card)
    file.write_text(json.dumps(card))
    with pytest.raises(ValueError, match=message):
        cards.main(add=(file,), docs=docs)


def test_the_hashes_of_the_published_cards_fit(tmp_path: Path):
    cards.main(check=True, docs=ROOT / cards.DOCS)
    docs = published(tmp_path / "docs")
    file = docs / "cards" / "scar" / "card.json"
    card = json.loads(file.read_text())
    card["parts"]["cost"]["MovieReview"]["passes"] = 1.0  # of a part older than settings
    file.write_text(json.dumps(card))
    with pytest.raises(ValueError, match="card of scar: cost: its figures were changed"):
        cards.main(check=True, docs=docs)


CODE = """
from tokengym.rewards.credits.uniform import Uniform
class Mine(Uniform):
    name = "mine"
"""


def test_a_row_whose_figures_are_not_its_code_s_is_found(tmp_path: Path):
    """Its hashes fit, as those of figures that were made up and hashed do."""
    docs = published(tmp_path / "docs")
    file = submitted(docs, "rules.py:Mine", tmp_path, CODE)
    cards.main(add=(file,), docs=docs)
    cards.main(rerun=("rules.py_Mine",), docs=docs)
    card = json.loads(file.read_text())
    forged(card)
    card["made"]["gradient"]["figures"] = figures_hash(card["parts"]["gradient"])
    file.write_text(json.dumps(card))
    cards.main(add=(file,), docs=docs)
    with pytest.raises(
        ValueError, match=r"gradient has other figures now, rows 0 cosine: 0.999 and"
    ):
        cards.main(rerun=("rules.py_Mine",), docs=docs)


def test_published_rows_have_the_same_figures_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cards, "EXACT", ("best-response", "gradient"))
    cards.main(rerun=("random", "uniform"), docs=ROOT / cards.DOCS)


def test_training_beside_the_cards_is_that_of_its_pages():
    docs = ROOT / cards.DOCS
    for page, gains in (("ledger.md", ledger.gains(docs)), ("details/forks.md", forks.gains(docs))):
        text = (docs / page).read_text(encoding="utf-8")
        assert len(gains) >= 6
        for gain in gains.values():
            shown = f"({number(gain.low)} to {number(gain.high)}), {gain.wins}/{gain.pairs}"
            assert shown in text


def test_a_card_of_which_nothing_could_be_measured_is_not_published(tmp_path: Path):
    config = CardConfig(
        subject=f"rto:policy={tmp_path / 'gone'}", parts=("contract",), size="quick"
    )
    card = make_card(config, tmp_path / "card")
    with pytest.raises(ValueError, match="nothing of it could be measured: there is no folder"):
        cards.publish(card, tmp_path / "published")
    assert not (tmp_path / "published").exists()


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
