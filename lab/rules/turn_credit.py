"""Base of the rules that pay turns: a reward per turn, at its last token."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokengym.envs import Episode, Turn
from tokengym.rewards import Credit

POLICY = "assistant"
"""Role of the policy's turns."""


def policy_turns(episode: Episode) -> list[Turn]:
    """Return the policy's turns of a conversation; without a partner, the response as the only one.

    Example:
        >>> alone = Episode(prompt="x", response="a b", prompt_ids=[0], response_ids=[1, 2])
        >>> policy_turns(alone)
        [Turn(role='assistant', text='a b', span=(0, 2), score=None)]
    """
    turns = [turn for turn in episode.turns if turn.role == POLICY]
    return turns or [Turn(POLICY, episode.response, (0, len(episode.response_ids)))]


class TurnCredit(Credit):
    """Base of a rule whose formula gives each turn of the policy one reward.

    The reward stands at the turn's last token. If the rule is ``sum_preserving``, the episode's
    last token also gets what is left of its score. A turn is one segment for an estimator that
    reads segments.
    """

    reads_turns = True

    def by_turn(self, score: float, turns: Sequence[Turn]) -> NDArray[np.float64]:
        """Return the reward of each turn.

        Args:
            score: R, reward units.
            turns: The policy's turns, at least one.

        Returns:
            (turns,) reward units.
        """
        raise NotImplementedError(f"{type(self).__name__} must define by_turn()")

    def pieces(self, episodes: Sequence[Episode]) -> list[list[range]]:
        """Return the tokens of each turn of the policy."""
        return [[range(*turn.span) for turn in policy_turns(episode)] for episode in episodes]

    def spread(
        self, score: float, episode: Episode, attribution: NDArray[np.float32] | None
    ) -> NDArray[np.floating]:
        """Return the turns' rewards on their last tokens."""
        del attribution
        turns = policy_turns(episode)
        rewards = np.zeros(len(episode.response_ids))
        rewards[[turn.span[1] - 1 for turn in turns]] = self.by_turn(score, turns)
        if self.sum_preserving:
            rewards[turns[-1].span[1] - 1] += score - rewards.sum()
        return rewards
