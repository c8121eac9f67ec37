"""Credit that looks at nothing but the length: sparse and uniform, and the controls."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.credits.base import Credit, as_float32
from tokengym.rewards.errors import CreditError
from tokengym.rewards.maths import redistribution as F
from tokengym.rewards.scorers.base import Scores


class Sparse(Credit):
    """The whole score on the last token: RLHF as usual."""

    name = "sparse"

    def assign(self, episodes: Sequence[Episode], scores: Scores) -> list[NDArray[np.float32]]:
        """Return R on the last token of each episode (`functional.sparse`)."""
        return [
            as_float32(F.sparse(float(value), len(episode.response_ids)))
            for episode, value in zip(episodes, scores.values, strict=True)
        ]


class Uniform(Credit):
    """The score in equal parts: dense, and blind to what the tokens are."""

    name = "uniform"

    def assign(self, episodes: Sequence[Episode], scores: Scores) -> list[NDArray[np.float32]]:
        """Return R / n on every token of each episode (`functional.uniform`)."""
        return [
            as_float32(F.uniform(float(value), len(episode.response_ids)))
            for episode, value in zip(episodes, scores.values, strict=True)
        ]


class Random(Credit):
    """A control: Dirichlet(1) weights, drawn from a seed and the episode's own ids.

    The same episode always gets the same weights, in any batch and process. A credit that does not
    beat this one shows the effect of density, not of finding the right tokens.

    Args:
        seed: Changes the draw of every episode.
        beta: Share of the score that is spread; the rest stays on the last token.

    Raises:
        CreditError: if ``seed`` is negative or ``beta`` lies outside [0, 1].
    """

    name = "random"

    def __init__(self, seed: int = 0, beta: float = 1.0) -> None:
        if seed < 0:
            raise CreditError(f"seed must be an integer >= 0, got {seed}")
        self.seed = seed
        self.beta = check_beta(beta)

    def assign(self, episodes: Sequence[Episode], scores: Scores) -> list[NDArray[np.float32]]:
        """Return R times Dirichlet weights for each episode (`functional.dirichlet_weights`)."""
        rewards = []
        for episode, value in zip(episodes, scores.values, strict=True):
            # The prompt's length keeps the two lists of ids apart.
            entropy = [
                *(self.seed, len(episode.prompt_ids)),
                *(*episode.prompt_ids, *episode.response_ids),
            ]
            weights = F.dirichlet_weights(len(episode.response_ids), entropy)
            rewards.append(as_float32(F.blend(float(value), weights, beta=self.beta)))
        return rewards


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

    def assign(self, episodes: Sequence[Episode], scores: Scores) -> list[NDArray[np.float32]]:
        """Return R times recency weights for each episode (`functional.recency_weights`)."""
        rewards = []
        for episode, value in zip(episodes, scores.values, strict=True):
            weights = F.recency_weights(len(episode.response_ids), tau=self.tau)
            rewards.append(as_float32(F.blend(float(value), weights, beta=1.0)))
        return rewards


def check_beta(beta: float) -> float:
    """Return ``beta`` if it lies in [0, 1].

    Raises:
        CreditError: if it does not.
    """
    if not 0.0 <= beta <= 1.0:
        raise CreditError(
            f"beta must lie in [0, 1], got {beta}: 0 is sparse, 1 spreads the whole score"
        )
    return beta
