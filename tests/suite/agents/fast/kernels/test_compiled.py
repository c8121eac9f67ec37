"""Kernels are compiled to the loads and the memory that they are meant to have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed; it comes with torch for CUDA")


def test_masked_loads_are_wide_and_wide_heads_fit_on_small_cards(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compiled.py"))],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(kernel["code"] for kernel in found.values())
    for name in ("_read_words", "_write_slope", "_sum_words", "_draw_words"):
        assert found[name]["wide"] >= 2, name  # none where each word's mask decides on its load
    most = max(kernel["shared"] for kernel in found.values())
    assert most < 99 * 2**10  # what a program may have at compute capability 8.6, 8.9 and 12.0
