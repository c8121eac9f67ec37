"""A scripted agent, and the ways in which it is played."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.agents.common import EOS, TARGET

MODES = ("NextStep", "SameStep", "Disabled")


class Scripted:
    """Ends row i after i + 1 tokens: rows of every length up to the horizon."""

    def __init__(self) -> None:
        self.steps = 0

    def predict(
        self, observation: Any, state: Any, episode_start: NDArray[np.bool_], deterministic: bool
    ) -> Any:
        self.steps = 0 if episode_start.any() else self.steps + 1
        rows = np.arange(len(observation["input_ids"]))
        return np.where(rows <= self.steps, EOS, TARGET), state
