"""The record of one run: its measurements so far, their checkpoint, and its files at the end.

Beside them stand the versions, commit and hardware that its numbers depend on besides its settings.
"""

import io
import logging
import os
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from tokengym.agents.contract import Agent
from tokengym.agents.learner import ROUND_LOG, own_columns
from tokengym.base.errors import CheckpointError, DatasetError
from tokengym.base.files import content_hash, write_bytes, write_csv, write_hashed, write_jsonl
from tokengym.base.folders import read_folder, write_folder
from tokengym.envs import Episode
from tokengym.evaluation.measure.measures import UNSCORED
from tokengym.evaluation.report.curves import curve_columns, filled
from tokengym.evaluation.report.reading import DAMAGES, read_arrays
from tokengym.evaluation.runs.comparison import differences
from tokengym.evaluation.runs.spec import UNFINISHED, RunSpec
from tokengym.evaluation.statistics import Array
from tokengym.rewards.errors import RewardError

if TYPE_CHECKING:
    from tokengym.evaluation.measure.evaluate import Evaluation

logger = logging.getLogger(__name__)

FORMAT = 1
MEASURED = "measured.json"
"""File of the checkpoint's measurements, beside its learner."""
RESPONSES = "responses.npz"
"""File of each response's values, (evaluations, prompts) per measurement."""


