"""Two processes are one with twice the rows: really launched, over gloo on the CPU."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.agents import shared_run
from tokengym.scripts.cli import main

ROOT = Path(__file__).parents[2]


def launch(script: str | Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    return subprocess.run(
        [*command, "--standalone", str(script), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Return the folders of what one process and two have trained, by their number."""
    found = {count: tmp_path_factory.mktemp(f"processes{count}") for count in (1, 2)}
    shared_run.run(found[1], shared_run.ROWS)
    done = launch(shared_run.__file__, str(found[2]), str(found[1]))
    assert done.returncode == 0, done.stderr[-3000:]
    (found[2] / "printed.txt").write_text(done.stdout)
    shared_run.resume(found[2], found[1], shared_run.ROWS)
    return found


def assert_same_agent(one: Path, two: Path) -> None:
    """Compare weights, optimiser, random generators, and the prompts to come."""
    files = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert files == sorted(path.relative_to(two) for path in two.rglob("*.safetensors"))
    for file in files:
        expected, found = load_file(one / file), load_file(two / file)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            if name.endswith("c_attn.bias"):  # the policy's or the critic's
                # A key's bias has gradient 0: Adam divides its rounding errors by each other.
                value, found[name] = (tensor.view(3, -1)[[0, 2]] for tensor in (value, found[name]))
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-6, msg=name)
    records = [json.loads((folder / "checkpoint.json").read_text()) for folder in (one, two)]
    for entry in ("settings", "environment", "counters"):
        assert records[0][entry] == records[1][entry]
    for rows in zip(*(record["environment_state"]["states"][0] for record in records), strict=True):
        assert rows[0] == rows[1]
    for moments in ("mean", "variance", "seen"):
        scorers = [record["environment_state"]["scorers"][0] for record in records]
        assert scorers[0][moments] == pytest.approx(scorers[1][moments])


@pytest.mark.parametrize("case", shared_run.CASES)
def test_two_processes_are_one_with_twice_the_rows(folders: dict[int, Path], case: str) -> None:
    assert_same_agent(folders[1] / case, folders[2] / case)
    one, two = (
        [json.loads(line) for line in (folder / f"{case}.jsonl").read_text().splitlines()]
        for folder in folders.values()
    )
    assert len(one) == shared_run.ROWS * shared_run.UPDATES
    assert [row["response_ids"] for row in one] == [row["response_ids"] for row in two]
    assert [row["prompt"] for row in one] == [row["prompt"] for row in two]
    assert [row["timestep"] for row in one] == [row["timestep"] for row in two]
    assert [row["score"] for row in one] == pytest.approx([row["score"] for row in two])


@pytest.mark.parametrize("case", shared_run.RESUMED)
def test_a_checkpoint_loads_at_another_number_of_processes(
    folders: dict[int, Path], case: str
) -> None:
    """One process continues what two began, and two what one began, to the same numbers."""
    assert_same_agent(folders[1] / f"{case}-resumed", folders[2] / f"{case}-resumed")


def test_train_writes_one_folder_and_prints_once(folders: dict[int, Path], tmp_path: Path) -> None:
    assert main([*shared_run.TRAIN, str(tmp_path / "train")]) == 0
    trained = {1: tmp_path / "train", 2: folders[2] / "train"}
    files = {n: {p.relative_to(f) for p in f.rglob("*") if p.is_file()} for n, f in trained.items()}
    assert files[1] == files[2]
    for name in ("curve", "train"):
        rows = {
            count: list(csv.DictReader((folder / "abc" / "seed-0" / f"{name}.csv").open()))
            for count, folder in trained.items()
        }
        assert len(rows[1]) == {"curve": 3, "train": 2}[name]
        for one, two in zip(rows[1], rows[2], strict=True):
            for figure in {key for key in one if one[key] and not key.endswith("_s")} - {"credit"}:
                expected = pytest.approx(float(two[figure]), rel=1e-3, abs=1e-4)
                assert float(one[figure]) == expected, figure
    assert (folders[2] / "printed.txt").read_text().count("seed 0: finished") == 1


FAILING = """
import sys
from tokengym.agents.errors import ProcessError
from tokengym.agents.processes import join

processes = join("cpu")
if processes.number == 1:
    sys.exit("the scorer of process 1 has failed")
try:
    processes.gather("a round")
except ProcessError as error:
    sys.exit(f"told: {error}")
"""


def test_a_process_that_fails_ends_the_others(tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    done = launch(script)  # within the time that `launch` gives it, where waiting takes longer
    assert done.returncode != 0
    assert "the scorer of process 1 has failed" in done.stderr
    assert "Traceback" not in done.stderr.partition("torch/distributed/elastic")[0]


def test_what_several_processes_cannot_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In one line each, before anything waits for another process."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    out = ("--out", str(tmp_path / "out"))
    odd = ("--batch-size", "5", "--device", "cpu")
    refused = {
        ("compare", "--env", "MovieReview", *out): "tokengym compare runs in one process, got 2",
        ("train", "--agent", "raft", *out): "--agent raft trains in one process",
        ("train", *odd, *out): "batch_size must be a multiple of the 2 processes, got 5",
    }
    for arguments, message in refused.items():
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert main(["train", "--device", "cpu", *out]) == 2
    assert "FSDP shards the weights" in capsys.readouterr().err
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert main(["train", "--device", "cuda", *out]) == 2
    assert "2 processes need 2 GPUs, torch sees 1" in capsys.readouterr().err
