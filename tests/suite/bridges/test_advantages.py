"""Advantages by prompt: by hand, in any order of rows, and for groups of any size."""

from math import comb
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tokengym.agents.losses.advantages import leave_one_out
from tokengym.base.errors import SettingsError
from tokengym.bridges.advantages import token_advantages
from tokengym.bridges.registries import registered

REWARDS = torch.tensor([[1.0, 2.0, 0.0], [0.0, 4.0, 3.0], [5.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1]]).bool()


def estimate(*rows: Any, advantage: str = "loo", **named: Any) -> Any:
    """Call an advantage as SkyRL does."""
    return registered(advantage, "skyrl")(*rows, **named)


def test_a_group_has_the_baseline_of_its_other_rows():
    found = token_advantages(REWARDS, MASK, ["a", "a", "a", "b"])
    # Rewards to go: (3, 2), (7, 7, 3), (5). Where no other row is alive there is no baseline.
    expected = [[3 - 6, 2 - 7, 0], [7 - 4, 7 - 2, 3], [5 - 5, 0, 0], [0, 0, 0]]
    assert found.tolist() == expected


def test_rows_that_are_padded_on_the_left_are_compared_token_by_token():
    """SkyRL's layout. By columns the baseline would know how long the row itself has become."""
    rewards = torch.tensor([[0.0, 1.0, 2.0], [0.0, 4.0, 3.0], [0.0, 0.0, 5.0]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1]]).bool()
    found = token_advantages(rewards, mask, ["a", "a", "a"])
    assert found.tolist() == [[0, 3 - 6, 2 - 7], [7 - 4, 7 - 2, 3], [0, 0, 5 - 5]]


@pytest.mark.parametrize("is_padded_left", [False, True])
@pytest.mark.parametrize(("last", "gradient"), [(0.75, 0.0625), (0.5, 0.0)])
def test_leave_one_out_is_unbiased_however_rows_are_padded(last, gradient, is_padded_left):
    """All groups of 8 that stop (1) or go on (0.5 and then `last`) with probability 1/2 each.

    d J / d logit of going on = p (1 - p) (0.5 + last - 1)
    """
    long, stop = [0.5, last], [0.0, 1.0] if is_padded_left else [1.0, 0.0]
    mask_of_stop = [not is_padded_left, is_padded_left]
    found = 0.0
    for count in range(9):  # rows that go on
        rewards = torch.tensor([long] * count + [stop] * (8 - count))
        mask = torch.tensor([[True, True]] * count + [mask_of_stop] * (8 - count))
        advantages = token_advantages(rewards, mask, ["a"] * 8)
        went_on = advantages[:count, 0].sum()
        stopped = advantages[count:, int(is_padded_left)].sum()
        found += comb(8, count) / 2**8 * 0.5 * float(went_on - stopped) / 8
    assert found == pytest.approx(gradient, abs=1e-7)


def test_rows_that_read_a_tools_answer_are_alive():
    """At what a row did not write, its reward to go is that of its next own token."""
    mask = torch.tensor([[1, 1, 0, 0, 1, 1], [1, 0, 0, 1, 1, 1], [1, 0, 1, 0, 0, 0]]).bool()
    rewards = torch.zeros(3, 6)
    rewards[[0, 1, 2], [5, 5, 2]] = torch.tensor([1.0, 1.0, 4.0])
    alike = token_advantages(rewards[:2], mask[:2], ["a", "a"])
    assert not alike.any()  # both are worth 1 wherever they are
    found = token_advantages(rewards, mask, ["a"] * 3)
    first = 1 - (1 + 4) / 2  # the third row is over after its third token
    assert found.tolist() == [
        [first, first, 0, 0, 0, 0],
        [first, 0, 0, 0, 0, 0],
        [3, 0, 3, 0, 0, 0],
    ]


