"""The score in equal parts."""

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.credits.base import Credit, FloatArray, register_credit
from tokengym.rewards.maths import redistribution


@register_credit
class Uniform(Credit):
    """Each token earns the same part of the score, whatever it says."""

    name = "uniform"
    control = True

    def spread(
        self, score: float, episode: Episode, attribution: FloatArray | None
    ) -> NDArray[np.floating]:
        """Return R / n on every token, (n,); see `redistribution.uniform`."""
        return redistribution.uniform(score, len(episode.response_ids))
