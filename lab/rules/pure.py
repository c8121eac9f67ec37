"""PURE: step rewards in min form, whose sum is about the worst step."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.base import check_number
from tokengym.envs import Episode
from tokengym.rewards import CreditError, Cut, IncrementCredit


def min_form(rewards: ArrayLike, *, temperature: float) -> NDArray[np.float64]:
    """Return step rewards weighted so that their sum is about the smallest of them.

    r*_t = w_t * r_t,   w = softmax(-r / temperature)

    The sum tends to the minimum as the temperature falls to 0, and to the mean as it grows.

    Args:
        rewards: (n,) r, reward units.
        temperature: Reward units, > 0.

    Returns:
        (n,) reward units.

    Source: Cheng et al. 2025, "Stop Summation: Min-Form Credit Assignment Is All Process Reward
    Model Needs for Reasoning", arXiv:2504.15275.

    Example:
        >>> min_form([0.0, math.log(3.0)], temperature=1.0).round(4)
        array([0.    , 0.2747])
    """
    if not temperature > 0 or not math.isfinite(temperature):
        raise ValueError(f"temperature must be a finite number > 0, got {temperature}")
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.ndim != 1 or len(rewards) == 0 or not np.isfinite(rewards).all():
        raise ValueError(f"rewards must be finite, of shape (n,) with n >= 1, got {rewards}")
    weights = np.exp((rewards.min() - rewards) / temperature)
    return rewards * weights / weights.sum()


class PURE(IncrementCredit):
    """Each token earns what it added to the score, weighted so that the worst counts most.

    r_t = w_t * d_t,   w = softmax(-d / temperature),   d_t = R(x, y_<=t) - R(x, y_<t)

    A learner from these rewards raises the worst step instead of the sum, which cannot be raised
    by many slightly good steps. They do not sum to the score, and the best response under them can
    be another one. The paper's step rewards come from a process reward model; here they are those
    of `RED`, and ``segments`` makes steps of more than one token; ``prm:form=min`` is PURE with a
    process model.

    Args:
        temperature: Reward units; towards 0 only the worst step is paid. The paper uses 0.1.
        every_prefix: As for `RED`.
        segments: Steps that a response is cut into, each paid on its last token; None takes every
            token.
        cut: Where the steps begin, see `SegmentedCredit`.

    Source: Cheng et al. 2025, arXiv:2504.15275.
    """

    name = "pure"
    sum_preserving = False

    def __init__(
        self,
        temperature: float = 0.1,
        every_prefix: bool = False,
        segments: int | None = None,
        cut: Cut = "even",
    ) -> None:
        super().__init__(every_prefix, segments, cut)
        self.temperature = temperature
        check_number(self, "temperature", above=0, finite=True, error=CreditError)

    def spread(
        self, score: float, episode: Episode, attribution: NDArray[np.float32] | None
    ) -> NDArray[np.floating]:
        """Return the weighted step rewards (`min_form`); the score itself is not paid."""
        assert attribution is not None
        return min_form(attribution, temperature=self.temperature)
