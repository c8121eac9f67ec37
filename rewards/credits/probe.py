"""Scores of responses with parts left out, and of responses continued by the policy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import UNPLAYED, Episode
from tokengym.envs.prompts.tokenization import decode
from tokengym.rewards.errors import CreditError, NoScoreError, ScorerError, raised_by
from tokengym.rewards.scorers.base import Scorer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Continuations(Protocol):
    """A policy that finishes responses, given to a reward from above (`Reward.continuations`)."""

    def finish(self, prefixes: Sequence[Episode]) -> list[Episode]:
        """Return each response continued to its end by the policy as it is now.

        Args:
            prefixes: Responses that have not ended; the same one may come several times.
        """


@dataclass
class Probe:
    """A scorer that answers "what if?": how much is this response worth without those tokens?

    Asking changes no running statistics (`Scorer.score_prefix`).
    """

    scorer: Scorer
    """What is asked."""
    tokenizer: "PreTrainedTokenizerBase | None" = None
    """The policy's, which decodes what is left of a response; a scorer that reads ids alone needs
    none."""
    continuations: Continuations | None = None
    """The policy, for credit rules with ``needs_policy``."""

    def finish(self, prefixes: Sequence[Episode]) -> list[Episode]:
        """Return responses continued by the policy that is bound; see `Continuations`."""
        if self.continuations is None:
            raise CreditError(
                "this credit continues responses with the policy, and no policy is bound to the "
                "environment; train with a learner of tokengym.agents, which binds its own, or "
                "call tokengym.agents.bind_policy(env, agent); rows in other processes have none"
            )
        return self.continuations.finish(prefixes) if prefixes else []

    def values(self, episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Return the score of each text, (batch,), in the scale of the finished episodes' scores.

        Args:
            episodes: Texts as `restrict` returns them; their responses may be empty.
        """
        if not episodes:
            return np.zeros(0)
        who, count = f"scorer {self.scorer.name!r}", len(episodes)
        with raised_by(who, ScorerError, count):
            values = np.asarray(self.scorer.score_prefix(episodes), dtype=np.float64)
        if values.shape == (count,) and (missing := int(np.isnan(values).sum())):
            raise NoScoreError(
                f"{who} gave {missing} of {count} texts with parts left out no score, and without "
                "them there is no credit; take on_error='raise' of a judge to see why"
            )
        if values.shape != (count,) or not np.isfinite(values).all():
            raise ScorerError(
                f"{who} returned {values} of shape {values.shape} for {count} texts with parts "
                "left out; scores must be finite, one per text"
            )
        return values

    def restrict(self, episode: Episode, positions: Sequence[int]) -> Episode:
        """Return the episode with some of its response's tokens, in order; the others are gone.

        Args:
            episode: A finished episode.
            positions: Positions in the response, ascending.
        """
        ids = [episode.response_ids[position] for position in positions]
        if not self.scorer.reads_text:
            text = ""
        elif self.tokenizer is None:
            raise ScorerError(
                f"scorer {self.scorer.name!r} reads texts, and without the policy's "
                "tokenizer a part of a response cannot be written; call reward.bind(tokenizer)"
            )
        else:
            text = decode(self.tokenizer, [ids])[0]
        turns = tuple(turn for turn in episode.turns if turn.span[1] <= len(ids))
        is_beginning = list(positions) == list(range(len(ids)))
        return replace(
            episode,
            response=text,
            response_ids=ids,
            turns=turns if is_beginning else (),
            written=None if episode.written is None else episode.written[list(positions)],
            **UNPLAYED,
            finish_reason=None if len(ids) < len(episode.response_ids) else episode.finish_reason,
        )
