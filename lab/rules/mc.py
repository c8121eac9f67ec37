"""Monte Carlo credit: what each token changed in the score that the policy goes on to reach."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch

from tokengym.base import check_count
from tokengym.rewards import CreditError, held, token_credit

if TYPE_CHECKING:
    from torch import Tensor

MAX_K = 1_024
"""Most continuations of one prefix."""


def _check(options: SimpleNamespace) -> None:
    check_count(options, "k", most=MAX_K, hint="the paper uses 9", error=CreditError)


# With beta < 1 a part of the score is paid on the last token: these rewards are no advantages.
@token_credit(gae_lambda=lambda beta: 0.0 if beta == 1.0 else None, check=_check)
def mc(
    continue_from: Callable[[int, Tensor], Tensor],
    positions: Tensor,
    segment_ends: Tensor,
    k: int = 9,
) -> Tensor:
    """Each token earns what it added to the score that is to come, found by finishing texts anew.

    r_0 = V(y_<=0);   r_t = V(y_<=t) - V(y_<t)

    V of a prefix is the mean score of k continuations by the policy that learns; V of the whole
    response is its score, so the rewards sum to it. In expectation r_t is the token's advantage.
    The first token's also contains the value of the prompt: this is the baseline of the reward to
    go, equal for all responses to a prompt, and paid there it reaches no later token. It needs no
    continuations from the prompt, which would be the longest. The paper's estimator of advantages
    from these rewards is ``PPO(advantage="vineppo")``, which takes the batch's mean off the first.

    A response of n tokens costs k * (n - 1) continuations, or k * (segments - 1); the paper's
    segments are the steps of a reasoning. Learners of this package bind their policy at the start
    of every round and count the continuations as sampled tokens.

    Args:
        continue_from: V: the mean score of k continuations, and R behind the last token.
        positions: t.
        segment_ends: What V is asked after, with ``segments`` or ``cut``.
        k: Continuations of each prefix, at most `MAX_K`; the paper uses 9.

    Source: Kazemnejad et al. 2024, "VinePPO: Refining Credit Assignment in RL Training of LLMs",
    arXiv:2410.01679.
    """
    ends = segment_ends == positions
    values = continue_from(k, ends)
    return held(torch.nn.functional.pad(values, (1, 0)), ends).diff(dim=1)
