"""A scorer whose values are centred and scaled by what it has seen so far."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.attribution.probe import PrefixReader, ScaledReader
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.maths.redistribution import Moments, update_moments
from tokengym.rewards.maths.shares import complete
from tokengym.rewards.scorers.base import AnyScorer, ScorerWrapper, Scores

_EPSILON = 1e-8


class Normalize(ScorerWrapper):
    """Running normalisation: value' = clip((value - mean) / deviation, -clip, clip).

    A batch updates the statistics before it is normalised by them. The value as it was stays in
    ``parts["raw_score"]``. Scoring changes the statistics, so the same episode may score
    differently later: evaluate with the scorer inside. `bind` returns a copy with statistics of
    its own, so that environments which are given one `Normalize` do not share them.

    Args:
        scorer: Scorer to normalise.
        window: Scores remembered, with exponentially decaying weights, or None for all. With a
            window no longer than the batch the statistics are the batch's own.
        scale: Whether to divide by the deviation; False centres only.
        clip: Bound on the result, in units after scaling; None for no bound.

    Raises:
        ScorerError: if ``window`` or ``clip`` is not positive.

    Source: the normalisation of Kim et al. 2024, arXiv:2402.03469 (all history, clip 10).
    """

    def __init__(
        self,
        scorer: AnyScorer,
        *,
        window: int | None = None,
        scale: bool = True,
        clip: float | None = 10.0,
    ) -> None:
        if window is not None and window < 1:
            raise ScorerError(f"window must be at least 1, got {window}; None remembers all")
        if clip is not None and not clip > 0:
            raise ScorerError(f"clip must be > 0, got {clip}; None does not clip")
        super().__init__(scorer)
        self.window = window
        self.scale = scale
        self.clip = clip
        self.moments = Moments()

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return normalised scores; the batch updates the statistics first.

        Weights are passed on. Signed attributions are scaled with the value; of those that sum to
        it, what centring and clipping take off goes to the last token, as a constant of the
        episode.

        Args:
            episodes: Episodes to score.
            attribution: Passed on to the scorer inside.
        """
        options: dict[str, Any] = {} if attribution is None else {"attribution": attribution}
        raw = self.scorer.score(episodes, **options)
        raw.check(episodes, self.scorer.name)
        self.moments = update_moments(self.moments, raw.values, window=self.window)
        deviation = self._deviation()
        values = (raw.values.astype(np.float64) - self.moments.mean) / deviation
        if self.clip is not None:
            values = values.clip(-self.clip, self.clip)
        attributions: Sequence[NDArray[np.floating]] | None = raw.attributions
        if attributions is not None and raw.signed:
            factor = self._factor()
            attributions = [row.astype(np.float64) * factor for row in attributions]
        if attributions is not None and raw.additive:
            attributions = [
                complete(float(value), row) for row, value in zip(attributions, values, strict=True)
            ]
        return Scores(
            values=values,
            parts={**raw.parts, "raw_score": raw.values},
            attributions=attributions,
            additive=raw.additive,
            signed=raw.signed,
        )

    def peek(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return scores normalised by the statistics as they are, and not clipped.

        Args:
            episodes: Episodes to score.
        """
        raw = self.scorer.peek(episodes)
        return (np.asarray(raw, dtype=np.float64) - self.moments.mean) * self._factor()

    def prefix_reader(self, *, every_prefix: bool = False) -> PrefixReader | None:
        """Return the inner scorer's reader, scaled by the deviation of the moment.

        Where the deviation changes in the middle of an episode, its step rewards differ from its
        token rewards, which are all scaled by the last one; both sum to the score.

        Args:
            every_prefix: As for `Scorer.prefix_reader`.
        """
        reader = self.scorer.prefix_reader(every_prefix=every_prefix)
        return None if reader is None else ScaledReader(reader, self._factor)

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics."""
        return {**self.moments._asdict(), "scorer": self.scorer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the statistics that `state_dict` returned.

        Raises:
            ScorerError: if one is missing.
        """
        try:
            self.moments = Moments(
                int(state["seen"]), float(state["mean"]), float(state["variance"])
            )
            if state["scorer"]:
                self.scorer.load_state_dict(state["scorer"])
        except KeyError as error:
            raise ScorerError(
                f"the state of {self.name!r} lacks {error}; pass what state_dict() returned"
            ) from None

    def _deviation(self) -> float:
        return float(np.sqrt(self.moments.variance)) + _EPSILON if self.scale else 1.0

    def _factor(self) -> float:
        """Return what a difference of two scores is multiplied by; 0 before any deviation."""
        return 1.0 / self._deviation() if not self.scale or self.moments.variance > 0 else 0.0
