"""Weights that fall going back from the last token: a control that any claim must beat."""

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.credits.base import Credit, FloatArray, register_credit
from tokengym.rewards.errors import CreditError
from tokengym.rewards.maths import redistribution


@register_credit
class Recency(Credit):
    """A control: weights that fall by e every ``tau`` tokens, going back from the last.

    Args:
        tau: Tokens over which a weight falls by e; small is nearly sparse, large nearly uniform.

    Raises:
        CreditError: if ``tau`` is not a finite number > 0.
    """

    name = "recency"

    def __init__(self, tau: float = 10.0) -> None:
        if not (tau > 0 and np.isfinite(tau)):
            raise CreditError(f"tau must be a finite number of tokens > 0, got {tau}")
        self.tau = tau

    def spread(
        self, score: float, episode: Episode, attribution: FloatArray | None
    ) -> NDArray[np.floating]:
        """Return R times recency weights (`redistribution.recency_weights`)."""
        weights = redistribution.recency_weights(len(episode.response_ids), tau=self.tau)
        return redistribution.blend(score, weights, beta=1.0)
