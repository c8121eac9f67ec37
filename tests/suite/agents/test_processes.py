"""Two processes are one with twice the rows, over gloo on the CPU."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.suite.agents import shared_run
from tests.support.forked import execute, train_together
from tokengym.agents.fast.group import ProcessGroup
from tokengym.envs import Episode
from tokengym.scripts.cli import main


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of what one process has trained."""
    folder = tmp_path_factory.mktemp("one")
    shared_run.run(folder, shared_run.ROWS)
    assert main([*shared_run.TRAIN, str(folder / "train")]) == 0
    return folder


@pytest.fixture(scope="module")
def two(one: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of what two processes have trained."""
    folder = tmp_path_factory.mktemp("two")
    done = train_together(shared_run.train, folder, one)
    codes, printed = zip(*done, strict=True)
    assert codes == (0, 0), printed
    (folder / "printed.txt").write_text("".join(printed))
    shared_run.resume(folder, folder / "one", shared_run.ROWS)
    return folder


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
    # An adaptive price follows the KL, which is a sum of float32 numbers in another order.
    prices = [record["settings"].pop("kl_coef", 0.0) for record in records]
    assert prices[0] == pytest.approx(prices[1], rel=1e-6)
    for entry in ("settings", "environment", "counters"):
        assert records[0][entry] == records[1][entry]
    for rows in zip(*(record["environment_state"]["states"][0] for record in records), strict=True):
        assert rows[0] == rows[1]
    for moments in ("mean", "variance", "seen"):
        scorers = [record["environment_state"]["scorers"][0] for record in records]
        assert scorers[0][moments] == pytest.approx(scorers[1][moments])


@pytest.mark.parametrize("case", shared_run.CASES)
def test_two_processes_are_one_with_twice_the_rows(one, two, case):
    assert_same_agent(one / case, two / case)
    expected, found = (
        [json.loads(line) for line in (folder / f"{case}.jsonl").read_text().splitlines()]
        for folder in (one, two)
    )
    assert len(expected) == shared_run.ROWS * shared_run.UPDATES
    for figure in ("response_ids", "prompt", "timestep"):
        assert [row[figure] for row in expected] == [row[figure] for row in found]
    assert [row["score"] for row in expected] == pytest.approx([row["score"] for row in found])


@pytest.mark.parametrize("case", shared_run.RESUMED)
def test_a_checkpoint_loads_at_another_number_of_processes(two, case):
    """One process continues what two began, and two what one began, to the same numbers."""
    assert_same_agent(two / "one" / f"{case}-resumed", two / f"{case}-resumed")


def test_train_writes_one_folder_and_prints_once(one, two):
    trained = {1: one / "train", 2: two / "train"}
    files = {n: {p.relative_to(f) for p in f.rglob("*") if p.is_file()} for n, f in trained.items()}
    assert files[2] == files[1]
    assert any(file.parts[0] == "reference_samples" for file in files[1])
    for name in ("curve", "train"):
        rows = {
            count: list(csv.DictReader((folder / "abc" / "seed-0" / f"{name}.csv").open()))
            for count, folder in trained.items()
        }
        assert len(rows[1]) == {"curve": 3, "train": 2}[name]
        for expected, found in zip(rows[1], rows[2], strict=True):
            figures = {key for key in expected if expected[key] and not key.endswith("_s")}
            for figure in figures - {"credit"}:
                near = pytest.approx(float(found[figure]), rel=1e-3, abs=1e-4)
                assert float(expected[figure]) == near, figure
    assert (two / "printed.txt").read_text().count("seed 0: finished") == 1


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


def test_the_generator_is_that_of_the_round_that_wrote_most():
    """Replies of a partner are tokens of a response and are not drawn."""
    agents = [shared_run.make_agent("gae", 4) for _ in range(2)]
    played: list[Any] = [agent.collect() for agent in agents]
    reply = np.array([1, 1, 0, 0, 0, 0, 0, 0, 1], dtype=np.int8)  # 0: of the partner
    texts = [
        Episode(prompt="", response="", prompt_ids=(4,), response_ids=(3,) * n, written=written)
        for n, written in ((9, reply), (5, None))
    ]
    states = [torch.Generator().manual_seed(seed).get_state() for seed in (1, 2)]
    rounds = [
        replace(one, episodes=(text,), action_masks=None)
        for one, text in zip(played, texts, strict=True)
    ]
    group = ProcessGroup.__new__(ProcessGroup)
    group.number, group.count = 0, 2
    infos = list(agents[0].ep_info_buffer or ())
    shares = [(one, 9, infos, state) for one, state in zip(rounds, states, strict=True)]
    group.gather = lambda share: shares  # type: ignore[method-assign,assignment,return-value]
    group.join_rounds(agents[0], rounds[0], 9)
    assert torch.equal(agents[0].policy.generator.get_state(), states[1])


def test_a_process_that_fails_ends_the_others():
    (code, told), (other, said) = train_together(execute, FAILING)
    assert (code, other) == (1, 1)
    assert said == "the scorer of process 1 has failed\n"
    assert told.startswith("told: ")


def test_what_several_processes_cannot_do_is_refused(monkeypatch, capsys, tmp_path):
    """In one line each, before anything waits for another process."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    out = ("--out", str(tmp_path / "out"))
    odd = ("--batch-size", "5", "--device", "cpu")
    refused = {
        ("compare", "--env", "MovieReview", *out): "tokengym compare runs in one process, got 2",
        ("train", *odd, *out): "--batch-size must be a multiple of the 2 processes, got 5",
    }
    for arguments, message in refused.items():
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    for kind in ("FSDP", "DeepSpeed"):
        monkeypatch.setenv(f"ACCELERATE_USE_{kind.upper()}", "true")
        assert main(["train", "--device", "cpu", *out]) == 2
        message = capsys.readouterr().err
        assert kind in message
        assert "--lora-rank" in message
        monkeypatch.delenv(f"ACCELERATE_USE_{kind.upper()}")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert main(["train", "--device", "cuda", *out]) == 2
    assert "2 processes need 2 GPUs, torch sees 1" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["train", "--device", "cuda:0", *out]) == 2
    message = capsys.readouterr().err
    assert "--device cuda:0 was given to process 1 of 2, each of which has a GPU" in message
    assert message.count("\n") == 1
