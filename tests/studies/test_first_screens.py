"""The first screen of a results page: the answer, one picture, one table of the page's figures."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "results"

PAGES = (
    "film_reviews", "gradients", "overoptimisation",
    "preferences", "real_text", "rewards", "speed", "tasks", "turns",
)  # fmt: skip
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
FIGURE = re.compile(r"[+\u2212]?\d[\d,.]*%?")


@pytest.mark.parametrize("name", PAGES)
def test_the_first_screen_is_answer_picture_and_table(name: str) -> None:
    screen = (DOCS / f"{name}.md").read_text(encoding="utf-8").partition("\n## ")[0]
    title, *paragraphs = screen.split("\n\n")
    if paragraphs[0].startswith("**Of an older learner"):  # which stands before what it answered
        paragraphs = paragraphs[1:]
    answer, picture, *_ = paragraphs
    assert title.startswith("# ")
    assert "?" in title
    assert answer.startswith("**")
    assert picture.startswith("![")
    assert len(re.findall(r"!\[", screen)) == 1
    assert TABLE.search(screen)


@pytest.mark.parametrize("name", PAGES)
def test_a_table_by_hand_quotes_the_tables_below_it(name: str) -> None:
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    first = TABLE.search(text)
    assert first is not None
    filled = [
        m.span() for m in re.finditer(r"<!-- (\S.*) -->\n.*?<!-- end(?: \1)? -->", text, re.DOTALL)
    ]
    if any(start < first.start() < end for start, end in filled):
        return
    below = set(FIGURE.findall("".join(text[start:end] for start, end in filled)))
    cells = [line.split("|")[2:] for line in first.group().splitlines()[2:]]
    quoted = {figure for row in cells for cell in row for figure in FIGURE.findall(cell)}
    words = set(FIGURE.findall(re.sub(r"(?:^\|.*\n)+", "", text, flags=re.MULTILINE)))
    assert not {figure for figure in quoted - below - words if "." in figure and len(figure) > 3}
