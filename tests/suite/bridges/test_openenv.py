"""OpenEnv's step rewards, by the interface of `TrajectoryRubric` in openenv 0.10.0."""

from typing import Any

import pytest

from tokengym.base.errors import SettingsError
from tokengym.bridges.openenv import ConservesScore, step_shares


class TrajectoryRubric:
    """OpenEnv's base, as far as step rewards are concerned."""

    def __init__(self, intermediate_reward: float = 0.0) -> None:
        self.intermediate_reward = intermediate_reward
        self._trajectory: list[Any] = []

    @property
    def trajectory(self) -> list[Any]:
        return list(self._trajectory)

    def state_dict(self) -> dict[str, Any]:
        return {"intermediate_reward": self.intermediate_reward}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.intermediate_reward = state["intermediate_reward"]


class Won(ConservesScore, TrajectoryRubric):  # type: ignore[misc]
    def score_trajectory(self, trajectory: list[Any]) -> float:
        return 2.0 * len(trajectory)


@pytest.mark.parametrize("count", [1, 5, 20])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99, 1.0])
def test_a_success_is_paid_once_however_long_it_took(count, gamma):
    shares = step_shares(1.0, count, gamma)
    assert sum(shares) == pytest.approx(1.0)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0 if gamma == 0.0 else shares[0] / gamma ** (count - 1))


def test_a_rubric_pays_its_own_score():
    rubric = Won(gamma=0.5, intermediate_reward=0.1)
    assert rubric.compute_step_rewards() == []
    rubric._trajectory = [("a", "o")] * 2
    assert rubric.compute_step_rewards() == pytest.approx([4.0 / 3, 8.0 / 3])
    other = Won()
    other.load_state_dict(rubric.state_dict())
    assert (other.gamma, other.intermediate_reward) == (0.5, 0.1)
    with pytest.raises(SettingsError, match="gamma must be"):
        Won(gamma=1.5)
