"""Progress of a training in Stable-Baselines3: its progress bar, and the last row of its log."""

from typing import Any

from stable_baselines3.common.callbacks import ProgressBarCallback
from stable_baselines3.common.logger import KVWriter


class LastLogRow(KVWriter):
    """Keeps the last row of the log until it is taken."""

    def __init__(self) -> None:
        self._row: dict[str, Any] = {}

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        """See `KVWriter`."""
        del key_excluded, step
        self._row = dict(key_values)

    def take(self) -> dict[str, Any]:
        """Return the row; {} if none was written since the last call."""
        row, self._row = self._row, {}
        return row

    def close(self) -> None:
        """See `KVWriter`."""


class TokenProgressBar(ProgressBarCallback):
    """SB3's progress bar, advanced by the tokens sampled rather than by the rows stepped."""

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._shown = self.model.num_timesteps

    def _on_step(self) -> bool:
        self.pbar.update(self.model.num_timesteps - self._shown)
        self._shown = self.model.num_timesteps
        return True
