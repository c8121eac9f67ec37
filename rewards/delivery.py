"""Paying a causal credit token by token, to whoever calls an environment's `step`."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.reward import Reward
from tokengym.rewards.written import newest


class StepPayment:
    """Pays each token what `Credit.step_reward` gives for it, and the last one what is left.

    Every step scores the whole text so far again: n passes over growing texts for a response of n
    tokens. Learners of this package do without, they read the credit of the finished episode.

    Args:
        reward: A reward with a causal credit, bound to the policy's tokenizer.

    Raises:
        RewardError: if the reward cannot be paid step by step.
    """

    def __init__(self, reward: Reward) -> None:
        reward.check_steps()
        self._reward = reward
        self._paid: dict[int, tuple[Episode, float]] = {}
        """Text that each row was last paid for, and all that it was paid."""

    def pay(self, rows: Sequence[int], texts: Sequence[Episode]) -> NDArray[np.float64]:
        """Return the reward of the newest token of each row.

        Args:
            rows: Rows that appended a token and did not end.
            texts: Their texts so far, with a token at least.
        """
        rewards = np.zeros(len(rows))
        earned = self._reward.step_rewards(texts) if rows else []
        for place, (row, text, tokens) in enumerate(zip(rows, texts, earned, strict=True)):
            at = newest(text)
            rewards[place] = tokens[at]
            before = self._before(row, text, otherwise=tokens[:at])
            self._paid[row] = text, before + float(tokens[at])
        return rewards

    def settle(self, rows: Sequence[int], episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Return the reward of the last token of each row: its score minus what it was paid.

        Args:
            rows: Rows that ended.
            episodes: What they wrote, with score and token rewards.
        """
        owed = []
        for row, episode in zip(rows, episodes, strict=True):
            assert episode.token_rewards is not None
            before = self._before(row, episode, otherwise=episode.token_rewards[: newest(episode)])
            owed.append((episode.score or 0.0) - before)
            self._paid.pop(row, None)
        return np.array(owed)

    def _before(self, row: int, text: Episode, *, otherwise: NDArray[np.floating]) -> float:
        """Return what a row was paid before its newest token.

        Args:
            row: The row.
            text: Its text.
            otherwise: Rewards of the tokens before it, where they were paid elsewhere: the episode
                was forked (`set_state`) or begun by the reset.
        """
        known, paid = self._paid.get(row, (None, 0.0))
        if (
            known is not None
            and (known.prompt, known.prompt_ids) == (text.prompt, text.prompt_ids)
            and known.response_ids == text.response_ids[: newest(text)]
        ):
            return paid
        return float(otherwise.sum(dtype=np.float64))
