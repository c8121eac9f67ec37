"""Costs of steps and of ends are told apart, on a clock by hand."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.mark.parametrize("horizon", [2, 4, 8])
def test_a_step_costs_the_same_however_often_episodes_end(
    horizon: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(FOLDER))
    step_speed = importlib.import_module("step_speed")
    clock, played = [0.0], []

    class Envs:
        """Two rows; a step takes 1 s, the last one 5 s and the reset after it 20 s."""

        steps = 0

        def reset(self, *, seed: int) -> None:
            assert seed == 0

        def step(self, tokens: np.ndarray) -> Any:
            self.steps = 0 if self.steps == horizon else self.steps + 1
            if self.steps:
                played.append(tokens.tolist())
            clock[0] += {0: 20.0, horizon: 5.0}.get(self.steps, 1.0)
            over = np.full(2, self.steps == horizon)
            return None, None, np.zeros(2, bool), over, {}

    monkeypatch.setattr(step_speed, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    actions = np.arange(32).reshape(16, 2)
    arms = {"arm": step_speed.length_arm(Envs(), actions, horizon)}
    assert step_speed.interleaved(arms, 3)["arm"].tolist() == [1.0, 25.0]
    assert played == actions.tolist() * 4  # once to warm up
    with pytest.raises(AssertionError, match=f"after {horizon // 2} steps"):
        step_speed.length_arm(Envs(), actions, horizon // 2)()
