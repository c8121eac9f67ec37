"""Expected texts that are stored whole and compared whole.

TOKENGYM_REWRITE=1 pytest PATH writes them anew; what has changed is then read in the difference.
"""

import os
import re
from html import unescape
from pathlib import Path


def check(path: Path, text: str) -> None:
    """Compare a text with the stored one."""
    if os.environ.get("TOKENGYM_REWRITE"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path.name}: see tests/support/golden.py"


def words(page: str) -> str:
    """Return what a page of HTML says, an element a line; pictures by their words alone."""
    page = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    lines = (" ".join(unescape(part).split()) for part in re.split(r"<[^>]+>", page))
    return "\n".join(line for line in lines if line) + "\n"
