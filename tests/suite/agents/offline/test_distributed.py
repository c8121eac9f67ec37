"""Two processes are one with twice the batch: really launched, over gloo on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.suite.agents.offline import distributed_run

ROOT = Path(__file__).parents[4]
# "--multi_gpu" is the launcher's word for several processes: its "--cpu" wants mpirun.
LAUNCH = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    *("--main_process_port", "0"),
)


def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path):
    """DPO, with its references precomputed, and its weights shared out; SFT, counted by tokens."""
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
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for two, one in (("dpo",) * 2, ("precomputed",) * 2, ("sft",) * 2, ("fsdp", "dpo")):
        files = {2: folders[2] / two, 1: folders[1] / one}
        logs = {n: json.loads(path.with_suffix(".json").read_text()) for n, path in files.items()}
        steps = {n: [row for row in rows if "loss" in row] for n, rows in logs.items()}
        assert len(steps[1]) == len(steps[2]) == 6
        assert steps[1][-1]["loss"] < steps[1][0]["loss"]
        # The first margins are zero but for rounding (policy equals reference): no signs to count.
        steps[1][0].pop("rewards/accuracies", None)
        for expected, found in zip(steps[1], steps[2], strict=True):
            for figure in set(expected) - {"learning_rate", "epoch", "step"}:
                assert found[figure] == pytest.approx(expected[figure], rel=1e-4, abs=1e-5), figure
        weights = {n: load_file(path / "model.safetensors") for n, path in files.items()}
        assert set(weights[1]) == set(weights[2])
        for key, value in weights[1].items():
            torch.testing.assert_close(weights[2][key], value, rtol=1e-4, atol=1e-5)
