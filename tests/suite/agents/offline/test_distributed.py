"""Two processes are one with twice the batch: over gloo on the CPU."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.suite.agents.offline import distributed_run
from tests.support.forked import MULTI, train_together
from tokengym.agents.offline.settings import PAIR_FIGURES, TEXT_FIGURES


def test_two_processes_are_one_with_twice_the_batch(tmp_path):
    """DPO, with its references precomputed, and its weights shared out; SFT, counted by tokens."""
    folders = {number: tmp_path / str(number) for number in (1, 2)}
    for path in folders.values():
        path.mkdir()
    distributed_run.run(folders[1], 4)
    done = train_together(distributed_run.run, folders[2], 2, launcher=MULTI)
    assert [code for code, _ in done] == [0, 0], done
    for two, one in (("dpo",) * 2, ("precomputed",) * 2, ("sft",) * 2, ("fsdp", "dpo")):
        files = {2: folders[2] / two, 1: folders[1] / one}
        logs = {n: json.loads(path.with_suffix(".json").read_text()) for n, path in files.items()}
        # Rows that repeat to fill every process' last batch are not measured.
        measured = [
            {name.removeprefix(f"of_{size}_"): row[name] for name in row}
            for rows in (logs[1], logs[2])
            for size in (1, 2, 4)
            for row in rows
            if f"of_{size}_loss" in row
        ]
        assert len(measured) == {"dpo": 6, "sft": 6, "fsdp": 3, "precomputed": 0}[two]
        for found in measured:
            figures = {"loss", *PAIR_FIGURES, *TEXT_FIGURES} & set(found)
            assert len(figures) > 1
            for figure in figures:
                assert found[figure] == pytest.approx(measured[0][figure], rel=1e-5), figure
        steps = {n: [row for row in rows if "loss" in row] for n, rows in logs.items()}
        assert len(steps[1]) == len(steps[2]) == 4
        losses = [row["loss"] for row in steps[1]]
        assert sum(losses[2:]) < sum(losses[:2])  # epochs of the same rows
        # The first margins are zero but for rounding (policy equals reference): no signs to count.
        steps[1][0].pop("rewards/accuracies", None)
        for expected, found in zip(steps[1], steps[2], strict=True):
            for figure in set(expected) - {"learning_rate", "epoch", "step"}:
                assert found[figure] == pytest.approx(expected[figure], rel=1e-4, abs=1e-5), figure
        weights = {n: load_file(path / "model.safetensors") for n, path in files.items()}
        assert set(weights[1]) == set(weights[2])
        for key, value in weights[1].items():
            torch.testing.assert_close(weights[2][key], value, rtol=1e-4, atol=1e-5)
