"""Token credit for responses from anywhere: no environment and no agent.

    from tokengym.credit import assign

    credited = assign(texts, "path/to/reward_model", "abc-signed", tokenizer=tokenizer)
    credited.token_rewards  # (batch, time), each row sums to the response's score

The bridges to other trainers and any loop of one's own call it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokengym.base.chat import NO_CHAT, Chat, Messages, is_messages
from tokengym.base.errors import TokenizerError
from tokengym.base.prompt import NO_METADATA, Metadata, QueryType
from tokengym.envs.episode import Episode, FinishReason
from tokengym.envs.prompts.conversation import encode_chats
from tokengym.envs.prompts.tokenization import encode, encode_next
from tokengym.envs.prompts.vocabulary import Vocabulary
from tokengym.rewards import Reward, make_reward
from tokengym.rewards.errors import RewardError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokengym.rewards.credits.rule import Rule
    from tokengym.rewards.scorers.base import Scorer

Text = str | Sequence[int]
"""A text, or the ids of its tokens."""


@dataclass(frozen=True, kw_only=True)
class Credited:
    """Scores of responses, and what each of their tokens earned."""

    scores: NDArray[np.float32]
    """(batch,) score of each response; NaN where the scorer gave none."""
    token_rewards: NDArray[np.float32]
    """(batch, time), 0 past a response's end and where there is no score; each other row sums to
    its score, unless the rule says that it does not (`Rule.conserves`)."""
    mask: NDArray[np.bool_]
    """(batch, time), True on the tokens that the policy wrote."""
    episodes: tuple[Episode, ...]
    """The responses with all that is known of them."""


class Responses:
    """Responses of one tokenizer as episodes that nobody has scored.

    Args:
        tokenizer: Tokenizer of the responses.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._ends = Vocabulary.of(tokenizer).end_ids

    def episodes(
        self,
        responses: Sequence[Text],
        *,
        prompts: Sequence[Text | Messages] | None = None,
        references: Sequence[str | None] | None = None,
        query_types: Sequence[QueryType | None] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        written: Sequence[Sequence[int]] | None = None,
        log_probs: Sequence[Sequence[float]] | None = None,
        entropy: Sequence[Sequence[float]] | None = None,
    ) -> list[Episode]:
        """Return responses as episodes; arguments and errors are `TokenCredit.__call__`'s."""
        for name, one in (("responses", responses), ("prompts", prompts)):
            if isinstance(one, str):
                raise ValueError(
                    f"{name} must be a list of texts, got one text {one[:40]!r}; pass [{name[:-1]}]"
                )
        count = len(responses)
        if not count:
            raise ValueError("responses is empty; pass at least one")
        columns: dict[str, Sequence[Any] | None] = {
            **{"prompts": prompts, "references": references, "query_types": query_types},
            **{"metadata": metadata, "written": written},
            **{"log_probs": log_probs, "entropy": entropy},
        }
        for name, column in columns.items():
            if column is not None and len(column) != count:
                raise ValueError(
                    f"got {len(column)} {name} for {count} responses; pass one for each"
                )
        filled = ([None] * count if column is None else column for column in columns.values())
        return [self._episode(*row) for row in zip(responses, *filled, strict=True)]

    def _episode(
        self,
        response: Text,
        prompt: Any,
        reference: str | None,
        query_type: QueryType | None,
        columns: Mapping[str, Any] | None,
        written: Sequence[int] | None,
        log_probs: Sequence[float] | None,
        entropy: Sequence[float] | None,
    ) -> Episode:
        """Return one response as an episode; arguments are rows of those of `__call__`."""
        asked, prompt_ids, chat = self._asked("" if prompt is None else prompt)
        text, ids = self._both(response, before=prompt_ids)
        spelled = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        if spelled.strip() != text.strip():
            raise TokenizerError(
                f"the tokens of {text[:40]!r} spell {spelled[:40]!r}, so that credit would "
                "fall on another text than the scored one; pass the token ids"
            )
        marks = np.array([1] * len(ids) if written is None else written, dtype=np.int8)
        if len(marks) != len(ids) or not marks[:1].all():
            raise ValueError(
                f"written has {len(marks)} entries for the {len(ids)} tokens of {text[:40]!r} and "
                f"begins with {marks[:1].tolist()}; pass one per token, the policy's first"
            )
        for name, values in (("log_probs", log_probs), ("entropy", entropy)):
            if values is not None and len(values) != len(ids):
                raise ValueError(
                    f"{name} has {len(values)} entries for the {len(ids)} tokens of {text[:40]!r}; "
                    "pass one per token"
                )
        finish_reason: FinishReason | None = None
        # A text does not show what ended it.
        if not isinstance(response, str) and marks[-1:].any():
            finish_reason = "eos" if ids[-1] in self._ends else "length"
        return Episode(
            prompt=asked,
            response=text,
            finish_reason=finish_reason,
            prompt_ids=prompt_ids,
            messages=chat,
            response_ids=ids,
            reference=reference,
            query_type=query_type,
            metadata=NO_METADATA if columns is None else Metadata(columns),
            written=None if marks.all() else marks,
            log_probs=_at_own(log_probs, marks),
            entropy=_at_own(entropy, marks),
        )

    def _asked(self, prompt: Any) -> tuple[str, Sequence[int], Chat]:
        """Return a prompt's text, its ids, and the conversation that it is, if it is one."""
        if is_messages(prompt):
            chat = prompt if isinstance(prompt, Chat) else Chat(prompt)
            (written,) = encode_chats(self.tokenizer, [chat])
            return chat.text, written, chat
        text, ids = self._both(prompt) if len(prompt) else ("", ())
        return text, ids, NO_CHAT

    def _both(self, text: Text, before: Sequence[int] | None = None) -> tuple[str, Sequence[int]]:
        """Return a text and its ids, whichever is given; a response is what follows ``before``."""
        if isinstance(text, str):
            if before is None:
                (ids,) = encode(self.tokenizer, [text])
            else:
                (ids,) = encode_next(self.tokenizer, [text], [before])
            return text, ids
        ids = [int(token) for token in text]
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)), ids


