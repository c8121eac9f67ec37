"""Step rewards in OpenEnv that add up to the episode's score.

OpenEnv's own rubric pays step t of T steps gamma ** (T - 1 - t) times the score: a success of 1 in
20 turns is paid 20 times at gamma 1 and 18.2 times at 0.99, so that longer episodes earn more.

    class WonRubric(ConservesScore, TrajectoryRubric):
        def score_trajectory(self, trajectory):
            return float(trajectory[-1][1].metadata["won"])

    rubric = WonRubric(gamma=0.9)

Run with openenv 0.10.0: `make test-doors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokengym.base.settings import check_number


def step_shares(score: float, count: int, gamma: float = 1.0) -> list[float]:
    """Return what each step of an episode earns; the sum is the score.

    r_t = R gamma^(T-1-t) / sum over s of gamma^(T-1-s);  0 pays the last step, 1 all alike

    Args:
        score: The episode's score R.
        count: Steps T.
        gamma: Weight of a step against the one after it, in [0, 1].

    Example:
        >>> step_shares(1.0, 3, 0.5)  # in proportion 1 : 2 : 4
        [0.14285714285714285, 0.2857142857142857, 0.5714285714285714]
    """
    weights = [gamma ** (count - 1 - step) for step in range(count)]
    return [score * weight / sum(weights) for weight in weights]


class ConservesScore:
    """Mixin of an OpenEnv ``TrajectoryRubric``: its step rewards sum to ``score_trajectory``.

    Args:
        gamma: See `step_shares`.
        others: Arguments of the rubric.

    Raises:
        SettingsError: if gamma is not in [0, 1].
    """

    trajectory: Sequence[Any]
    """OpenEnv's (action, observation) of each step."""

    def __init__(self, gamma: float = 1.0, **others: Any) -> None:
        super().__init__(**others)
        self.gamma = gamma
        check_number(self, "gamma", least=0.0, most=1.0)

    def compute_step_rewards(self) -> list[float]:
        """Return the reward of each step; none before the first."""
        steps = list(self.trajectory)
        rubric: Any = self
        return step_shares(rubric.score_trajectory(steps), len(steps), self.gamma) if steps else []

    def state_dict(self) -> dict[str, Any]:
        """Return the rubric's configuration."""
        state: dict[str, Any] = super().state_dict()  # type: ignore[misc]
        return {**state, "gamma": self.gamma}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        super().load_state_dict(state)  # type: ignore[misc]
        self.gamma = state.get("gamma", self.gamma)
