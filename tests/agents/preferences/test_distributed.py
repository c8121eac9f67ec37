"""Two processes are one with twice the batch: really launched, over gloo on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.agents.preferences import distributed_run

ROOT = Path(__file__).parents[3]
# "--multi_gpu" is the launcher's word for several processes: its "--cpu" wants mpirun.
LAUNCH = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    *("--main_process_port", "0"),
)


def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path):
    """DPO, with precomputed references too, and SFT, whose responses differ in tokens."""
    folders = {number: tmp_path / str(number) for number in (1, 2)}
    for path in folders.values():
        path.mkdir()
    distributed_run.run(folders[1], 4)
    done = subprocess.run(
        [sys.executable, *LAUNCH, str(Path(distributed_run.__file__)), str(folders[2]), "2"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("dpo", "precomputed", "sft"):
        logs = {n: json.loads((path / f"{name}.json").read_text()) for n, path in folders.items()}
        steps = {n: [row for row in rows if "loss" in row] for n, rows in logs.items()}
        assert len(steps[1]) == len(steps[2]) == 6
        assert steps[1][-1]["loss"] < steps[1][0]["loss"]
        for one, two in zip(steps[1], steps[2], strict=True):
            for figure in set(one) - {"learning_rate", "epoch", "step"}:
                assert two[figure] == pytest.approx(one[figure], rel=1e-4, abs=1e-5), figure
        weights = {n: load_file(p / name / "model/model.safetensors") for n, p in folders.items()}
        for key, value in weights[1].items():
            torch.testing.assert_close(weights[2][key], value, rtol=1e-4, atol=1e-5)
