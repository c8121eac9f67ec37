"""Scores of responses with parts left out, and of responses continued by the policy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import UNPLAYED, Episode
from tokengym.envs.prompts.tokenization import decode
from tokengym.envs.turns.conversation import turn_start
from tokengym.envs.turns.partner import POLICY, Turn
from tokengym.rewards.errors import CreditError, NoScoreError, ScorerError, raised_by
from tokengym.rewards.scorers.base import Scorer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Continuations(Protocol):
    """A policy that finishes responses, given to a reward from above (`Reward.continuations`)."""

    def finish(self, prefixes: Sequence[Episode], seeds: Sequence[Sequence[int]]) -> list[Episode]:
        """Return each response continued to its end by the policy as it is now.

        Args:
            prefixes: Responses that have not ended; the same one may come several times.
            seeds: Of the draws of each.
        """


@dataclass
class Probe:
    """A scorer that answers "what if?": how much is this response worth without those tokens?

    Asking changes no running statistics (`Scorer.score_prefix`).
    """

    scorer: Scorer
    """What is asked."""
    tokenizer: "PreTrainedTokenizerBase | None" = None
    """The policy's, which decodes what is left of a response and of its turns; a scorer that reads
    ids alone needs none."""
    continuations: Continuations | None = None
    """The policy, for credit rules with ``needs_policy``."""

    def finish(self, prefixes: Sequence[Episode], seeds: Sequence[Sequence[int]]) -> list[Episode]:
        """Return responses continued by the policy that is bound; see `Continuations`.

        Of a conversation the turns that are over are handed on: the one that a response breaks off
        in is what the policy writes on.
        """
        if self.continuations is None:
            raise CreditError(
                "this credit continues responses with the policy, and no policy is bound to the "
                "environment; train with a learner of tokengym.agents, which binds its own, or "
                "call tokengym.agents.bind_policy(env, agent); rows in other processes have none"
            )
        begun = [
            replace(one, turns=one.turns[:-1])
            if one.turns and one.turns[-1].role == POLICY
            else one
            for one in prefixes
        ]
        return self.continuations.finish(begun, seeds) if begun else []

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

        Each turn of a conversation keeps the text that is left of it, and one of which nothing is
        left is gone. A partner's scores remain with the whole turns of a response's beginning.

        Args:
            episode: A finished episode, or an unfinished one.
            positions: Positions in the response, ascending.
        """
        places = np.asarray(positions, dtype=np.int64)
        ids = [episode.response_ids[place] for place in places.tolist()]
        if self.scorer.reads_text and self.tokenizer is None:
            raise ScorerError(
                f"scorer {self.scorer.name!r} reads texts, and without the policy's "
                "tokenizer a part of a response cannot be written; call reward.bind(tokenizer)"
            )
        (text,) = self._written([ids]) if self.scorer.reads_text else [""]
        return replace(
            episode,
            response=text,
            response_ids=ids,
            turns=self._turns_left(episode, places, ids),
            written=None if episode.written is None else episode.written[places],
            **UNPLAYED,
            finish_reason=None if len(ids) < len(episode.response_ids) else episode.finish_reason,
        )

    def with_open_turn(self, episode: Episode) -> Episode:
        """Return an unfinished episode whose turns include the one that is being written.

        An environment lists the turns that are over.
        """
        start, size = turn_start(episode.turns), len(episode.response_ids)
        is_talk = bool(episode.turns) or episode.written is not None
        is_told = any(turn.span[1] > start for turn in episode.turns)
        if not is_talk or is_told or start == size:
            return episode
        if episode.written is not None and not episode.written[start:].all():
            return episode  # a conversation whose turns are not known
        (text,) = self._written([episode.response_ids[start:]])
        return replace(episode, turns=(*episode.turns, Turn(POLICY, text, (start, size))))

    def _turns_left(
        self, episode: Episode, places: NDArray[np.int64], ids: Sequence[int]
    ) -> tuple[Turn, ...]:
        """Return what is left of each turn where only the tokens ``ids`` at ``places`` are."""
        is_beginning = bool((places == np.arange(len(places))).all())
        turns, cut = list[Turn](), list[int]()
        for turn in self.with_open_turn(episode).turns:
            first, past = turn.span
            begin, end = np.searchsorted(places, [first, past]).tolist()
            # A reply that was not appended belongs to the token before it.
            is_there = end > begin or (first == past and (first == 0 or first - 1 in places))
            if not is_there:
                continue
            is_whole = end - begin == past - first
            if not is_whole:
                cut.append(len(turns))
            score = turn.score if is_whole and is_beginning else None
            turns.append(turn._replace(span=(begin, end), score=score))
        texts = self._written([ids[slice(*turns[index].span)] for index in cut])
        for index, text in zip(cut, texts, strict=True):
            turns[index] = turns[index]._replace(text=text)
        return tuple(turns)

    def _written(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of ids; empty ones without a tokenizer, where nothing reads them."""
        if self.tokenizer is None or not sequences:
            return [""] * len(sequences)
        return decode(self.tokenizer, sequences)
