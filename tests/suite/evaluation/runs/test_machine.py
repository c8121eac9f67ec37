"""What a run says of where it was made."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tokengym.evaluation.runs import record as machine


@pytest.fixture(autouse=True)
def forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    for kept in (machine.commit, machine.hardware):
        kept.cache_clear()
    yield
    for kept in (machine.commit, machine.hardware):
        kept.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_checkout_has_a_commit_and_says_that_it_has_changes(tmp_path, monkeypatch):
    assert machine.commit() is None
    git(tmp_path, "init")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    git(tmp_path, "tag", "-a", "v1", "-m", "one")  # a tag does not stand for the commit
    machine.commit.cache_clear()
    assert machine.commit() == head
    (tmp_path / "a").write_text("2")
    machine.commit.cache_clear()
    assert machine.commit() == f"{head}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))  # without git
    machine.commit.cache_clear()
    assert machine.commit() is None


def test_hardware_is_said_in_words(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H200")
    name, *_, gpu = machine.hardware().split(", ")
    assert name.endswith(f" ({torch.backends.cpu.get_cpu_capability()})")  # such as AVX512
    assert f"{os.cpu_count()} cores" in machine.hardware()
    assert gpu == "NVIDIA H200"
