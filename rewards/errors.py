"""Errors of rewards, and what becomes of finished episodes when they cannot be scored."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from traceback import TracebackException

from tokengym.envs.episode import Episode
from tokengym.envs.errors import TokenGymError


class RewardError(TokenGymError):
    """A reward that cannot be built: an unknown name or option, a scorer that is missing."""

    episodes: tuple[Episode, ...] = ()
    """Episodes that were finished when it happened, oldest first, so that none is lost; those that
    it came from have no score. Empty where nothing was being played."""

    def keep(self, episodes: Sequence[Episode]) -> None:
        """Put episodes before those that are kept."""
        self.episodes = (*episodes, *self.episodes)

    def __str__(self) -> str:
        count = len(self.episodes)
        kept = f" ({count} finished episodes are kept in this error's .episodes)" if count else ""
        return super().__str__() + kept


class ScorerError(RewardError):
    """A scorer that cannot score an episode, or returned something other than finite scores."""


class CreditError(RewardError):
    """A credit whose token rewards do not fit the episode or do not sum to its score."""


class RewardCheckError(RewardError):
    """An environment's rewards that break the contract, as `check_reward` found."""


_LOG = logging.getLogger(__name__)

SLOW_SHARE = 0.5
"""Share of the time since the first scoring above which a slow scorer is named, once."""
SLOW_SECONDS = 60.0
"""Seconds of scoring before a slow scorer is named: a model's first call is slow."""


@contextmanager
def keeping(episodes: Sequence[Episode], scorer: str) -> Iterator[None]:
    """Have whatever a scorer raises carry the episodes it was to score.

    Args:
        episodes: Finished, without a score.
        scorer: Its name, for the message.

    Raises:
        RewardError: what was raised, with ``episodes``; a `ScorerError` where the scorer's own code
            raised something else.
    """
    try:
        yield
    except RewardError as error:
        error.keep(_unscored(episodes))
        raise
    except Exception as error:
        reason = " ".join(str(TracebackException.from_exception(error)).split())  # never raises
        failure = ScorerError(
            f"scorer {scorer!r} raised {type(error).__name__} ({reason}) over {len(episodes)} "
            "episodes; correct the scorer"
        )
        failure.keep(_unscored(episodes))
        raise failure from error


def _unscored(episodes: Sequence[Episode]) -> list[Episode]:
    """Return the episodes without the zeros that an environment without a reward gives them."""
    return [
        replace(episode, score=None, score_parts={}, token_rewards=None) for episode in episodes
    ]


class Stopwatch:
    """Notes how long scoring takes, and warns once if it is most of the time.

    Args:
        name: The scorer's, for the warning.
        clock: Seconds since some moment.
        warns: Whether it warns; not where the time is also a policy's, which continues responses.
    """

    def __init__(
        self, name: str, clock: Callable[[], float] = time.monotonic, *, warns: bool = True
    ) -> None:
        self.name = name
        self.seconds = 0.0
        """Spent scoring."""
        self.scored = 0
        """Episodes."""
        self._clock = clock
        self._began: float | None = None
        self._warned = not warns

    @contextmanager
    def scoring(self, count: int) -> Iterator[None]:
        """Count the time of this context."""
        started = self._clock()
        if self._began is None:
            self._began = started
        try:
            yield
        finally:
            now = self._clock()
            self.seconds += now - started
            self.scored += count
            self._warn(now - self._began)

    def _warn(self, passed: float) -> None:
        if self._warned or self.seconds < SLOW_SECONDS or self.seconds < SLOW_SHARE * passed:
            return
        self._warned = True
        _LOG.warning(
            "scorer %r takes %.0f %% of the time: %.0f of %.0f s for %d episodes, %.2g s each; "
            "score more rows at once (num_envs), or wrap it in Cached where texts repeat",
            self.name,
            100 * self.seconds / passed,
            self.seconds,
            passed,
            self.scored,
            self.seconds / max(self.scored, 1),
        )
