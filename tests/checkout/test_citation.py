"""The citation and the version."""

from pathlib import Path

from tokengym.evaluation.report.report import BIBTEX
from tokengym.version import __version__

ROOT = Path(__file__).parents[2]


def test_the_citation_is_the_same_everywhere():
    file = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {__version__}\n" in file
    assert BIBTEX in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"## {__version__} (" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    year = file.partition("date-released: ")[2][:4]
    assert f"= {{{year}}}" in BIBTEX