class RunRecord:
    """Measurements of one run so far, their checkpoint, and the files they are written to."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.points: list[dict[str, Any]] = []
        """Evaluations, as rows of curve.csv."""
        self.log: list[dict[str, Any]] = []
        """The learner's log, as rows of train.csv."""
        self.samples: list[dict[str, Any]] = []
        """Responses with their credit, as rows of episodes.jsonl."""
        self.responses: list[dict[str, list[float | None]]] = []
        """Per evaluation each response's values by measurement, and its ``prompt`` in the split."""
        self.measured_by: str | None = None
        self.optimum: dict[str, float] = {}
        """Best expected gold score, where the task can compute it."""
        self.reads_little = False
        self.settled: Mapping[str, Any] = {}
        """Settings that were left open, by name, as the learner decided them."""
        self.started = time.perf_counter()
        self._cpu_began = time.process_time()
        self._evaluation_s = 0.0
        self._seen = 0

    @property
    def steps_done(self) -> int:
        """Last step that the learner logged; 0 before one."""
        return self.log[-1]["step"] if self.log else 0

    def add_update(self, step: int, logged: Mapping[str, Any]) -> None:
        """Keep what the learner logged at a step, one row a step."""
        columns = self.spec.training.declaration.logged
        values = {name: logged.get(key) for key, name in columns.items()}
        if columns.items() >= ROUND_LOG.items():  # of rounds, where a learner may log its own
            values |= {n: v for n, v in own_columns(logged).items() if n not in values}
        if step == self.steps_done and self.log:  # such as held-out figures, measured after it
            self.log[-1] |= {name: value for name, value in values.items() if value is not None}
        else:
            self.log.append({"step": step, **values})
            # A round is sampled by the policy before its update: by the one measured last.
            if self.points and self.points[-1]["step"] == step - 1:
                self.points[-1]["round_kl"] = values.get("kl")

    def add_evaluation(self, step: int, tokens: int, evaluation: "Evaluation") -> None:
        """Keep one point of the curve; training figures are means since the last point."""
        recent, self._seen = self.log[self._seen :], len(self.log)
        (name, seed), training = self.spec.key, self.spec.training
        point = {
            "credit": name,
            "seed": seed,
            "step": step,
            "tokens": tokens,
            "episodes": step * training.batch_size if training.declaration.uses_credit else None,
            **evaluation.metrics,
            UNSCORED: evaluation.unscored,
            "train_score": _mean(row.get("score") for row in recent),
            "train_kl": _mean(row.get("kl") for row in recent),
            "wall_s": round(self._seconds(), 3),
        }
        self.points.append(point)
        rows = evaluation.responses | {"prompt": np.array(evaluation.prompt_ids, dtype=np.float64)}
        self.responses.append({name: _nulls(values) for name, values in rows.items()})

    def add_evaluation_time(self, seconds: float) -> None:
        """Take an evaluation's time off the run's: wall_s is what training took."""
        self._evaluation_s += seconds

    def _seconds(self) -> float:
        return time.perf_counter() - self.started - self._evaluation_s

    # --- beside the learner, in the checkpoint of an unfinished run ------------------------------

    def state(self) -> dict[str, Any]:
        """Return the measurements so far as plain data."""
        return {
            "curve": self.points,
            "train": self.log,
            "samples": self.samples,
            "responses": self.responses,
            "seen": self._seen,
            "measured_by": self.measured_by,
            "optimum": self.optimum,
            "reads_little": self.reads_little,
            "seconds": self._seconds(),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take over the measurements that `state` returned, the clock included."""
        self.points, self.log = list(state["curve"]), list(state["train"])
        self.samples, self._seen = list(state["samples"]), int(state["seen"])
        self.responses = list(state["responses"])
        self.measured_by, self.optimum = state["measured_by"], dict(state["optimum"])
        self.reads_little = state["reads_little"]
        # As if it had begun so many seconds ago: the time in between is nobody's.
        self.started = time.perf_counter() - float(state["seconds"])

    @property
    def checkpoint(self) -> Path:
        """Folder of the learner and the measurements from which the run is resumed."""
        return self._folder / UNFINISHED / "last"

    @property
    def _folder(self) -> Path:
        assert self.spec.folder is not None
        return self.spec.folder

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """What decides its numbers; a checkpoint of other settings is not resumed.

        The comparison may have grown since.
        """
        files = {"code": dict(self.spec.code), "data": dict(self.spec.data)}
        return {**self.spec.numbers(), **files}

    def save(self, saves: Callable[[Path], object]) -> None:
        """Write the checkpoint, between two updates; ``saves`` writes the learner into a folder."""

        # Filled beside the last checkpoint, which it replaces when it is whole; that one stays as
        # ".previous", so that there is a whole one whenever the run is killed.
        def fill(part: Path) -> dict[str, Any]:
            saves(part / "agent")
            measured = self.state()
            # Most of what was measured, and all of it again at each checkpoint.
            (part / RESPONSES).write_bytes(packed(measured.pop("responses")))
            return {"format": FORMAT, "settings": self._settings, "measured": measured}

        write_folder(self.checkpoint, MEASURED, fill)

    def load(self, load: Callable[[Path], Agent]) -> Agent | None:
        """Return the learner that ``load`` reads in the checkpoint, and take over its measurements.

        None if no whole checkpoint is of this run's settings.
        """

        def read(folder: Path, stored: dict[str, Any]) -> tuple[Agent, dict[str, Any]] | None:
            if differences(stored["settings"], self._settings):
                return None
            measured = stored["measured"]
            if "responses" not in measured:  # which older checkpoints have
                measured = {**measured, "responses": response_rows(folder / RESPONSES)}
            return load(folder / "agent"), measured

        try:
            kinds = {"settings": dict, "measured": dict}
            kept = read_folder(self.checkpoint, MEASURED, FORMAT, kinds, read)
        except CheckpointError as error:
            if self.checkpoint.exists():  # else it was killed before the first was whole
                logger.warning("%s; the run begins anew", error)
            return None
        if kept is None:
            return None
        agent, measured = kept
        self.resume(measured)
        return agent

    # --- in the files of a run that has ended ----------------------------------------------------

    def write(self, error: BaseException | None = None) -> None:
        """Write the run's files; run.json, which makes it count and hashes them, comes last.

        An ``error`` is what ended it, if it failed.
        """
        folder, files = self._folder, ["curve.csv", "train.csv", "episodes.jsonl", RESPONSES]
        (name, seed), logged = self.spec.key, self.spec.training.declaration.logged.values()
        of_log = dict.fromkeys(["step", *logged, *(name for row in self.log for name in row)])
        write_csv(folder / "curve.csv", self.points, filled(curve_columns(), self.points))
        write_csv(folder / "train.csv", self.log, filled([*of_log], self.log))
        write_jsonl(folder / "episodes.jsonl", self.samples)
        write_bytes(folder / RESPONSES, packed(self.responses))
        result = {
            "format": FORMAT,
            "credit": name,
            "seed": seed,
            "status": "finished" if error is None else "failed",
            "steps_done": self.steps_done,
            "wall_s": round(time.perf_counter() - self.started, 3),
            "cpu_s": round(time.process_time() - self._cpu_began, 3),  # since it was last resumed
            **self.settled,
            **origin(),
            "measured_by": self.measured_by,
            **({"optimum": self.optimum} if self.optimum else {}),
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


def packed(rows: Sequence[Mapping[str, Sequence[float | None]]]) -> bytes:
    """Return the values of a run's responses as a NumPy archive; what is missing is NaN."""
    names = [name for name in (rows[0] if rows else ()) if all(name in row for row in rows)]
    tables: dict[str, Any] = {
        n: np.array([row[n] for row in rows], dtype=np.float32) for n in names
    }
    np.savez_compressed(buffer := io.BytesIO(), **tables)
    return buffer.getvalue()


def response_rows(file: Path) -> list[dict[str, list[float | None]]]:
    """Return the rows that `packed` wrote of a checkpoint."""
    tables = read_arrays(file, "delete its folder and run again")
    rows = zip(*tables.values(), strict=True)
    return [{n: _nulls(row) for n, row in zip(tables, each, strict=True)} for each in rows]


def read_responses(file: Path, evaluations: int) -> dict[str, Array]:
    """Return the values of a run's responses, (evaluations, prompts) each; {} of an older run.

    Raises:
        ValueError: if the file is damaged, or has another number of evaluations than the curve.
    """
    if not file.exists():
        return {}
    try:
        stored = read_arrays(file, "delete its folder and run again")
        tables = {n: array.astype(np.float64) for n, array in stored.items() if n != "prompt"}
        for name, table in tables.items():
            if table.ndim != 2 or len(table) != evaluations:
                raise ValueError(
                    f"{name} has the shape {table.shape}, and the curve {evaluations} evaluations"
                )
        return tables
    except DatasetError:
        raise
    except DAMAGES as error:
        raise ValueError(f"{file} is damaged ({error}); delete its folder and run again") from None


def _nulls(values: Iterable[float]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def describe(error: BaseException) -> str:
    """Return an error in one line."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _mean(values: Iterable[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else None


# --- what it was made on --------------------------------------------------------------------------


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
