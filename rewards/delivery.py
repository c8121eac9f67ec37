"""Paying a causal credit step by step, from what the observations show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokengym.base.prompt import NO_METADATA
from tokengym.envs.episode import Episode
from tokengym.envs.prompts.tokenization import decode
from tokengym.rewards.reward import Reward

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokengym.base.prompt import PromptSet

Observations = Mapping[str, NDArray[Any]]


@dataclass
class _Account:
    """Amount that a row was paid for its text so far."""

    text: Episode
    paid: float = 0.0


class StepDelivery:
    """Pays each token what `Credit.step_reward` gives for it, and the last one what is left.

    The texts are read from the observations, so that episodes may begin, end and be forked
    (`set_state`) at any step: a row whose text is no continuation of what was paid is read anew.

    Args:
        reward: A reward with a causal credit, bound to the policy's tokenizer.
        tokenizer: The policy's.
        prompt_width: Columns of an observation that belong to the prompt.
        prompts: The environment's; they know the references of prompts.

    Raises:
        RewardError: if the reward cannot be paid step by step.
    """

    def __init__(
        self,
        reward: Reward,
        *,
        tokenizer: "PreTrainedTokenizerBase",
        prompt_width: int,
        prompts: "PromptSet | None" = None,
    ) -> None:
        self._reader = reward.prefix_reader()
        self._step_reward = reward.credit.step_reward
        self._reads_text = reward.scorer.reads_text
        self._tokenizer = tokenizer
        self._prompt_width = prompt_width
        self._prompts = prompts
        self._accounts: dict[int, _Account] = {}
        self._announced: dict[int, Episode] = {}

    def announce(self, row: int, prompt: str, prompt_id: int) -> None:
        """Note the text of the prompt that a row begins with next.

        Args:
            row: The row.
            prompt: Its text.
            prompt_id: Its position in the environment's prompts, negative for none of them.
        """
        known = self._prompts[prompt_id] if self._prompts is not None and prompt_id >= 0 else None
        self._announced[row] = Episode(
            prompt=prompt,
            response="",
            prompt_ids=(),
            response_ids=(),
            reference=known.reference if known is not None else None,
            query_type=known.query_type if known is not None else None,
            metadata=known.metadata if known is not None else NO_METADATA,
        )

    def advance(self, rows: Sequence[int], observations: Observations) -> NDArray[np.float64]:
        """Return the reward of the newest token of each row that continues.

        Args:
            rows: Rows that appended a token and did not end.
            observations: The batch's, with every row.
        """
        texts = [self._text(row, observations) for row in rows]
        self._catch_up(rows, texts)
        return self._pay(rows, texts)

    def settle(self, rows: Sequence[int], episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Return the reward of the last token of each row: its score less what it was paid."""
        self._catch_up(rows, episodes)
        owed = [
            (episode.score or 0.0) - self._accounts.pop(row).paid
            for row, episode in zip(rows, episodes, strict=True)
        ]
        return np.array(owed)

    def _catch_up(self, rows: Sequence[int], texts: Sequence[Episode]) -> None:
        """Bring the rows to all but the newest token of their texts."""
        stale = [
            (row, self._part(text, 0), self._part(text, len(text.response_ids) - 1))
            for row, text in zip(rows, texts, strict=True)
            if not self._continues(row, text)
        ]
        if not stale:
            return
        self._reader.begin([row for row, _, _ in stale], [begin for _, begin, _ in stale])
        for row, begin, _ in stale:
            self._accounts[row] = _Account(begin)
        behind = [(row, before) for row, _, before in stale if before.response_ids]
        if behind:
            # Paid in one sum what the tokens before the newest were paid one by one elsewhere.
            self._pay([row for row, _ in behind], [before for _, before in behind])

    def _pay(self, rows: Sequence[int], texts: Sequence[Episode]) -> NDArray[np.float64]:
        increments = self._reader.advance(rows, texts) if rows else np.zeros(0)
        rewards = np.array([float(self._step_reward(float(value))) for value in increments])
        for row, text, value in zip(rows, texts, rewards.tolist(), strict=True):
            self._accounts[row] = _Account(text, self._accounts[row].paid + value)
        return rewards

    def _continues(self, row: int, text: Episode) -> bool:
        account = self._accounts.get(row)
        return (
            account is not None
            and account.text.prompt_ids == text.prompt_ids
            and account.text.response_ids == tuple(text.response_ids)[:-1]
            and (account.text.prompt == text.prompt or not self._reads_text)
        )

    def _text(self, row: int, observations: Observations) -> Episode:
        """Return the text that a row's observation shows."""
        ids, mask = observations["input_ids"][row], observations["attention_mask"][row] > 0
        width = self._prompt_width
        prompt_ids = tuple(ids[:width][mask[:width]].tolist())
        response_ids = tuple(ids[width:][mask[width:]].tolist())
        response = decode(self._tokenizer, [response_ids])[0] if self._reads_text else ""
        return replace(self._prompt(row, prompt_ids), response=response, response_ids=response_ids)

    def _prompt(self, row: int, prompt_ids: tuple[int, ...]) -> Episode:
        """Return a row's prompt with what is known about it, without a response."""
        if row in self._announced:
            return replace(self._announced.pop(row), prompt_ids=prompt_ids)
        account = self._accounts.get(row)
        if account is not None and account.text.prompt_ids == prompt_ids:
            return self._part(account.text, 0)
        text = decode(self._tokenizer, [prompt_ids])[0] if self._reads_text else ""
        return Episode(prompt=text, response="", prompt_ids=prompt_ids, response_ids=())

    def _part(self, text: Episode, size: int) -> Episode:
        """Return the first tokens of a text."""
        ids = list(text.response_ids)[:size]
        response = decode(self._tokenizer, [ids])[0] if self._reads_text and ids else ""
        return replace(
            text,
            response=response,
            response_ids=ids,
            score=None,
            token_rewards=None,
            log_probs=None,
            finish_reason=None,
        )
