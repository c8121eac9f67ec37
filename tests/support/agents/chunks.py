"""Texts of unequal length, and masks of their rows."""

import torch

from tests.support.agents.common import VOCABULARY
from tokengym.agents.policy.sampling import packed
from tokengym.agents.policy.sequences import ActionMasks

TEXTS = [[3, 4], [5], [6, 7, 3]], [[5, 6, 7, 3], [4, 1], [3, 3, 4, 5, 6]]


def masks_of(kind: str) -> ActionMasks | None:
    """No mask, one for all, or one of several per token."""
    lengths = [len(response) for response in TEXTS[1]]
    table = torch.ones(1 if kind == "one" else 2, VOCABULARY, dtype=torch.bool)
    table[0, 0] = table[-1, 2] = False
    index = torch.arange(3 * max(lengths)).view(3, -1) % len(table)
    if kind == "packed":  # a mask for each token, as top-k leaves them
        table, index = table.repeat(20, 1), torch.arange(index.numel()).view(index.shape)
        return ActionMasks(table=packed(table), index=index, vocab_size=VOCABULARY)
    return None if kind == "none" else ActionMasks(table=table, index=index)
