"""RTO's token rewards with transformers alone."""

from collections.abc import Sequence
from typing import Any

import torch


def by_hand(model: Any, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
    """Return log pi of each token, each from a forward over the text before it."""
    found = []
    model.eval()
    for t, token in enumerate(response):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *response[:t]]])).logits[0, -1].double()
        found.append(float(logits[token] - logits.exp().sum().log()))
    return found
