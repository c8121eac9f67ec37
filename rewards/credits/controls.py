"""Controls that any claim must beat: random weights, and weights that fall from the last token."""

import numpy as np
from numpy.typing import NDArray

from tokengym.base.settings import check_count, check_number
from tokengym.envs.episode import Episode
from tokengym.rewards.credits.base import Credit, FloatArray, check_beta, register_credit
from tokengym.rewards.errors import CreditError
from tokengym.rewards.maths import redistribution


@register_credit
class Random(Credit):
    """Each token earns a random part of the score, whatever it says.

    The parts are drawn from a seed and the episode's own ids: the same episode always gets the same
    weights, in any batch and process. A credit that does not
    beat this one shows the effect of density, not of finding the right tokens.

    Args:
        seed: Changes the draw of every episode.
        beta: Share of the score that is spread; the rest stays on the last token.

    Raises:
        CreditError: if ``seed`` is negative or ``beta`` is outside [0, 1].
    """

    name = "random"
    control = True

    def __init__(self, seed: int = 0, beta: float = 1.0) -> None:
        self.seed = seed
        check_count(self, "seed", least=0, error=CreditError)
        self.beta = check_beta(beta)

    def spread(
        self, score: float, episode: Episode, attribution: FloatArray | None
    ) -> NDArray[np.floating]:
        """Return R times Dirichlet weights, (n,); see `redistribution.dirichlet_weights`."""
        ids = (*episode.prompt_ids, *episode.response_ids)
        # The prompt's length keeps the two lists of ids apart.
        entropy = [self.seed, len(episode.prompt_ids), *ids]
        weights = redistribution.dirichlet_weights(len(episode.response_ids), entropy)
        return redistribution.blend(score, weights, beta=self.beta)


@register_credit
class Recency(Credit):
    """Each token earns more of the score the later it stands, whatever it says.

    Args:
        tau: Tokens over which a weight falls by e; small is nearly sparse, large nearly uniform.

    Raises:
        CreditError: if ``tau`` is not a finite number > 0.
    """

    name = "recency"
    control = True

    def __init__(self, tau: float = 10.0) -> None:
        self.tau = tau
        check_number(self, "tau", above=0, finite=True, error=CreditError)

    def spread(
        self, score: float, episode: Episode, attribution: FloatArray | None
    ) -> NDArray[np.floating]:
        """Return R times recency weights, (n,); see `redistribution.recency_weights`."""
        weights = redistribution.recency_weights(len(episode.response_ids), tau=self.tau)
        return redistribution.blend(score, weights, beta=1.0)
