"""The scores that a partner gave the turns of a conversation."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tokengym.base.settings import check_choice
from tokengym.envs.episode import Episode
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.scorers.base import Scorer, Scores, register_scorer


class PartnerScore(Scorer):
    """The partner's scores of an episode's turns, as one.

    Args:
        of: "sum" of all turns, or that of the "last" turn that has one.

    Raises:
        ScorerError: if ``of`` is unknown.
    """

    attribution_kinds = frozenset()
    reads_text = False

    def __init__(self, of: Literal["sum", "last"] = "sum") -> None:
        self.of = of
        check_choice(self, "of", ("sum", "last"), error=ScorerError)

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the scores, refusing a conversation that was played to its end without one.

        One that a failure of the partner ended has none.
        """
        self.check_attribution(attribution)
        values: list[float | None] = []
        for row, episode in enumerate(episodes):
            turn_scores = _turn_scores(episode)
            if episode.is_lost:
                values.append(None)
                continue
            if not turn_scores:
                raise ScorerError(
                    f"scorer 'partner' found no score in the {len(episode.turns)} turns of episode "
                    f"{row}; have the partner return Reply(text, score=...), or take another scorer"
                )
            values.append(self._joined(turn_scores))
        return Scores(values=values)

    def score_prefix(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return what the partner has given so far, (batch,), 0 before its first score.

        Of a text with parts left out it never saw the turns, and such a text is worth 0.
        """
        return np.array([self._joined(_turn_scores(episode)) for episode in episodes])

    def _joined(self, turn_scores: Sequence[float]) -> float:
        return float(sum(turn_scores)) if self.of == "sum" else [0.0, *turn_scores][-1]


def _turn_scores(episode: Episode) -> list[float]:
    """Return the scores that an episode's turns have, in order."""
    return [turn.score for turn in episode.turns if turn.score is not None]


register_scorer("partner", PartnerScore)
