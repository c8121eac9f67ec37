"""Titles of the site's pages, their words in the glossary, and the first output of a notebook."""

import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from docs import hooks


def test_a_generated_page_begins_with_its_heading():
    """mkdocs takes the title of a page that begins with anything else from its file's name."""
    page: Any = SimpleNamespace(file=SimpleNamespace(src_uri="environments/moviereview.md"))
    text = "<!-- Written by\n a maker. -->\n\n# MovieReview\n\n<!-- kept -->\n"
    assert hooks.on_page_markdown(text, page) == "# MovieReview\n\n<!-- kept -->\n"


@pytest.mark.parametrize(
    ("sentence", "heading"),
    [
        ("beside two controls, both", "control"),
        ("by PPO and without", "ppo"),
        ("its credit is known", "credit-credit-rule"),
        ("the control tokens around a reply", None),
        ("before you credit a rule", None),
        ("`PPO` and [PPO](x.md)", None),
        ("an argument kl_coef and ppo.py", None),
    ],
)
def test_words_lead_to_the_glossary_where_they_mean_it(sentence: str, heading: str | None):
    linked = re.findall(r"\(G#([\w-]+)\)", hooks._with_terms(sentence, "G"))
    assert (heading in linked) if heading else not linked


def test_every_term_has_its_heading():
    text = (hooks.ROOT / "docs" / "guide" / "glossary.md").read_text(encoding="utf-8")
    names = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert names == sorted(names, key=str.lower)
    anchors = {re.sub(r"[^\w-]", "", name.lower().replace(" ", "-")) for name in names}
    assert set(hooks.TERMS) <= anchors


def test_members_of_a_class_are_folded():
    member = '<div class="doc"><h4 id="C.m">m</h4><div>text</div></div>'
    page = '<div class="c"><h3>C</h3>{}</div><div class="c"><h3>D</h3></div>'
    children = f'<div class="doc doc-children">{member}{member}</div>'
    folded = f"<details><summary>2 methods and attributes</summary>{children}</details>"
    assert hooks._with_folded_members(page.format(children)) == page.format(folded)
    empty = '<div class="doc doc-children"></div>'
    assert hooks._with_folded_members(page.format(empty)) == page.format(empty)


def test_a_notebook_without_widgets_is_not_warned_of_bars():
    kernel = (
        "import sys, types\n"
        "sys.modules['ipywidgets'] = None\n"
        "for name in ('ipykernel', 'ipykernel.zmqshell', 'IPython'):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "sys.modules['IPython'].get_ipython = lambda: None\n"
    )
    for first, warned in (("", True), ("import tokengym\n", False)):
        code = f"{kernel}{first}from tqdm.auto import tqdm"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert ("TqdmWarning" in done.stderr) == warned


def test_the_start_page_finds_its_pictures_in_both_modes():
    page = hooks._below_docs((hooks.ROOT / "README.md").read_text(encoding="utf-8"))
    shown = re.findall(r'(?:src|srcset)="([^"]+)"|!\[[^]]*\]\(([^)]+)\)', page)
    pictures = [one or other for one, other in shown]
    assert pictures == ["images/hero.svg", "images/learning-dark.png", "images/learning-light.png"]
    assert all((hooks.ROOT / "docs" / picture).is_file() for picture in pictures)
