"""R3, the regularised relevance reward: on the last token, or token by token."""

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.credits.base import Credit, FloatArray, register
from tokengym.rewards.credits.sparse import Sparse
from tokengym.rewards.maths.relevance import COMPONENTS


def r3() -> Sparse:
    """The last token earns the relevance of the response to the question or a reference."""
    return Sparse()


register("r3", r3, scorer="encoder", scorer_options=COMPONENTS)


class DenseR3(Credit):
    """Each token earns its exact part in the relevance of the response, good or bad.

    Relevance is a mean-pooled dot product, so that its parts cost no extra pass.

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
