"""How a comparison listens to a Stable-Baselines3 learner."""

from collections.abc import Callable
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter


class Recorder(BaseCallback):
    """Measures the policy every few updates, at the start and the end, and ends the training.

    Args:
        steps: Updates to make.
        every: Updates between two measurements.
        measure: Called with the number of updates made.
        done: Updates made before, by a run that this one goes on from.
        measured: Whether the policy was measured after them.
    """

    def __init__(
        self,
        steps: int,
        every: int,
        measure: Callable[[int], None],
        *,
        done: int = 0,
        measured: bool = False,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.every = every
        self.measure = measure
        self.updates = done
        self._known = done if measured else None

    def _on_rollout_start(self) -> None:
        if self.updates == self._known:
            return
        if self.updates % self.every == 0 or self.updates == self.steps:
            self.measure(self.updates)

    def _on_rollout_end(self) -> None:
        self.updates += 1

    def _on_step(self) -> bool:
        return self.updates < self.steps


class LogRows(KVWriter):
    """Hands each row that the learner logs on.

    Args:
        keep: Called with the number of the update and the row.
        rows: Rows that were logged before.
    """

    def __init__(self, keep: Callable[[int, dict[str, Any]], None], rows: int = 0) -> None:
        self.keep = keep
        self.rows = rows

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        """Keep a row."""
        del key_excluded, step
        self.rows += 1
        self.keep(self.rows, key_values)

    def close(self) -> None:
        """Nothing is open."""
