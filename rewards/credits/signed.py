"""Signed credit from how the score depends on each token: ABC's third limitation, lifted."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.attribution.probe import Probe
from tokengym.rewards.credits.base import Credit, as_float32, attributions_of
from tokengym.rewards.credits.simple import check_beta
from tokengym.rewards.errors import CreditError
from tokengym.rewards.maths import redistribution as F
from tokengym.rewards.maths.shares import complete, rescale_signed
from tokengym.rewards.scorers.base import Scores

METHODS = ("gradient", "integrated-gradients", "leave-one-out")


class Attribution(Credit):
    """The score spread by signed attributions: tokens that lowered it are charged.

    Methods, with e_t the embedding of response token t:

    - "gradient": a_t = e_t . dR/de_t, gradient x input; a forward and a backward pass.
    - "integrated-gradients": the same, averaged along the straight line from zero embeddings of
      the response; sums to R minus the score at zero. `GRADIENT_STEPS` forward and backward passes.
    - "leave-one-out": a_t = R(x, y) - R(x, y without t); n further scorings, of any scorer.

    Args:
        method: One of the three.
        beta: Share of the score that is spread; the rest stays on the last token.
        rescale: True scales the attributions to sum to the score, with a guard where they cancel
            (`shares.rescale_signed`); False takes them as they are, in reward units, and the last
            token gets what is left of the score.

    Raises:
        CreditError: if the method is unknown or ``beta`` lies outside [0, 1].

    Source: Simonyan et al. 2014, arXiv:1312.6034; Sundararajan et al. 2017, arXiv:1703.01365.
    """

    name = "attribution"

    def __init__(self, method: str = "gradient", beta: float = 1.0, rescale: bool = True) -> None:
        if method not in METHODS:
            raise CreditError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        self.method = method
        self.beta = check_beta(beta)
        self.rescale = bool(rescale)
        self.attribution = None if method == "leave-one-out" else method

    def attribute(self, probe: Probe, episodes: Sequence[Episode], scores: Scores) -> Scores:
        """Return the scores with what each token's absence costs, if that is the method."""
        if self.method != "leave-one-out":
            return scores
        shortened = [
            probe.restrict(episode, [other for other in range(size) if other != token])
            for episode in episodes
            for size in [len(episode.response_ids)]
            for token in range(size)
        ]
        lengths = [len(episode.response_ids) for episode in episodes]
        without = np.split(probe.values(shortened), np.cumsum(lengths)[:-1])
        rows = [
            float(value) - row for value, row in zip(scores.values, without, strict=True)
        ]  # the score as given, so that centring and clipping are in both terms
        return scores.with_attributions(rows, signed=True)

    def assign(self, episodes: Sequence[Episode], scores: Scores) -> list[NDArray[np.float32]]:
        """Return the attributions of each episode, rescaled or completed to its score."""
        return [
            as_float32(spread_signed(float(value), row, beta=self.beta, rescale=self.rescale))
            for value, row in zip(
                scores.values, attributions_of(self, episodes, scores), strict=True
            )
        ]


class SignedABC(Credit):
    """ABC with a sign: attention times the direction of each value vector on the score.

    a_t = sum_h alpha_ht * (v_ht . dR/do_h): head h of the last layer takes alpha_ht of token t's
    value vector v_ht into its output o_h at the last position, and dR/do_h says what that does to
    the score. It is the token's contribution to the score through the last layer's attention, to
    first order. ABC keeps alpha alone, so that a word that lowered the score is paid for it.

    Args:
        beta: Share of the score that is spread; the rest stays on the last token.
        rescale: As for `Attribution`.

    Raises:
        CreditError: if ``beta`` lies outside [0, 1].

    Source: this project; the weights are Chan et al. 2024, arXiv:2402.00782, the projection of
    values is Kobayashi et al. 2020, arXiv:2004.10102.
    """

    name = "abc-signed"
    attribution = "signed-attention"

    def __init__(self, beta: float = 1.0, rescale: bool = True) -> None:
        self.beta = check_beta(beta)
        self.rescale = bool(rescale)

    def assign(self, episodes: Sequence[Episode], scores: Scores) -> list[NDArray[np.float32]]:
        """Return the contributions of each episode, rescaled or completed to its score."""
        return [
            as_float32(spread_signed(float(value), row, beta=self.beta, rescale=self.rescale))
            for value, row in zip(
                scores.values, attributions_of(self, episodes, scores), strict=True
            )
        ]


def spread_signed(
    score: float, shares: NDArray[np.floating], *, beta: float, rescale: bool
) -> NDArray[np.float64]:
    """Return signed shares as token rewards, blended with the sparse reward.

    r = beta * s + (1 - beta) * sparse(R),   s = the shares, rescaled or completed to R

    Args:
        score: R, reward units.
        shares: (n,) signed.
        beta: Share of the score that is spread.
        rescale: Whether `rescale_signed` or `complete` makes them sum to R.
    """
    spread = rescale_signed(score, shares) if rescale else complete(score, shares)
    return beta * spread + (1.0 - beta) * F.sparse(score, len(spread))
