"""Paying a causal credit token by token, to whoever calls an environment's `step`."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.credits.probe import Probe
from tokengym.rewards.errors import RewardError
from tokengym.rewards.maths.shares import moved
from tokengym.rewards.reward import Reward
from tokengym.rewards.scorers.base import call_scorer


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
        credit, scorer = reward.credit, reward.scorer
        credit.step_reward(0.0)  # or says that it has none
        if not credit.every_prefix and "prefix" not in (scorer.attribution_kinds or ()):
            name = reward.credit_name
            raise RewardError(
                f"scorer {scorer.name!r} cannot score a growing text token by token, so credit "
                f"{name!r} cannot be paid at each step; take '{name}:delivery=end', or "
                f"'{name}:every_prefix=true' (scores the whole text at every step)"
            )
        self._reward = reward
        self._paid: dict[int, tuple[Episode, float]] = {}
        """Text that each row was last paid for, and all that it was paid."""

    def pay(self, rows: Sequence[int], texts: Sequence[Episode]) -> NDArray[np.float64]:
        """Return the reward of the newest token of each row, with that of a reply to it.

        Args:
            rows: Rows that appended a token and did not end.
            texts: Their texts so far, with a token at least.
        """
        rewards = np.zeros(len(rows))
        increments = self._increments(texts) if rows else []
        for place, (row, text, moves) in enumerate(zip(rows, texts, increments, strict=True)):
            owned = moves if text.written is None else moved(moves, text.written)
            tokens = np.array([self._reward.credit.step_reward(float(value)) for value in owned])
            at = newest(text)
            rewards[place] = tokens[at]
            before = self._before(row, text, otherwise=tokens[:at])
            self._paid[row] = text, before + float(tokens[at])
        return rewards

    def _increments(self, texts: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """Return, per text (n,), by how much its tokens moved its score.

        With ``every_prefix`` the text is scored without its newest token and without its response
        too, so that earlier increments only add up to theirs.
        """
        reward = self._reward
        if reward.credit.every_prefix:
            places = [(newest(text), len(text.response_ids)) for text in texts]
            pieces = [[range(at), range(at, end)][at == 0 :] for at, end in places]
            return Probe(reward.scorer, reward.tokenizer).increments(texts, pieces)
        known = reward.scorer.state_dict()  # of running statistics, which finished texts move
        scores = call_scorer(reward.scorer, texts, "prefix")
        reward.scorer.load_state_dict(known)
        scores.check(texts, reward.scorer.name)
        return [row.astype(np.float64) for row in scores.attributions or ()]

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


def newest(text: Episode) -> int:
    """Return the place of the token that the policy wrote last."""
    if text.written is None:
        return len(text.response_ids) - 1
    return int(np.flatnonzero(text.written)[-1])
