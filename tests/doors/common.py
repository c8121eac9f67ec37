"""Rows that every door pays: three words and two, a point a word."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tokengym import TokenCredit
from tokengym.envs import bundled

TOKENIZER = bundled("movie_review").tokenizer
PROMPT, LONG, SHORT = (TOKENIZER(text)["input_ids"] for text in ("i saw", "a dull film", "a film"))
# A point a word is 3, 2, 1 and 2, 1 to go; the third token has no other row to be compared with.
ADVANTAGES = ([1.0, 1.0, 1.0], [-1.0, -1.0])


def by_length(prompt: str, response: str) -> float:
    """Return a point for each word."""
    del prompt
    return float(len(response.split()))


def credit(rule: str = "uniform") -> TokenCredit:
    """Return what pays a point a word."""
    return TokenCredit(by_length, rule, tokenizer=TOKENIZER)


def from_sources(trainer: str, *path: str) -> Any:
    """Return a module of a trainer that is on no index, of the sources in DOORS_SOURCES.

    Args:
        trainer: Its folder there.
        path: Folders and file of the module below it.
    """
    folder = os.environ.get("DOORS_SOURCES")
    if folder is None:
        pytest.skip(f"set DOORS_SOURCES to a folder that has {trainer} at the commit of its door")
    file = Path(folder, trainer, *path)
    spec = importlib.util.spec_from_file_location(f"{trainer}_{file.stem}".replace("-", "_"), file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
