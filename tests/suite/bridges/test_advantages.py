"""Advantages by prompt: by hand, in any order of rows, and for groups of any size."""

import pytest
import torch

from tokengym.agents.losses.advantages import leave_one_out
from tokengym.base.errors import SettingsError
from tokengym.bridges.advantages import estimate, token_advantages

REWARDS = torch.tensor([[1.0, 2.0, 0.0], [0.0, 4.0, 3.0], [5.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1]]).bool()


def test_a_group_has_the_baseline_of_its_other_rows() -> None:
    found = token_advantages(REWARDS, MASK, ["a", "a", "a", "b"])
    # Rewards to go: (3, 2), (7, 7, 3), (5). Where no other row is alive there is no baseline.
    expected = [[3 - 6, 2 - 7, 0], [7 - 4, 7 - 2, 3], [5 - 5, 0, 0], [0, 0, 0]]
    assert found.tolist() == expected


def test_a_row_whose_peers_have_no_score_has_no_baseline_either() -> None:
    mask = MASK & torch.tensor([[True], [False], [True], [True]])
    assert token_advantages(REWARDS, mask, ["a", "a", "b", "b"])[:2].tolist() == [[0, 0, 0]] * 2


def test_rows_may_come_in_any_order() -> None:
    order = [2, 3, 0, 1]
    names = ["x", "y", "x", "y"]
    moved = token_advantages(REWARDS[order], MASK[order], [names[row] for row in order])
    assert torch.equal(moved, token_advantages(REWARDS, MASK, names)[order])
    whole = token_advantages(REWARDS, MASK, [0, 0, 1, 1])
    assert torch.equal(whole, leave_one_out(REWARDS, MASK, 2))


def test_without_a_baseline_the_reward_to_go_is_the_advantage() -> None:
    found = token_advantages(REWARDS, MASK, range(4), "reinforce")
    assert found.tolist() == [[3, 2, 0], [7, 7, 3], [5, 0, 0], [3, 2, 1]]


@pytest.mark.parametrize("estimator", ["grpo", "opo"])
def test_an_estimator_that_sums_is_named(estimator: str) -> None:
    with pytest.raises(SettingsError, match=f"'{estimator}' sums token rewards"):
        token_advantages(REWARDS, MASK, range(4), estimator)


def test_leave_one_out_needs_to_know_the_prompts() -> None:
    with pytest.raises(SettingsError, match="needs the uid of each row's prompt"):
        estimate(REWARDS, MASK)
