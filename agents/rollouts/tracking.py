"""Where a run can be watched: TensorBoard, Weights & Biases, MLflow and Trackio by name.

Each is an output format of Stable-Baselines3's logger, so that it also serves any agent:
``agent.set_logger(Logger(None, [make_tracker("wandb", folder, name="try")]))``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from stable_baselines3.common.logger import KVWriter, TensorBoardOutputFormat

from tokengym.envs.errors import SettingsError

PROJECT = "tokengym"


class _Tracker(KVWriter):
    """Base of output formats that pass numbers on to a tracking library."""

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        """Pass on the numbers of a row."""
        del key_excluded
        numbers = (int, float, np.integer, np.floating)
        row = {k: float(v) for k, v in key_values.items() if isinstance(v, numbers)}
        if row:
            self.log(row, step)

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Pass on a row of numbers."""
        raise NotImplementedError


class WandbTracker(_Tracker):
    """Logs to Weights & Biases, or to Trackio, which has the same functions.

    Args:
        library: The module.
        name: Name of the run.
        config: Settings shown beside it.
    """

    def __init__(self, library: ModuleType, name: str, config: Mapping[str, Any]) -> None:
        self.library = library
        library.init(project=PROJECT, name=name, config=dict(config))

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Pass on a row of numbers."""
        self.library.log(dict(row), step=step)

    def close(self) -> None:
        """End the run."""
        self.library.finish()


class MLflowTracker(_Tracker):
    """Logs to MLflow, where MLFLOW_TRACKING_URI says.

    Args:
        library: The module.
        name: Name of the run.
        config: Settings shown beside it.
    """

    def __init__(self, library: ModuleType, name: str, config: Mapping[str, Any]) -> None:
        self.library = library
        library.set_experiment(PROJECT)
        library.start_run(run_name=name)
        library.log_params({key: str(value)[:500] for key, value in config.items()})

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Pass on a row of numbers."""
        self.library.log_metrics(dict(row), step=step)

    def close(self) -> None:
        """End the run."""
        self.library.end_run()


@dataclass(frozen=True)
class _Entry:
    library: str
    """Module that must be installed; the extra has the tracker's name."""
    make: Callable[[ModuleType, str, Mapping[str, Any]], KVWriter] | None
    """None: Stable-Baselines3 has it."""


TRACKERS = {
    "tensorboard": _Entry("tensorboard", None),
    "wandb": _Entry("wandb", WandbTracker),
    "mlflow": _Entry("mlflow", MLflowTracker),
    "trackio": _Entry("trackio", WandbTracker),
}


def check_tracker(track: str | None) -> None:
    """Refuse a tracker that is unknown or not installed; None passes.

    Raises:
        SettingsError: naming the extra to install.
    """
    if track is None:
        return
    if track not in TRACKERS:
        raise SettingsError(f"track must be one of {', '.join(TRACKERS)}, got {track!r}")
    if find_spec(TRACKERS[track].library) is None:
        raise SettingsError(
            f"track={track!r} needs {TRACKERS[track].library}; pip install 'tokengym[{track}]'"
        )


def make_tracker(
    track: str, folder: Path, *, name: str, config: Mapping[str, Any] | None = None
) -> KVWriter:
    """Begin a run of a tracker.

    Args:
        track: Name of the tracker.
        folder: Folder of TensorBoard's files; the others keep theirs where they are told to.
        name: Name of the run.
        config: Settings shown beside it, by name.

    Raises:
        SettingsError: if the tracker is unknown, not installed, or cannot begin a run.
    """
    check_tracker(track)
    entry = TRACKERS[track]
    if entry.make is None:
        return TensorBoardOutputFormat(str(folder / "tensorboard"))
    try:
        return entry.make(import_module(entry.library), name, config or {})
    except Exception as error:  # a service that is not reached, a store that it will not write to
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SettingsError(
            f"track={track!r} cannot begin a run ({reason}); change its settings or leave track out"
        ) from error
