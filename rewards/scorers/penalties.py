"""Penalties on the form of a response: its length, and a missing end."""

import copy
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from tokengym.base.settings import check_choice, check_number
from tokengym.envs.episode import Episode
from tokengym.envs.prompts.tokenization import decode
from tokengym.envs.prompts.vocabulary import Vocabulary
from tokengym.envs.turns.partner import POLICY
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.scorers.base import Scorer, Scores, register_scorer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LengthPenalty(Scorer):
    """Minus a constant per character (or token) of the response: add it to another scorer.

    value = -rate * length

    In a conversation the length is that of the policy's turns together.

    Args:
        rate: Per unit of length; negative for a bonus.
        unit: "characters" of the response's text, or "tokens" (the EOS included).

    Raises:
        ScorerError: if the rate is not finite, or the unit unknown.

    Source: R - 0.001 * characters in Dong et al. 2024, "RLHF Workflow", arXiv:2405.07863.
    """

    attribution_kinds = frozenset()

    def __init__(
        self, rate: float = 0.001, *, unit: Literal["characters", "tokens"] = "characters"
    ) -> None:
        self.rate = rate
        self.unit = unit
        check_number(self, "rate", finite=True, error=ScorerError)
        check_choice(self, "unit", ("characters", "tokens"), error=ScorerError)
        self.reads_text = unit == "characters"
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "LengthPenalty":
        """Return the scorer that can tell a policy's characters from others by its tokens."""
        bound = copy.copy(self)
        bound._tokenizer = tokenizer
        return bound

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the penalty of each episode."""
        self.check_attribution(attribution)
        if self.unit == "tokens":
            lengths = [episode.num_written for episode in episodes]
        else:
            lengths = [len("".join(self._said(episode))) for episode in episodes]
        return Scores(values=-self.rate * np.array(lengths, dtype=np.float64))

    def _said(self, episode: Episode) -> list[str]:
        """Return what the policy wrote, turn by turn."""
        if episode.turns:
            return [turn.text for turn in episode.turns if turn.role == POLICY]
        if episode.written is None or episode.written.all():
            return [episode.response]
        if self._tokenizer is None:
            raise ScorerError(
                f"scorer {self.name!r} knows by tokens alone what the policy wrote of "
                f"{episode.response[:40]!r}; call bind(tokenizer), or take unit=tokens"
            )
        starts = np.flatnonzero(np.diff(episode.written)) + 1
        runs = zip(
            np.split(np.array(episode.response_ids), starts),
            np.split(episode.written, starts),
            strict=True,
        )
        return decode(self._tokenizer, [ids.tolist() for ids, written in runs if written[0]])


class MissingEosPenalty(Scorer):
    """Minus a constant where the response was cut off by the horizon; 0 where it ended by itself.

    An EOS or a stop string is an end. An episode that does not say why it ended is judged by its
    last id, for which the scorer must know the policy's tokenizer (`bind`).

    Args:
        penalty: Reward units, >= 0.

    Raises:
        ScorerError: if it is negative or not finite.
    """

    attribution_kinds = frozenset()
    reads_text = False

    def __init__(self, penalty: float = 1.0) -> None:
        self.penalty = penalty
        check_number(self, "penalty", least=0, finite=True, error=ScorerError)
        self._end_ids: Collection[int] = ()

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "MissingEosPenalty":
        """Return the scorer that knows the tokens that end a text of this tokenizer."""
        bound = copy.copy(self)
        bound._end_ids = Vocabulary.of(tokenizer).end_ids
        return bound

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the penalty of each episode, refusing those whose end cannot be told."""
        self.check_attribution(attribution)
        values = np.zeros(len(episodes))
        for row, episode in enumerate(episodes):
            if (reason := episode.finish_reason) is not None:
                has_ended = reason in ("eos", "stop")
            elif not self._end_ids:
                raise ScorerError(
                    f"scorer {self.name!r} cannot tell whether {episode.response[:40]!r} ended: it "
                    "has no finish_reason; pass one, or call bind(tokenizer)"
                )
            else:
                has_ended = not set(self._end_ids).isdisjoint(episode.response_ids[-1:])
            values[row] = 0.0 if has_ended else -self.penalty
        return Scores(values=values)


register_scorer("length-penalty", LengthPenalty)
register_scorer("missing-eos-penalty", MissingEosPenalty)