def test_a_row_whose_peers_have_no_score_has_no_baseline_either():
    mask = MASK & torch.tensor([[True], [False], [True], [True]])
    assert token_advantages(REWARDS, mask, ["a", "a", "b", "b"])[:2].tolist() == [[0, 0, 0]] * 2


def test_rows_may_come_in_any_order():
    order = [2, 3, 0, 1]
    names = ["x", "y", "x", "y"]
    moved = token_advantages(REWARDS[order], MASK[order], [names[row] for row in order])
    assert torch.equal(moved, token_advantages(REWARDS, MASK, names)[order])
    whole = token_advantages(REWARDS, MASK, [0, 0, 1, 1])
    assert torch.equal(whole, leave_one_out(REWARDS, MASK, 2))


def test_without_a_baseline_the_reward_to_go_is_the_advantage():
    found = token_advantages(REWARDS, MASK, range(4), "reinforce")
    assert found.tolist() == [[3, 2, 0], [7, 7, 3], [5, 0, 0], [3, 2, 1]]


def test_one_response_to_each_prompt_is_refused_where_nothing_would_be_learned():
    uids = np.array([*"abcd"], dtype=object)
    with pytest.raises(SettingsError, match=r"none of 4.*'reinforce'"):
        estimate(REWARDS, MASK, uids)
    assert estimate(REWARDS, MASK, uids, advantage="reinforce")[0].any()
    # What filters have left of groups has no baseline, and is no fault of the settings.
    kept = torch.tensor([[True], [False], [True], [False]])
    assert not estimate(REWARDS, MASK & kept, [*"aabb"])[0].any()
    assert not estimate(REWARDS[:1], MASK[:1], uids[:1])[0].any()


@pytest.mark.parametrize(
    "given",
    [
        {"gamma": 0.5, "lambd": 1.0, "config": None},  # SkyRL's call
        {"config": SimpleNamespace(gamma=0.5)},
        {"config": {"gamma": 0.5}},  # verl's settings are a mapping
    ],
)
def test_the_trainers_discount_is_that_of_the_rewards_to_go(given):
    found, _ = estimate(REWARDS, MASK, [*"aabb"], advantage="reinforce", **given)
    to_go = [[2, 2, 0], [2.75, 5.5, 3], [5, 0, 0], [1.75, 1.5, 1]]
    assert found.tolist() == to_go
    found, _ = estimate(REWARDS, MASK, [*"aabb"], **given)
    assert found[:2].tolist() == [[2 - 2.75, 2 - 5.5, 0], [2.75 - 2, 5.5 - 2, 3]]


def test_rows_that_a_trainer_excludes_are_nobodys_baseline():
    """SkyRL's derivatives name rows that failed for no fault of the policy's."""
    excluded = np.array([False, False, True, False])
    found, _ = estimate(REWARDS, MASK, [*"aaab"], exclude_from_baseline=excluded)
    assert found.tolist() == [[3 - 7, 2 - 7, 0], [7 - 3, 7 - 2, 3], [0, 0, 0], [0, 0, 0]]
    failed = REWARDS.clone()
    failed[2] = torch.nan  # a row that failed may have no score
    again, _ = estimate(failed, MASK, [*"aaab"], exclude_from_baseline=excluded)
    assert torch.equal(again, found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"response_mask": MASK[0]}, r"\(batch, time\)"),
        ({"index": [*"aa"]}, "each of 4 rows"),
        ({"index": None}, r"uid.*prompt"),
        ({"exclude_from_baseline": [True]}, r"exclude_from_baseline.*\(4,\)"),
        ({"gamma": 1.5}, r"gamma.*got 1\.5"),
        ({"advantage": "grpo"}, "'grpo' sums token rewards"),
        ({"token_level_rewards": REWARDS / 0}, "finite.*nan in row 0 at token 2|inf in row 0"),
    ],
)
def test_rows_and_settings_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    rows = {"token_level_rewards": REWARDS, "response_mask": MASK, "index": [*"aaab"], **changes}
    with pytest.raises(ValueError, match=message):
        estimate(**rows)
