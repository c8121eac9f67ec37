"""The share of products is that of the library that was asked for."""

import importlib
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"


def test_every_phase_multiplies_by_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    phases = importlib.import_module("product_share").phases_of("onednn", str(tmp_path))
    train: Any = phases["DPO, 4 batches of 16 pairs"]
    collect: Any = phases["rollout"]
    assert train.__self__.policy.language_model.products == "onednn"
    assert collect.__self__.policy.language_model.products == "onednn"
    assert "scoring 32 texts" not in phases  # a scorer has no other library than torch's
