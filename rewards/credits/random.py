"""A control: the score in random parts."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from tokengym.base.settings import check_count
from tokengym.rewards.credits.token_credit import token_credit
from tokengym.rewards.errors import CreditError
from tokengym.rewards.maths.redistribution import dirichlet_weights

if TYPE_CHECKING:
    from torch import Tensor


def _check(options: SimpleNamespace) -> None:
    check_count(options, "seed", least=0, error=CreditError)


@token_credit(control=True, check=_check)
def random(
    paid: Tensor, response_mask: Tensor, row_seeds: Sequence[Sequence[int]], seed: int = 0
) -> Tensor:
    """Each token earns a random part of the score, whatever it says.

    The parts are drawn from a seed and the episode's own ids: the same episode always gets the same
    weights, in any batch and process. A rule that does not beat this one shows the effect of
    density, not of finding the right tokens.

    Args:
        paid: R.
        response_mask: The tokens.
        row_seeds: What the draw of each row depends on.
        seed: Changes the draw of every episode.
    """
    weights = np.zeros(response_mask.shape)
    for row, size in enumerate(response_mask.sum(1).tolist()):
        weights[row, :size] = dirichlet_weights(size, [seed, *row_seeds[row]])
    return paid[:, None] * paid.new_tensor(weights)
