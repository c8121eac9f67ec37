"""OpenEnv: its own rubric of trajectories, whose steps sum to the score."""

from typing import Any

import pytest
from openenv.core.rubrics import ExponentialDiscountingTrajectoryRubric, TrajectoryRubric

from tokengym.bridges.openenv import ConservesScore


class Won(ConservesScore, TrajectoryRubric):
    """A success of 2."""

    def score_trajectory(self, trajectory: list[Any]) -> float:
        """Return 2."""
        return 2.0


class Discounted(ExponentialDiscountingTrajectoryRubric):
    """OpenEnv's own."""

    def score_trajectory(self, trajectory: list[Any]) -> float:
        """Return 1."""
        return 1.0


class Seen:
    """An observation, done at the end."""

    def __init__(self, done: bool) -> None:
        self.done = done
        self.metadata: dict[str, Any] = {}


def test_a_success_is_paid_once_where_openenv_pays_it_each_step() -> None:
    rubric, theirs = Won(gamma=0.5), Discounted(gamma=0.99)
    for step in range(3):
        rubric("act", Seen(step == 2))
    for step in range(20):
        theirs("act", Seen(step == 19))
    assert rubric.compute_step_rewards() == pytest.approx([2 / 7, 4 / 7, 8 / 7])
    assert sum(theirs.compute_step_rewards()) == pytest.approx((1 - 0.99**20) / 0.01)  # 18.2
    other = Won()
    other.load_state_dict(rubric.state_dict())
    assert other.gamma == 0.5
