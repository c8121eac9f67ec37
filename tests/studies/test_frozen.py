"""Pages from before the protocol stay as they are: their tables, and the data beside them."""

import hashlib
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
FROZEN: dict[tuple[str, tuple[str, ...]], str] = {
    ("rewards/training.md", ()): "84620c934d693268",
}
"""Page, folders of its data -> hash of the tables and the data."""


def digest(page: str, folders: tuple[str, ...]) -> str:
    """Return the hash of a page's tables and of the files in its folders; prose may be edited."""
    text = (DOCS / page).read_text(encoding="utf-8")
    tables = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    found = hashlib.sha256(tables.encode())
    for folder in folders:
        for file in sorted((DOCS / folder).rglob("*")):
            if file.suffix in (".csv", ".json"):
                name = file.relative_to(DOCS).as_posix()
                found.update(f"\n{name}\n".encode() + file.read_bytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("where", FROZEN, ids=lambda where: where[0])
def test_tables_and_data_are_those_that_were_published(where: tuple[str, tuple[str, ...]]) -> None:
    assert digest(*where) == FROZEN[where]
