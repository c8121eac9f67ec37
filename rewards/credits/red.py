"""RED: each token earns what it added to the score of the text so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokengym.rewards.credits.token_credit import token_credit

if TYPE_CHECKING:
    from torch import Tensor


# Single increments say what a token is worth; a sum of later ones is mostly noise.
@token_credit(
    parts=True,
    causal=True,
    gae_lambda=lambda beta: 0.5 if beta == 1.0 else None,
)
def red(prefix_scores: Tensor) -> Tensor:
    """Each token earns what it added to the score of the text so far.

    r_t = beta * (R(x, y_<=t) - R(x, y_<t)), and the last token gets what is left of R: the score
    of the empty response and, below beta = 1, the sparse reward's share. A causal reward model
    gives every prefix's score in one pass, by its scores at every position. The whole score in
    increments of single tokens suits a lambda of 0.5 (docs/results/earlier.md). A scorer without
    such scores is asked of each prefix as a text of its own.

    Whoever calls ``step`` is paid token by token, for which the text so far is scored again at
    every step. Learners of this package read the finished episode and save that.

    Source: Li et al. 2024, arXiv:2411.08302; potential-based shaping: Ng, Harada & Russell 1999.
    """
    return prefix_scores.diff(dim=1)
