import torch

from tokengym.agents.fast.joining import joined_masks
from tokengym.agents.policy.sampling import packed
from tokengym.agents.policy.sequences import ActionMasks


def test_packed_masks_of_several_rounds_are_joined():
    generator = torch.Generator().manual_seed(0)
    masks = [torch.rand(count, 13, generator=generator) < 0.5 for count in (2, 3)]
    parts = [
        ActionMasks(table=packed(m), index=torch.arange(len(m)).view(1, -1), vocab_size=13)
        for m in masks
    ]
    joined = joined_masks(parts, [1, 1], 3)
    for row, part in enumerate(masks):
        times = torch.arange(len(part))
        places = torch.full_like(times, row), times
        assert joined.at(*places).tolist() == part.tolist()
        assert joined.at(*places, allowed=False).tolist() == (~part).tolist()
        assert joined.select(torch.tensor([row])).at(0 * times, times).tolist() == part.tolist()


def test_one_mask_of_several_rounds_still_forbids_by_columns():
    table = torch.ones(1, 40).bool()
    table[0, 3] = False
    part = ActionMasks(table=table, index=torch.zeros(2, 5).long())
    joined = joined_masks([part, part], [2, 2], 5)
    assert joined.columns.tolist() == [3]