class TokenCredit(Responses):
    """A scorer and a credit rule for the tokens of one tokenizer, loaded once.

    Args:
        scorer: What ``gym.make(..., scorer=)`` takes: a `Scorer`, a function of prompt and
            response, a scorer's name with options, "file.py:name", or the folder or name of a
            reward model.
        rule: Credit rule: its name with options as in "abc:beta=1", "file.py:my_rule", or a
            function that `token_credit` marked.
        tokenizer: Tokenizer whose tokens are credited; the scorer may have another.
        reference_policy: Folder or hub name of the frozen language model that the rule reads, where
            it reads one.

    Raises:
        RewardError: if the rule needs attributions that the scorer has not, or a policy, or
            ``reference_policy`` is missing or has no effect.
        TokenizerError: if the scorer or the rule reads ids of another tokenizer.
    """

    def __init__(
        self,
        scorer: Scorer | str | Path | Any,
        rule: str | Rule | Callable[..., Any] = "sparse",
        *,
        tokenizer: PreTrainedTokenizerBase,
        reference_policy: str | Path | None = None,
    ) -> None:
        super().__init__(tokenizer)
        reward = make_reward(rule, scorer=scorer)
        if reference_policy is not None:
            reading = reward.credit.with_reference(reference_policy)
            if reading is reward.credit:
                raise RewardError(
                    f"reference_policy={str(reference_policy)!r} has no effect with credit "
                    f"{reward.credit_name!r}, which reads no language model or has one; omit it"
                )
            reward = Reward(reward.scorer, reading)
        self.reward = reward.bind(tokenizer)
        if self.reward.credit.needs_reference:
            self.reward.credit.reader()  # or says now that there is none
        if "turn_scores" in self.reward.credit.reads:
            raise RewardError(
                f"credit {self.reward.credit_name!r} reads 'turn_scores', which a text does not "
                "say; make an environment with partner=..., or replay its episodes"
            )
        if self.reward.credit.needs_policy:
            raise RewardError(
                f"credit {self.reward.credit_name!r} continues responses with the policy, which is "
                "not known here; take a rule that reads the finished text, such as 'abc-signed'"
            )

    @property
    def carries(self) -> tuple[str, ...]:
        """Figures of the policy that the rule reads, which a call has to pass."""
        return self.reward.credit.carried

    def __call__(
        self,
        responses: Sequence[Text],
        *,
        prompts: Sequence[Text | Messages] | None = None,
        references: Sequence[str | None] | None = None,
        query_types: Sequence[QueryType | None] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        written: Sequence[Sequence[int]] | None = None,
        log_probs: Sequence[Sequence[float]] | None = None,
        entropy: Sequence[Sequence[float]] | None = None,
    ) -> Credited:
        """Return what the tokens of responses earn.

        Args:
            responses: Texts, or token ids, which are credited as they are. Ids are finished by
                "eos" or "length" (`Episode.finish_reason`); of a text that is not known.
            prompts: Texts or ids of the prompts, or conversations, which the policy read in its
                tokenizer's chat template; None stands for empty ones.
            references: Reference answers, for scorers that compare with one.
            query_types: R3's annotations of the prompts, "OPENENDED" or "CONSTRAINED".
            metadata: Further columns of the prompts by name: a scoring function gets those that
                its parameters name.
            written: In conversations, 1 at each token that the policy wrote and 0 at those of
                tools and users, which are read and not paid; None where it wrote all.
            log_probs: Nats, of each response token as the policy sampled it, for a rule that reads
                them (`carries`); any number at tokens that it did not write.
            entropy: Nats, of the policy before each response token, likewise.

        Raises:
            RewardError: if the rule reads one of the last two, and it is not passed.
            ValueError: if there are no responses, or not one prompt, annotation or mask for each.
            TokenizerError: if the tokens of a text do not spell it.
            ScorerError: if a score is no finite number.
        """
        given = {"log_probs": log_probs, "entropy": entropy}
        for name in self.carries:
            if given[name] is None:
                raise RewardError(
                    f"credit {self.reward.credit_name!r} reads {name!r}, which a text does not "
                    f"say; pass {name}=[...], one number for each response token"
                )
        paid = self.reward.evaluate(
            self.episodes(
                responses,
                prompts=prompts,
                references=references,
                query_types=query_types,
                metadata=metadata,
                written=written,
                **given,
            )
        )
        longest = max(len(episode.response_ids) for episode in paid)
        rewards = np.zeros((len(paid), longest), dtype=np.float32)
        mask = np.zeros((len(paid), longest), dtype=bool)
        for row, episode in enumerate(paid):
            length = len(episode.response_ids)
            if episode.token_rewards is not None:
                rewards[row, :length] = episode.token_rewards
            mask[row, :length] = True if episode.written is None else episode.written > 0
        scores = np.array([episode.score for episode in paid], dtype=np.float32)  # None is NaN
        return Credited(scores=scores, token_rewards=rewards, mask=mask, episodes=tuple(paid))


def _at_own(values: Sequence[float] | None, marks: NDArray[np.int8]) -> NDArray[np.float32] | None:
    """Return figures of tokens, (time,), 0 where the policy did not write."""
    return None if values is None else np.where(marks > 0, values, 0.0).astype(np.float32)


def assign(
    responses: Sequence[Text],
    scorer: Scorer | str | Path | Any,
    rule: str | Rule | Callable[..., Any] = "sparse",
    *,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Text] | None = None,
    references: Sequence[str | None] | None = None,
    reference_policy: str | Path | None = None,
) -> Credited:
    """Score responses and return what each of their tokens earned; see `TokenCredit`.

    A loop makes a `TokenCredit` once and calls it, so that models are loaded once.
    """
    credit = TokenCredit(scorer, rule, tokenizer=tokenizer, reference_policy=reference_policy)
    return credit(responses, prompts=prompts, references=references)
