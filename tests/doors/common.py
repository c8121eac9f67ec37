"""Classes of trainers that are on no index."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest


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
