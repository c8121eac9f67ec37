"""ABC with a sign: attention times the direction in which each token moves the score."""

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.credits.base import Credit, FloatArray, check_beta, register_credit
from tokengym.rewards.maths.signed_parts import spread_signed_parts


@register_credit
class SignedABC(Credit):
    """Each token earns what the reward model's attention says it did to the score, good or bad.

    a_t = sum_h alpha_ht * (v_ht . dR/do_h): head h of the last layer takes alpha_ht of token t's
    value vector v_ht into its output o_h at the last position, and dR/do_h says what that does to
    the score. It is the token's contribution to the score through the last layer's attention, to
    first order. ABC keeps alpha alone, so that a word that lowered the score is paid for it.

    With all of the score spread the rule declares a lambda of 0.5, the best on film reviews
    (docs/results/earlier.md). It is the wrong one for Dialogue and Summarize, whose responses end
    by themselves (docs/results/tasks.md): on a task of your own try 0.95 too.

    Args:
        beta: Share of the score that is spread; the rest stays on the last token.
        rescale: Whether the parts are scaled to sum to the score (`rescale_signed`), or keep their
            size and leave what they miss on the last token.

    Raises:
        CreditError: if ``beta`` is outside [0, 1].

    Source: this project; the weights are Chan et al. 2024, arXiv:2402.00782, the projection of
    values is Kobayashi et al. 2020, arXiv:2004.10102.
    """

    name = "abc-signed"
    attribution = "signed-attention"

    def __init__(self, beta: float = 1.0, rescale: bool = True) -> None:
        self.beta = check_beta(beta)
        self.rescale = bool(rescale)
        # docs/results/earlier.md: a share says what its token is worth, later ones are noise to it.
        self.gae_lambda = 0.5 if beta == 1.0 else None

    def spread(
        self, score: float, episode: Episode, attribution: FloatArray | None
    ) -> NDArray[np.floating]:
        """Return the parts, (n,), made to sum to the score; see `spread_signed_parts`."""
        assert attribution is not None
        return spread_signed_parts(score, attribution, beta=self.beta, rescale=self.rescale)
