"""The whole score on the last token: RLHF as usual."""

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.credits.base import Credit, FloatArray, register_credit
from tokengym.rewards.maths import redistribution


@register_credit
class Sparse(Credit):
    """The last token earns the whole score, the others nothing: RLHF as usual."""

    name = "sparse"

    def spread(
        self, score: float, episode: Episode, attribution: FloatArray | None
    ) -> NDArray[np.floating]:
        """Return R on the last of the tokens, (n,); see `redistribution.sparse`."""
        return redistribution.sparse(score, len(episode.response_ids))
