"""PURE: step rewards in min form, whose sum is about the worst step."""

import numpy as np
from numpy.typing import NDArray

from tokengym.base import check_number
from tokengym.envs import Episode
from tokengym.rewards import CreditError, Cut, FloatArray, IncrementCredit, register_credit
from tokengym.rewards.maths import min_form


@register_credit
class PURE(IncrementCredit):
    """Each token earns its step reward, weighted so that their sum is about the worst of them.

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

    Raises:
        CreditError: if ``temperature`` is not positive, ``segments`` below 1 or ``cut`` unknown.

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
        self, score: float, episode: Episode, attribution: FloatArray | None
    ) -> NDArray[np.floating]:
        """Return the weighted step rewards (`shares.min_form`); the score itself is not paid."""
        assert attribution is not None
        return min_form(attribution, temperature=self.temperature)
