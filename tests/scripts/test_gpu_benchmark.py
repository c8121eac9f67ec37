"""The GPU benchmark's dry run works on a CPU, so that the figures can be made where a GPU is."""

import importlib
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "scripts" / "benchmarks"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that runs the command in this process."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(logging, "disable", lambda level: None)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
        importlib.import_module("gpu").main()

    return call


def test_a_dry_run_writes_both_tables(run: Callable[..., None], tmp_path: Path):
    options = ["--dry-run", "--device", "cpu", "--repeats", "1", "--shapes", "qwen2-0.5b"]
    run("--out", str(tmp_path), "--rows", "4", *options)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["is_dry_run"]
    assert found["card"] == "CPU"
    assert min(found["bandwidth_gb_s"], found["matrix_tflops"]) > 0
    rows = {(row["table"], row["arm"]): row for row in found["rows"]}
    assert {arm for table, arm in rows if table == "rollout"} == {
        *("generate", "generate, static", "dynamic", "captured", "captured, lora")
    }
    for (table, _), row in rows.items():
        assert "error" not in row
        measured = row["tokens_per_second"] if table == "rollout" else row["update_s"]
        assert measured > 0
    text = (tmp_path / "gpu.md").read_text()
    for (_, arm), row in rows.items():
        assert f"| {row['shape']} | 4 | {arm} | " in text


def test_a_missing_gpu_is_said(
    run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        run("--out", str(tmp_path), "--device", "cuda:99")
    message = "--device cuda:99: no such GPU; add --dry-run --device cpu"
    assert message in capsys.readouterr().err
