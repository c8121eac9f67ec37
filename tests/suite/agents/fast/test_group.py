import torch

from tokengym.agents.fast.group import joined_masks
from tokengym.agents.policy.sequences import ActionMasks


def test_masks_of_several_rounds_are_those_of_one():
    """By hand: two masks in one order and in the other, and a round that allows all."""
    first, second = [True, False, True], [True, True, False]
    one = ActionMasks(table=torch.tensor([first, second]), index=torch.tensor([[0, 1]]))
    other = ActionMasks(table=torch.tensor([second, first]), index=torch.tensor([[0, 1, 1]]))
    joined = joined_masks([one, None, other], [1, 1, 1], 3)
    assert len(joined.table) == 3
    rows, times = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 2, 0, 1, 2])
    assert joined.at(rows, times).tolist() == [first, second, [True] * 3, second, first, first]
    assert joined.select(torch.tensor([2])).at(0 * times[:1], times[:1]).tolist() == [second]


def test_one_mask_of_several_rounds_still_forbids_by_columns():
    table = torch.ones(1, 40).bool()
    table[0, 3] = False
    part = ActionMasks(table=table, index=torch.zeros(2, 5).long())
    joined = joined_masks([part, part], [2, 2], 5)
    assert joined.columns.tolist() == [3]
