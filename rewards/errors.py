"""Errors of rewards, which carry the finished episodes that they happened over."""

from collections.abc import Sequence

from tokengym.base.errors import TokenGymError
from tokengym.envs.episode import Episode


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
