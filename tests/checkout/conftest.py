"""Prints how large the checkout is, folder by folder, at the end of the tests of its sources."""

import pytest

from tests.checkout.house import ROOT, sizes


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print lines of Python and words of documents by folder: growth is seen, not limited."""
    terminalreporter.section("lines of Python and words of documents")
    for title, by_folder in sizes(ROOT).items():
        total = f"{title} {sum(by_folder.values()):,}"
        folders = (f"{name} {size:,}" for name, size in by_folder.items())
        terminalreporter.write_line(f"{total}: {', '.join(folders)}")
