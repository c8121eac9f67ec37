"""Versions, commit and hardware: what a run's numbers depend on besides its settings."""

import os
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("tokengym", "torch", "transformers", "gymnasium", "stable-baselines3", "numpy")
ROOT = Path(__file__).resolve().parents[2]


def origin() -> dict[str, Any]:
    """Return what a run's numbers depend on besides its settings, as run.json keeps it."""
    return {"versions": versions(), "made": {"commit": commit(), "hardware": hardware()}}


def versions() -> dict[str, str]:
    """Return the versions that decide a run's numbers."""
    by_package = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            by_package[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            by_package[package] = "not installed"
    return by_package


@lru_cache(maxsize=1)
def commit() -> str | None:
    """Return the commit of the checkout that runs, "-dirty" if it has changes; None outside one."""
    if not (ROOT / ".git").exists():
        return None
    command = "git --no-optional-locks describe --always --dirty --exclude=* --abbrev=40"
    try:
        done = subprocess.run(
            command.split(), cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


@lru_cache(maxsize=1)
def hardware() -> str:
    """Return processor, cores, memory and GPU in words.

    A virtual machine may say little more of its processor than the make, so the instructions that
    torch takes on it are named too: runs of one seed part after a few updates where they differ.
    """
    import torch

    try:  # Linux has the processor's name in a file alone
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    memory = psutil.virtual_memory().total
    name = f"{name} ({torch.backends.cpu.get_cpu_capability()})"
    parts = [name, f"{os.cpu_count()} cores", f"{memory / 2**30:.0f} GiB"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)
