"""R3, the regularised relevance reward: on the last token, or token by token."""

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.credits.base import Credit, FloatArray, register
from tokengym.rewards.credits.sparse import Sparse
from tokengym.rewards.maths.relevance import COMPONENTS

register("r3", Sparse, scorer="encoder", scorer_options=COMPONENTS)


class DenseR3(Credit):
    """R3 token by token: the exact parts of a mean-pooled dot product, signed, at no extra pass.

    Source: the decomposition in `maths.relevance.relevance_shares`; the reward is Kim et al.
    2024, arXiv:2402.03469.
    """

    name = "r3-dense"
    attribution = "relevance"

    def spread(
        self, score: float, episode: Episode, attribution: FloatArray | None
    ) -> NDArray[np.floating]:
        """Return each token's own part of the score, (n,)."""
        assert attribution is not None
        return attribution


register("r3-dense", DenseR3, scorer_options=COMPONENTS)
