"""ABC: the score spread by the reward model's own attention."""

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.credits.base import Credit, FloatArray, check_beta, register_credit
from tokengym.rewards.maths import redistribution


@register_credit
class ABC(Credit):
    """Each token earns its share of the score by how much the reward model looked at it.

    The weights are the reward model's last layer, averaged over heads, in the row of the last
    response token, restricted to the response. They come with the score, from the same pass.

    Args:
        beta: Share of the score that is spread; the rest stays on the last token. The paper's
            headline runs use 0.8, its sweep is best at 1.

    Raises:
        CreditError: if ``beta`` is outside [0, 1].

    Source: Chan et al. 2024, "Dense Reward for Free in RLHF", arXiv:2402.00782.
    """

    name = "abc"
    attribution: str | None = "attention"

    def __init__(self, beta: float = 0.8) -> None:
        self.beta = check_beta(beta)

    def spread(
        self, score: float, episode: Episode, attribution: FloatArray | None
    ) -> NDArray[np.floating]:
        """Return the blend of attention and sparse reward, (n,); see `redistribution.blend`."""
        assert attribution is not None
        return redistribution.blend(score, attribution, beta=self.beta)
