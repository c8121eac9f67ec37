"""The report's page against hostile text, in a real browser."""

from pathlib import Path

import pytest

from tests.suite.evaluation.report.test_report import hostile_page
from tests.support.browser import browser_page, complaints, missing_browser

__all__ = ["hostile_page"]


@pytest.mark.skipif(bool(missing_browser()), reason=missing_browser())
def test_in_a_browser_no_hostile_script_runs(hostile_page: str, tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text(hostile_page, encoding="utf-8")
    with browser_page() as page:
        page.goto(path.as_uri())
        assert page.title() == "tokengym: which reward learns faster"
        assert complaints(page) == []
