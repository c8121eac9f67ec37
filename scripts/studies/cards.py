"""The table of the cards that `tokengym bench` makes, one row per rule or estimator.

python -m tokengym.scripts.studies.cards --add runs/card-MyCredit    # adds or replaces a row
python -m tokengym.scripts.studies.cards                             # fills docs/results/cards.md
"""

from pathlib import Path
from typing import Annotated

import tyro

from tokengym.envs.files import write_json
from tokengym.evaluation.runs.config import slug
from tokengym.lab.cards.card import read_cards
from tokengym.lab.cards.page import HEADER, card_row
from tokengym.scripts.studies.cells import DOCS, Docs, command_line
from tokengym.scripts.studies.tables import fill, markdown_table


def main(
    add: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FOLDER ...")] = (), docs: Docs = DOCS
) -> None:
    """Fill the page from the published cards.

    Args:
        add: Folders of cards to publish first.
        docs: Folder of the page.
    """
    published = docs / "cards"
    for card in read_cards(add):
        subject = card["subject"].rpartition("/")[2]  # of a path, the file and the name in it
        write_json(published / slug(subject) / "card.json", {**card, "subject": subject})
    cards = read_cards(sorted(path.parent for path in published.glob("*/card.json")))
    sparse = next((card for card in cards if card["subject"] == "sparse"), None)
    rows = [
        card_row(card, sparse)
        for card in sorted(cards, key=lambda card: card["subject"] != "sparse")
        if card["kind"] == "rule"
    ]
    fill(docs / "cards.md", {"cards": markdown_table(HEADER, rows)})


if __name__ == "__main__":
    command_line(__doc__, main)
