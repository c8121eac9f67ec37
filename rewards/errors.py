"""What bad scorers, credits and reward names raise: one line with the value and the remedy."""

from tokengym.envs.errors import TokenGymError


class RewardError(TokenGymError):
    """A reward that cannot be built: an unknown name or option, a scorer that is missing."""


class ScorerError(RewardError):
    """A scorer that cannot score an episode, or returned something other than finite scores."""


class CreditError(RewardError):
    """A credit whose token rewards do not fit the episode or do not sum to its score."""


class RewardCheckError(RewardError):
    """An environment's rewards that break the contract, as `check_reward` found."""
