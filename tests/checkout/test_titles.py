"""Titles of the site's pages, and the first output of a notebook."""

import subprocess
import sys
from types import SimpleNamespace

import pytest


def test_a_generated_page_begins_with_its_heading():
    """mkdocs takes the title of a page that begins with anything else from its file's name."""
    hooks = pytest.importorskip("docs.hooks")
    page = SimpleNamespace(file=SimpleNamespace(src_uri="environments/moviereview.md"))
    text = "<!-- Written by\n a maker. -->\n\n# MovieReview\n\n<!-- kept -->\n"
    assert hooks.on_page_markdown(text, page) == "# MovieReview\n\n<!-- kept -->\n"


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
