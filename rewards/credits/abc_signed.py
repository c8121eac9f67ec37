"""ABC with a sign: attention times the direction in which each token moves the score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokengym.rewards.credits.token_credit import token_credit
from tokengym.rewards.maths.tokens import rescaled, rest_on_last

if TYPE_CHECKING:
    from torch import Tensor


# docs/results/earlier.md: a share says what its token is worth, later ones are noise to it.
@token_credit(gae_lambda=lambda beta: 0.5 if beta == 1.0 else None)
def abc_signed(
    paid: Tensor, signed_attention: Tensor, response_mask: Tensor, rescale: bool = True
) -> Tensor:
    """Each token earns what the reward model's attention says it did to the score, good or bad.

    a_t = sum_h alpha_ht * (v_ht . dR/do_h): head h of the last layer takes alpha_ht of token t's
    value vector v_ht into its output o_h at the last position, and dR/do_h says what that does to
    the score. It is the token's contribution to the score through the last layer's attention, to
    first order. ABC keeps alpha alone, so that a word that lowered the score is paid for it.

    With all of the score spread the rule declares a lambda of 0.5, the best on film reviews
    (docs/results/earlier.md). It is the wrong one for Dialogue and Summarize, whose responses end
    by themselves (docs/results/tasks.md): on a task of your own try 0.95 too.

    Args:
        paid: R.
        signed_attention: a.
        response_mask: The tokens.
        rescale: Whether the parts are scaled to sum to the score (`rescaled`), or keep their size
            and leave what they miss on the last token.

    Source: this project; the weights are Chan et al. 2024, arXiv:2402.00782, the projection of
    values is Kobayashi et al. 2020, arXiv:2004.10102.
    """
    spread = rescaled if rescale else rest_on_last
    return spread(paid, signed_attention, response_mask)
