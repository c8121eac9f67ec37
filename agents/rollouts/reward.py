"""The reward of an environment, as the learner calls it: once, for all episodes of a round."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import Wrapper
from gymnasium.vector import VectorWrapper
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker
from numpy.typing import NDArray

from tokengym.agents.rollouts.environments import Environments, layers
from tokengym.envs import Episode, PadTokenRewards, SettingsError
from tokengym.rewards import (
    Normalize,
    Reward,
    RewardError,
    RewardWrapper,
    Scorer,
    VectorRewardWrapper,
)
from tokengym.rewards.scorers.base import ScorerWrapper

TRANSPARENT = (OrderEnforcing, PassiveEnvChecker, PadTokenRewards)
"""Layers around a reward wrapper that do nothing with what it pays."""
PAYING = (RewardWrapper, VectorRewardWrapper)


class RoundReward:
    """An environment's reward, taken out of its `step` for as long as a round is played.

    The wrapper leaves the episodes of the round unscored, and `evaluate` scores them in one batch:
    that is cheaper, and statistics such as `Normalize`'s see the round as one. A reward wrapper
    inside another wrapper that may read what it pays (``RecordEpisodeStatistics``, one of the
    user's own) keeps paying in `step`, and so do rows in other processes.

    Args:
        envs: The environment, single or batched, wrapped or not.
    """

    def __init__(self, envs: Environments) -> None:
        shared, *rows = layers(envs)
        wrappers = [
            [layer for layer in chain if isinstance(layer, PAYING)] for chain in (shared, *rows)
        ]
        self.rewards: list[Reward] = [layer.reward for chain in wrappers for layer in chain]
        """Rewards of all wrappers, the outermost first, those of single rows row by row."""
        self._of_all: VectorRewardWrapper | None = None
        self._of_rows: dict[int, RewardWrapper] = {}
        if wrappers[0]:
            self._of_all = _payer(shared)
        else:
            payers = {number: _payer([*shared, *row]) for number, row in enumerate(rows)}
            self._of_rows = {number: payer for number, payer in payers.items() if payer is not None}
        # Those inside another are deferred with it: what they pay is replaced.
        chains = wrappers if self._of_all else [wrappers[number + 1] for number in self._of_rows]
        self._deferred = [layer for chain in chains for layer in chain]

    @property
    def reward(self) -> Reward | None:
        """The reward that decides: the outermost, the first row's if each has its own."""
        return self.rewards[0] if self.rewards else None

    @property
    def scorer(self) -> Scorer | None:
        """The scorer of the reward without normalisation, None without a reward."""
        scorer = None if self.reward is None else self.reward.scorer
        while isinstance(scorer, Normalize):
            scorer = scorer.scorer
        return scorer

    @property
    def gae_lambda(self) -> float | None:
        """The lambda that the credit rule declares, None if it declares none.

        Raises:
            SettingsError: if it is no number in [0, 1].
        """
        if self.reward is None or (declared := self.reward.credit.gae_lambda) is None:
            return None
        if not 0.0 <= declared <= 1.0:
            raise SettingsError(
                f"credit {self.reward.credit_name!r} declares gae_lambda={declared}, which must be "
                "within [0, 1], or None to leave it to the learner"
            )
        return declared

    @property
    def of_policy(self) -> list[Reward]:
        """The rewards whose credit continues responses with a policy."""
        return [reward for reward in self.rewards if reward.credit.needs_policy]

    @property
    def seconds(self) -> float:
        """Seconds that scoring has taken so far."""
        distinct = {id(reward): reward for reward in self.rewards}  # rows may share one
        return sum(reward.stopwatch.seconds for reward in distinct.values())

    def defer(self, deferred: bool) -> None:
        """Have the wrappers leave episodes unscored, or pay them in `step` again."""
        for wrapper in self._deferred:
            wrapper.deferred = deferred

    def leaves_unscored(self, row: int) -> bool:
        """Return whether a row's episodes come without score from a round's steps."""
        return self._of_all is not None or row in self._of_rows

    def evaluate(self, episodes: dict[int, Episode]) -> None:
        """Give a round's episodes their scores and token rewards.

        Args:
            episodes: The episodes by row, in the order in which they ended; replaced in place.

        Raises:
            RewardError: if the scorer fails; what had its score before keeps it. It has no
                episodes: the caller knows what they were sampled with.
        """
        try:
            if self._of_all is not None:
                paid = self._of_all.reward.evaluate(list(episodes.values()))
                episodes.update(zip(episodes, paid, strict=True))
            for row in episodes:
                if row in self._of_rows:
                    (episodes[row],) = self._of_rows[row].reward.evaluate([episodes[row]])
        except RewardError as error:
            error.episodes = ()
            raise

    def segment_ends(self, episodes: Sequence[Episode], time: int) -> NDArray[np.int64]:
        """Return the last token of each token's segment, as the credit rule pays them.

        Args:
            episodes: Finished episodes.
            time: Columns of the result, at least the longest response.

        Returns:
            (episodes, time) positions; past a response's end and without a rule, each its own.
        """
        ends = np.tile(np.arange(time), (len(episodes), 1))
        if self.reward is not None:
            for row, pieces in enumerate(self.reward.credit.pieces(episodes)):
                for piece in pieces:
                    ends[row, piece.start : piece.stop] = piece.stop - 1
        return ends

    def share(self, gather: Callable[[Any], list[Any]]) -> None:
        """Take running statistics over the rounds of several processes.

        Args:
            gather: Returns all processes' values, given this one's.

        Raises:
            SettingsError: if such statistics change in `step`, which processes take at different
                times.
        """
        for reward in self.rewards:
            scorer = reward.scorer
            while isinstance(scorer, ScorerWrapper):
                if isinstance(scorer, Normalize):
                    if not self._deferred:
                        raise SettingsError(
                            f"several processes share the statistics of {scorer.name!r}, which "
                            "needs its reward as the environment's outermost wrapper; put other "
                            "wrappers inside it"
                        )
                    scorer.gather = gather
                scorer = scorer.scorer


def _payer(chain: Sequence[Any]) -> Any:
    """Return the outermost reward wrapper, None where a wrapper around it may read what it pays."""
    for layer in chain:
        if isinstance(layer, PAYING):
            return layer
        if isinstance(layer, Wrapper | VectorWrapper) and not isinstance(layer, TRANSPARENT):
            return None
    return None
