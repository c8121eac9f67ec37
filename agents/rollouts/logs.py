"""Logs of a run: its episodes in a file, and trackers by name.

Each is an output format of Stable-Baselines3's logger, so that it also serves any agent:
``agent.set_logger(Logger(None, [make_tracker("wandb", folder, name="try")]))``.
"""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import KVWriter, TensorBoardOutputFormat

from tokengym.base.errors import SettingsError, reason_of
from tokengym.base.files import behind_link, replacing
from tokengym.rewards import RewardError


class EpisodeLog(BaseCallback):
    """Appends every episode of the training to a file, one JSON object a line.

    A line has ``timestep``, ``update`` and ``row``, and the episode as
    `Episode.to_record` writes it, ``log_probs`` (as sampled, nats) included: enough
    for ``tokengym replay`` to score it under every credit. Each line is written whole when its
    round has ended: a killed run leaves no partial line. Where the scorer
    fails, the round's finished episodes are written with the ``error``; those that it failed on
    have no score.

    Args:
        path: The file; made with its folders. An existing one is continued: lines past the agent's
            own timestep, which it plays again after a resume, go when the training begins.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._file: TextIO | None = None

    def _on_training_start(self) -> None:
        if not self.model.processes.is_main:  # type: ignore[attr-defined]
            return
        if self.path.exists():
            with (
                self.path.open(encoding="utf-8") as lines,
                replacing(behind_link(self.path)) as part,
            ):
                kept = (
                    line for line in lines if json.loads(line)["timestep"] <= self.num_timesteps
                )
                part.write_text("".join(kept), encoding="utf-8")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        """Write the round that `EpisodicAlgorithm.collect` has just played."""
        if self._file is None:
            return
        played: Any = self.model.last_round  # type: ignore[attr-defined]
        log_probs = None if played.log_probs is None else played.log_probs.cpu().tolist()
        timestep = self.model.num_timesteps  # the other processes' tokens included
        for row, episode in enumerate(played.episodes):
            of_row = None if log_probs is None else log_probs[row][: len(episode.response_ids)]
            moment = {"timestep": timestep, "update": self.model._n_updates, "row": row}
            line = moment | episode.to_record() | {"log_probs": of_row}
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def write_failed(self, error: RewardError) -> None:
        """Write the episodes that an error keeps."""
        if self._file is None:
            return
        moment = {"timestep": self.num_timesteps, "update": self.model._n_updates}
        for episode in error.episodes:
            line = moment | episode.to_record() | {"error": str(error)}
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def _on_training_end(self) -> None:
        if self._file is not None:
            self._file.close()


def write_failed_round(callback: BaseCallback | None, error: RewardError) -> None:
    """Have every `EpisodeLog` among the callbacks write the episodes that an error keeps."""
    if isinstance(callback, CallbackList):
        for part in callback.callbacks:
            write_failed_round(part, error)
    elif isinstance(callback, EpisodeLog):
        callback.write_failed(error)


PROJECT = "tokengym"


class Tracked(KVWriter):
    """Passes the numbers of each row on to a tracker of accelerate that has begun."""

    def __init__(self, tracker: GeneralTracker) -> None:
        self.tracker = tracker

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
            self.tracker.log(row, step)

    def close(self) -> None:
        """End the run."""
        self.tracker.finish()


TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
"""Trackers by name, which is also that of the module they need and of the extra."""


def check_tracker(track: str | None, given: str = "") -> None:
    """Refuse a tracker that is unknown or not installed; None passes.

    Args:
        track: Name of the tracker.
        given: What asked for it, for the message; ``track=...`` by default.
    """
    if track is None:
        return
    if track not in TRACKERS:
        raise SettingsError(f"track must be one of {', '.join(TRACKERS)}, got {track!r}")
    if find_spec(track) is None:
        asked = given or f"track={track!r}"
        raise SettingsError(f"{asked} needs {track}; pip install 'tokengym[{track}]'")


def make_tracker(
    track: str, folder: Path, *, name: str, config: Mapping[str, Any] | None = None
) -> KVWriter:
    """Begin a run of a tracker.

    Args:
        track: Name of the tracker.
        folder: Folder of TensorBoard's files; the others keep theirs where they are told to.
        name: Name of the run.
        config: Settings shown beside it, by name.
    """
    check_tracker(track)
    if track == "tensorboard":
        return TensorBoardOutputFormat(str(folder / "tensorboard"))
    settings = dict(config or {})
    is_mlflow = track == "mlflow"  # which names a run otherwise, and takes settings once it runs
    begun = {"run_name": name} if is_mlflow else {"name": name, "config": settings}
    PartialState()  # by which the trackers know that this is the process that logs
    try:
        tracker = LOGGER_TYPE_TO_CLASS[track](PROJECT, **begun)
        tracker.start()
        if is_mlflow:
            tracker.store_init_configuration(settings)
        return Tracked(tracker)
    except Exception as error:  # a service that is not reached, a store that it will not write to
        reason = reason_of(error)
        raise SettingsError(
            f"track={track!r} cannot begin a run ({reason}); change its settings or leave track out"
        ) from error
