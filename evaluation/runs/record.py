"""What one run of a comparison measured, and how it is written down."""

import platform
import time
import traceback
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokengym.envs import episode_to_record
from tokengym.envs.files import write_csv, write_json, write_jsonl
from tokengym.evaluation.report.curves import COLUMNS
from tokengym.evaluation.runs.config import ComparisonConfig, run_folder

if TYPE_CHECKING:
    from tokengym.evaluation.measure.evaluate import Evaluation

FORMAT = 1
TRAIN_COLUMNS = {
    "rollout/score": "score",
    "train/kl": "kl",
    "rollout/ep_len_mean": "length",
    "train/entropy": "entropy",
    "train/policy_loss": "policy_loss",
    "train/value_loss": "value_loss",
    "train/approx_kl": "approx_kl",
    "train/clip_fraction": "clip_fraction",
    "train/explained_variance": "explained_variance",
    "train/ratio_error": "ratio_error",
    "train/kl_coef": "kl_coef",
    "time/rollout_s": "rollout_s",
    "time/score_s": "score_s",
    "time/assign_s": "assign_s",
    "time/update_s": "update_s",
}
"""What train.csv keeps of the learner's log: one row per update."""
PACKAGES = ("tokengym", "torch", "transformers", "gymnasium", "stable-baselines3", "numpy")


class RunRecord:
    """What a run measured so far, and how it is written down.

    Args:
        config: The comparison.
        reward: This run's reward.
        seed: Its seed.
    """

    def __init__(self, config: ComparisonConfig, reward: str, seed: int) -> None:
        self.config = config
        self.reward = reward
        self.seed = seed
        self.curve: list[dict[str, Any]] = []
        self.train: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.started = time.perf_counter()
        self._evaluation_s = 0.0
        self._seen = 0

    def begin(self) -> None:
        """Set the clock of wall_s to 0: models are loaded, training begins."""
        self.started = time.perf_counter()

    def add_update(self, step: int, logged: Mapping[str, Any]) -> None:
        """Keep one row of the learner's log."""
        values = {name: logged.get(key) for key, name in TRAIN_COLUMNS.items()}
        self.train.append({"step": step, **values})

    def add_evaluation(self, step: int, tokens: int, evaluation: "Evaluation") -> None:
        """Keep one point of the curve; training figures are means since the last point."""
        recent, self._seen = self.train[self._seen :], len(self.train)
        point = {
            "credit": self.reward,
            "seed": self.seed,
            "step": step,
            "tokens": tokens,
            "episodes": step * self.config.training.batch_size,
            **evaluation.metrics,
            "train_score": _mean(row["score"] for row in recent),
            "train_kl": _mean(row["kl"] for row in recent),
            "wall_s": round(time.perf_counter() - self.started - self._evaluation_s, 3),
        }
        self.curve.append(point)

    def state(self) -> dict[str, Any]:
        """Return what was measured so far as plain data."""
        return {
            "curve": self.curve,
            "train": self.train,
            "samples": self.samples,
            "seen": self._seen,
            "seconds": time.perf_counter() - self.started - self._evaluation_s,
        }

    def go_on_from(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned, the clock included."""
        self.curve, self.train = list(state["curve"]), list(state["train"])
        self.samples, self._seen = list(state["samples"]), int(state["seen"])
        self.started = time.perf_counter() - float(state["seconds"])

    def add_evaluation_time(self, seconds: float) -> None:
        """Take an evaluation's time off the run's: wall_s is what training took."""
        self._evaluation_s += seconds

    def write(self, out: Path, error: BaseException | None = None) -> None:
        """Write the run's files; run.json, which makes it count, comes last."""
        folder = run_folder(out, self.reward, self.seed)
        write_csv(folder / "curve.csv", self.curve, COLUMNS)
        write_csv(folder / "train.csv", self.train, ["step", *TRAIN_COLUMNS.values()])
        write_jsonl(folder / "episodes.jsonl", self.samples)
        result = {
            "format": FORMAT,
            "credit": self.reward,
            "seed": self.seed,
            "status": "finished" if error is None else "failed",
            "steps_done": len(self.train),
            "wall_s": round(time.perf_counter() - self.started, 3),
            "settings": self.config.as_dict(),
            "versions": versions(),
        }
        if error is not None:
            result["error"] = describe(error)
            result["traceback"] = "".join(traceback.format_exception(error))
            kept = getattr(error, "episodes", ())  # of a scorer that failed
            if kept:
                write_jsonl(folder / "unscored.jsonl", map(episode_to_record, kept))
        write_json(folder / "run.json", result)


def record_failure(config: ComparisonConfig, out: Path, run: tuple[str, int], error: str) -> None:
    """Write down as failed a run that left no result of its own."""
    write_json(
        run_folder(out, *run) / "run.json",
        {
            "credit": run[0],
            "seed": run[1],
            "status": "failed",
            "error": error,
            "settings": config.as_dict(),
        },
    )


def versions() -> dict[str, str]:
    """Return the versions that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def describe(error: BaseException) -> str:
    """Return an error in one line."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _mean(values: Any) -> float | None:
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else None
