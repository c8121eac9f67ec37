"""The GPU benchmark's dry run works on a CPU, so that the figures can be made where a GPU is."""

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that runs the command in this process."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
        importlib.import_module("gpu").main()

    return call


def test_a_dry_run_writes_both_tables(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gpu = importlib.import_module("gpu")
    plan = {(item.table, item.arm): item for item in gpu.PLAN if item.shape == gpu.QWEN}
    monkeypatch.setattr(gpu, "PLAN", tuple(plan.values()))  # each arm once: all are one tiny model
    run("--out", str(tmp_path), "--dry-run", "--device", "cpu", "--repeats", "2")
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["is_dry_run"]
    assert found["card"] == "CPU"
    assert min(found["bandwidth_gb_s"], found["matrix_tflops"]) > 0
    rows = {(row["table"], row["arm"]): row for row in found["rows"]}
    assert list(rows) == list(plan)
    assert {arm for table, arm in rows if table == "step"} >= {
        *(
            "exact KL",
            "exact KL, plain",
            "k1",
            "exact KL, lora",
            "exact KL, micro-batch 16",
            "exact KL, ragged",
            "exact KL, own value network",
        )
    }
    for (table, arm), row in rows.items():
        assert "error" not in row
        assert (row["tokens_per_second"] if table == "rollout" else row["update_s"]) > 0
        assert len(row["taken_s"]) == 2
        has_static = table == "step" or arm.startswith("captured")
        assert row["captured"] is (False if has_static else None)  # a CPU captures nothing
        assert row["kernels"] == (None if arm.startswith("generate") else "plain")  # and fuses none
    text = (tmp_path / "gpu.md").read_text()
    for (_, arm), row in rows.items():
        assert f"| {row['shape']} | 4 | {arm} | " in text


@pytest.mark.parametrize(("arm", "network"), [("k1", "trunk"), ("k1, own value network", "own")])
def test_an_arm_says_where_the_value_is_read(
    arm: str, network: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(FOLDER))
    gpu = importlib.import_module("gpu")
    bench = gpu.Bench(argparse.Namespace(device="cpu", dry_run=True, repeats=1))
    agent = bench.agent(bench.model(gpu.QWEN), 2, 3, arm)
    assert agent.settings.value_network == network
    assert (agent.policy.critic.network is not None) is (network == "own")


def test_what_there_is_no_time_for_or_fails_is_a_row_that_says_so(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gpu = importlib.import_module("gpu")
    first, second = gpu.PLAN[:2]
    slow = dataclasses.replace(second, needs=10**6)

    def fail(*_: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(gpu, "PLAN", (slow, first))
    monkeypatch.setattr(gpu.Bench, "rollout", fail)
    run("--out", str(tmp_path), "--dry-run", "--device", "cpu", "--seconds", "60")
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert rows[0]["error"].startswith("skipped: 6")
    assert rows[1]["error"] == "RuntimeError: no kernel"


def test_a_missing_gpu_is_said(
    run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        run("--out", str(tmp_path), "--device", "cuda:99")
    message = "--device cuda:99: no such GPU; add --dry-run --device cpu"
    assert message in capsys.readouterr().err


def test_the_page_has_the_tables_of_its_rows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    docs = FOLDER.parent / "docs" / "results"
    published = (docs / "speed" / "gpu.txt").read_text()
    assert importlib.import_module("gpu").tables_of(docs / "speed") in published
