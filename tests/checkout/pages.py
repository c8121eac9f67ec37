"""The Python of the documents' pages, run as it stands or with smaller numbers."""

import re
from pathlib import Path
from typing import Any

import torch

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    """Return the Python code of a page, block by block; the page's name is below ``docs``."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def shorter(code: str, *changes: tuple[str, str]) -> str:
    """Return code with smaller numbers, each of which stands in it once."""
    for old, new in changes:
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    return code


def run(code: str, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run code with these names and return all that it knows then; torch draws on as before."""
    names = {} if names is None else names
    with torch.random.fork_rng():
        exec(compile(code, "page", "exec"), names)
    return names
