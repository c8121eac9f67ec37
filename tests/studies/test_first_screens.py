"""The first screen of a results page: the answer, one picture, one table of the page's figures."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "results"

PAGES = (
    "film_reviews", "gradients", "larger_beta", "overoptimisation",
    "preferences", "real_text", "rewards", "speed", "tasks", "turns",
)  # fmt: skip
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
BESIDE = {"speed": ("cpu.txt", "gpu.txt")}
"""Page -> files of its folder that have its tables in place of the page."""
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
    for file in BESIDE.get(name, ()):
        below |= {*FIGURE.findall((DOCS / name / file).read_text(encoding="utf-8"))}
    cells = [line.split("|")[2:] for line in first.group().splitlines()[2:]]
    quoted = {figure for row in cells for cell in row for figure in FIGURE.findall(cell)}
    words = set(FIGURE.findall(re.sub(r"(?:^\|.*\n)+", "", text, flags=re.MULTILINE)))
    assert not {figure for figure in quoted - below - words if "." in figure and len(figure) > 3}


def test_every_table_of_speed_quotes_what_was_printed() -> None:
    """But the goals of the first table, its last column."""
    page = (DOCS / "speed.md").read_text(encoding="utf-8")
    printed = {
        figure
        for file in BESIDE["speed"]
        for figure in FIGURE.findall((DOCS / "speed" / file).read_text(encoding="utf-8"))
    }
    first, *others = ([line.split("|")[2:-1] for line in of.splitlines()[2:]]
                      for of in TABLE.findall(page))  # fmt: skip
    rows = [*(row[:-1] for row in first), *(row for of in others for row in of)]
    figures = {figure for row in rows for cell in row for figure in FIGURE.findall(cell)}
    assert len(figures) > 50
    assert figures <= printed
