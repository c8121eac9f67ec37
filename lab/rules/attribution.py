"""The score spread by signed attributions: gradients, or leaving tokens out."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tokengym.base import check_choice
from tokengym.envs import Episode
from tokengym.rewards import (
    CreditError,
    Cut,
    Probe,
    Scores,
    SegmentedCredit,
)
from tokengym.rewards.maths import spread_signed_parts

Method = Literal["gradient", "integrated-gradients", "deeplift", "leave-one-out"]


class Attribution(SegmentedCredit):
    """Each token earns what it did to the score, by gradients or by leaving it out, good or bad.

    Methods, with e_t the embedding of response token t:

    - "gradient": a_t = e_t . dR/de_t, gradient x input; a forward and a backward pass.
    - "integrated-gradients": the same, averaged along the straight line from zero embeddings of
      the response; sums to R minus the score at zero. `GRADIENT_STEPS` forward and backward passes.
    - "deeplift": a_t = (e_t - blank) . m_t, multipliers that carry the whole change of score from
      a blank response through the model; a pass over twice the texts and its backward pass.
    - "leave-one-out": a_t = R(x, y) - R(x, y without t); n further scorings, of any scorer.

    Args:
        method: One of the four.
        beta: Share of the score that is spread; the rest stays on the last token.
        rescale: True scales the attributions to sum to the score, with a guard where they cancel
            (`shares.rescale_signed`); False takes them as they are, in reward units, and the last
            token gets what is left of the score.
        segments: Pieces that are paid in one sum, each on its last token; None pays every token.
            Gradients are summed over a piece; leave-one-out leaves a whole piece out.
        cut: Where the pieces begin, see `SegmentedCredit`.

    Source: Simonyan et al. 2014, arXiv:1312.6034; Sundararajan et al. 2017, arXiv:1703.01365;
    Shrikumar et al. 2017, arXiv:1704.02685.
    """

    name = "attribution"

    def __init__(
        self,
        method: Method = "gradient",
        beta: float = 1.0,
        rescale: bool = True,
        segments: int | None = None,
        cut: Cut = "even",
    ) -> None:
        super().__init__(segments, cut, beta)
        self.method = method
        check_choice(self, "method", get_args(Method), error=CreditError)
        self.rescale = bool(rescale)
        self.attribution = None if method == "leave-one-out" else method
        self.needs_attributions = self.attribution is None

    def attribute(self, probe: Probe, episodes: Sequence[Episode], scores: Scores) -> Scores:
        """Return the scores with what each token's absence costs."""
        pieces = self.pieces(episodes)
        shortened = [
            probe.restrict(episode, [t for t in range(len(episode.response_ids)) if t not in part])
            for episode, parts in zip(episodes, pieces, strict=True)
            for part in parts
        ]
        without = np.split(
            probe.values(shortened), np.cumsum([len(parts) for parts in pieces])[:-1]
        )
        # The score as given, so that centring and clipping are in both terms.
        rows = [float(value) - row for value, row in zip(scores.values, without, strict=True)]
        return scores.with_attributions(rows, signed=True, pieces=pieces)

    def spread(
        self, score: float, episode: Episode, attribution: NDArray[np.float32] | None
    ) -> NDArray[np.floating]:
        """Return the parts, made to sum to the score (`spread_signed_parts`)."""
        assert attribution is not None
        return spread_signed_parts(score, attribution, beta=self.beta, rescale=self.rescale)
