"""Credit that follows what the scorer itself looked at: ABC and the exact parts of R3."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.credits.base import Credit, as_float32, attributions_of
from tokengym.rewards.credits.simple import check_beta
from tokengym.rewards.maths import redistribution as F
from tokengym.rewards.scorers.base import Scores


class ABC(Credit):
    """Attention-based credit: the score spread by the reward model's own attention.

    The weights are the reward model's last layer, averaged over heads, in the row of the last
    response token, restricted to the response. They come with the score, from the same pass.

    Args:
        beta: Share of the score that is spread; the rest stays on the last token. The paper's
            headline runs use 0.8, its sweep is best at 1.

    Raises:
        CreditError: if ``beta`` lies outside [0, 1].

    Source: Chan et al. 2024, "Dense Reward for Free in RLHF", arXiv:2402.00782.
    """

    name = "abc"
    attribution = "attention"

    def __init__(self, beta: float = 0.8) -> None:
        self.beta = check_beta(beta)

    def assign(self, episodes: Sequence[Episode], scores: Scores) -> list[NDArray[np.float32]]:
        """Return the blend of attention and sparse reward of each episode (`functional.blend`)."""
        weights = attributions_of(self, episodes, scores)
        return [
            as_float32(F.blend(float(value), row, beta=self.beta))
            for value, row in zip(scores.values, weights, strict=True)
        ]


class DenseR3(Credit):
    """R3 token by token: the exact parts of a mean-pooled dot product, signed, at no extra pass.

    Source: the decomposition in `regularized_relevance.relevance_shares`; the reward is Kim et al.
    2024, arXiv:2402.03469.
    """

    name = "r3-dense"
    attribution = "relevance"

    def assign(self, episodes: Sequence[Episode], scores: Scores) -> list[NDArray[np.float32]]:
        """Return each token's own part of the score."""
        return list(attributions_of(self, episodes, scores))
