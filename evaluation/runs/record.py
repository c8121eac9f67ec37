"""Record of one run: its measurements, its machine, its files, and an unfinished checkpoint."""

import logging
import os
import platform
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from tokengym.agents.contract import Agent
from tokengym.base.errors import CheckpointError
from tokengym.base.files import (
    content_hash,
    write_csv,
    write_hashed,
    write_jsonl,
)
from tokengym.base.folders import read_folder, write_folder
from tokengym.envs import Episode
from tokengym.evaluation.report.curves import COLUMNS
from tokengym.evaluation.runs.folder import UNFINISHED, differences
from tokengym.evaluation.runs.spec import RunSpec
from tokengym.rewards.errors import RewardError

if TYPE_CHECKING:
    from tokengym.evaluation.measure.evaluate import Evaluation

logger = logging.getLogger(__name__)

FORMAT = 1
MEASURED = "measured.json"
"""File of the checkpoint's measurements, beside its learner."""
OF_COMPARISON = {"agents", "rewards", "seeds", "first_seed", "level"}
"""Settings of a comparison that no run of it depends on, given what judges the run."""
PACKAGES = ("tokengym", "torch", "transformers", "gymnasium", "stable-baselines3", "numpy")


class RunRecord:
    """Measurements of one run so far, and the files they are written to.

    Args:
        plan: The run.
    """

    def __init__(self, plan: RunSpec) -> None:
        self.name, self.seed = plan.key
        self.training = plan.training
        self.curve: list[dict[str, Any]] = []
        self.train: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.measured_by: str | None = None
        self.reads_little = False
        self.started = time.perf_counter()
        self._cpu_began = time.process_time()
        self._evaluation_s = 0.0
        self._seen = 0

    @property
    def steps_done(self) -> int:
        """Last step that the learner logged; 0 before one."""
        return self.train[-1]["step"] if self.train else 0

    def begin(self) -> None:
        """Set the clock of wall_s to 0: models are loaded, training begins."""
        self.started = time.perf_counter()

    def add_update(self, step: int, logged: Mapping[str, Any]) -> None:
        """Keep what the learner logged at a step, one row a step."""
        columns = self.training.declaration.logged
        values = {name: logged.get(key) for key, name in columns.items()}
        if step == self.steps_done and self.train:  # such as held-out figures, measured after it
            self.train[-1] |= {name: value for name, value in values.items() if value is not None}
        else:
            self.train.append({"step": step, **values})

    def add_evaluation(self, step: int, tokens: int, evaluation: "Evaluation") -> None:
        """Keep one point of the curve; training figures are means since the last point."""
        recent, self._seen = self.train[self._seen :], len(self.train)
        training = self.training
        point = {
            "credit": self.name,
            "seed": self.seed,
            "step": step,
            "tokens": tokens,
            "episodes": step * training.batch_size if training.declaration.uses_credit else None,
            **evaluation.metrics,
            "train_score": _mean(row.get("score") for row in recent),
            "train_kl": _mean(row.get("kl") for row in recent),
            "wall_s": round(time.perf_counter() - self.started - self._evaluation_s, 3),
        }
        self.curve.append(point)

    def state(self) -> dict[str, Any]:
        """Return the measurements so far as plain data."""
        return {
            "curve": self.curve,
            "train": self.train,
            "samples": self.samples,
            "seen": self._seen,
            "measured_by": self.measured_by,
            "reads_little": self.reads_little,
            "seconds": time.perf_counter() - self.started - self._evaluation_s,
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take over the measurements that `state` returned, the clock included."""
        self.curve, self.train = list(state["curve"]), list(state["train"])
        self.samples, self._seen = list(state["samples"]), int(state["seen"])
        self.measured_by = state["measured_by"]
        self.reads_little = state["reads_little"]
        # As if it had begun so many seconds ago: the time in between is nobody's.
        self.started = time.perf_counter() - float(state["seconds"])

    def add_evaluation_time(self, seconds: float) -> None:
        """Take an evaluation's time off the run's: wall_s is what training took."""
        self._evaluation_s += seconds

    def write(self, folder: Path, error: BaseException | None = None) -> None:
        """Write the run's files; run.json, which makes it count and hashes them, comes last.

        Args:
            folder: Folder of the run.
            error: What ended the run, if it failed.
        """
        files = ["curve.csv", "train.csv", "episodes.jsonl"]
        write_csv(folder / "curve.csv", self.curve, COLUMNS)
        columns = self.training.declaration.logged.values()
        write_csv(folder / "train.csv", self.train, ["step", *columns])
        write_jsonl(folder / "episodes.jsonl", self.samples)
        result = {
            "format": FORMAT,
            "credit": self.name,
            "seed": self.seed,
            "status": "finished" if error is None else "failed",
            "steps_done": self.steps_done,
            "wall_s": round(time.perf_counter() - self.started, 3),
            "cpu_s": round(time.process_time() - self._cpu_began, 3),  # since it was last resumed
            "gae_lambda": self.train[-1].get("gae_lambda") if self.train else None,
            **origin(),
            "measured_by": self.measured_by,
            **({"reads_little": True} if self.reads_little else {}),
        }
        if error is not None:
            if isinstance(error, RewardError) and error.episodes:
                error.file = folder / "unscored.jsonl"  # which its message names from here on
                write_jsonl(error.file, map(Episode.to_record, error.episodes))
                files.append(error.file.name)
            result["error"] = describe(error)
            result["traceback"] = "".join(traceback.format_exception(error))
        # A run counts as ended once run.json is there: killed before this line it is done again.
        result["files"] = {name: content_hash(folder / name) for name in files}
        write_hashed(folder / "run.json", result)


class UnfinishedRun:
    """Checkpoint of one run, from which it is resumed: the learner and its measurements.

    Args:
        folder: Folder of the run; the checkpoint is a folder in it, removed when the run ends.
        settings: Settings of the run and what judges it; a checkpoint of others is not resumed. The
            comparison may have grown since.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder / UNFINISHED
        self.last = self.folder / "last"
        self.settings = settings

    def save(self, saves: Callable[[Path], object], measured: Mapping[str, Any]) -> None:
        """Keep a learner between two updates, and the measurements of its run so far.

        Args:
            saves: Writes the learner into a folder.
            measured: The measurements.
        """

        # Filled beside the last checkpoint, which it replaces when it is whole; that one stays as
        # ".previous", so that there is a whole one whenever the run is killed.
        def fill(part: Path) -> dict[str, Any]:
            saves(part / "agent")
            return {"format": FORMAT, "settings": self.settings, "measured": measured}

        write_folder(self.last, MEASURED, fill)

    def load(self, load: Callable[[Path], Agent]) -> tuple[Agent, dict[str, Any]] | None:
        """Return the learner and the measurements; None if no whole checkpoint is of the settings.

        Args:
            load: Returns the learner that was saved in a folder.
        """

        def read(folder: Path, stored: dict[str, Any]) -> tuple[Agent, dict[str, Any]] | None:
            sides = stored["settings"], self.settings
            if differences(*({k: s[k] for k in s.keys() - OF_COMPARISON} for s in sides)):
                return None
            return load(folder / "agent"), stored["measured"]

        try:
            kinds = {"settings": dict, "measured": dict}
            return read_folder(self.last, MEASURED, FORMAT, kinds, read)
        except CheckpointError as error:
            if self.last.exists():  # else it was killed before the first was whole
                logger.warning("%s; the run begins anew", error)
            return None

    def remove(self) -> None:
        """Delete the checkpoint: the run has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)


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


def describe(error: BaseException) -> str:
    """Return an error in one line."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _mean(values: Any) -> float | None:
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else None


ROOT = Path(__file__).resolve().parents[2]


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
