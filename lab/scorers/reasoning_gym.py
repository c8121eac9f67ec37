"""The verifiers of reasoning-gym."""

import logging
import math
from collections.abc import Sequence

from tokengym.envs import DatasetError, Episode
from tokengym.lab.envs.reasoning import verdict
from tokengym.rewards import Scorer, ScorerError, Scores

logger = logging.getLogger(__name__)


class ReasoningGym(Scorer):
    """The verdict of reasoning-gym on an answer to one of its questions, most often in [0, 1].

    A verifier that raises has refused the answer, which is worth 0: several parse it without a
    check. The first time is logged.
    """

    attribution_kinds = frozenset()

    def __init__(self) -> None:
        self._has_warned = False

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the verdict on each response, (batch,)."""
        self.check_attribution(attribution)
        return Scores([self._verdict(episode) for episode in episodes])

    def _verdict(self, episode: Episode) -> float:
        if "item" not in episode.metadata:
            raise ScorerError(
                f"prompt {episode.prompt[:40]!r} has no item that a verifier of reasoning-gym "
                "could read; take prompts of tokengym/ReasoningGym-v0 by prompt_id"
            )
        try:
            value = verdict(episode.metadata, episode.response)
        except DatasetError as error:
            raise ScorerError(str(error)) from error
        except Exception as error:
            value = math.nan
            reason = f"{type(error).__name__}: {error}"
        else:
            reason = f"returned {value}"
        if math.isfinite(value):
            return value
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the verifier of %s failed on %r (%s); such answers are worth 0",
                *(episode.metadata["dataset"], episode.response, reason),
            )
        return 0.0
