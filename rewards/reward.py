"""A reward: a scorer and a credit rule, checked where they meet."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tokengym.envs.episode import Episode
from tokengym.rewards.credits.base import Credit, FloatArray
from tokengym.rewards.credits.probe import Continuations, Probe
from tokengym.rewards.errors import (
    CreditError,
    NoScoreError,
    RewardError,
    ScorerError,
    raised_by,
)
from tokengym.rewards.maths.redistribution import close_sum
from tokengym.rewards.maths.signed_parts import shift_reply_credit
from tokengym.rewards.scorers.base import Scorer, Scores
from tokengym.rewards.scorers.wrappers import Normalize, ScorerWrapper
from tokengym.rewards.scores import inner_parts, remedy_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LOG = logging.getLogger(__name__)

MAX_UNREAD_SHARE = 0.1
"""Largest share of texts that a scorer cannot read and nothing is said of."""
READ_EPISODES = 16
"""Episodes whose texts tell whether a scorer can read them."""
SLOW_SHARE = 0.5
"""Share of the time since the first scoring above which a slow scorer is named, once."""
SLOW_SECONDS = 60.0
"""Seconds of scoring before a slow scorer is named: a model's first call is slow."""


def warn_unread(scorer: Scorer, share: float) -> None:
    """Warn of a scorer that cannot read a share of the texts that it scores."""
    _LOG.warning(
        "%s has no tokens for %.0f %% of the words it scores, so that its scores say little; pass "
        "reward_model=, encoder= or scorer= that reads these texts",
        scorer.name,
        100 * share,
    )


@dataclass(frozen=True, kw_only=True)
class RewardTraits:
    """What learners ask of a reward, also of one that is paid in another process."""

    credit: str
    """Name of the rule."""
    gae_lambda: float | None
    """The lambda that the rule declares, None if it declares none."""
    needs_policy: bool
    """Whether the rule continues responses with a policy."""
    statistics: tuple[str, ...]
    """Names of the running statistics of its scorer, which episodes change."""


def warn_unscored(missing: int, count: int, scorer: str) -> None:
    """Warn of episodes that have no score."""
    _LOG.warning(
        "%d of %d episodes have no score, as their partner or scorer %r failed; means and learners "
        "leave them out",
        missing,
        count,
        scorer,
    )


class Reward:
    """Score of a response, and the credit of its tokens.

    Args:
        scorer: A scorer.
        credit: The rule that spreads each score over the tokens.
        tokenizer: The policy's; `bind` sets it, and the reward wrappers call `bind`.

    Raises:
        TypeError: if either is something else.
        RewardError: if the credit needs attributions of a kind that the scorer cannot give.
    """

    def __init__(
        self,
        scorer: Scorer,
        credit: Credit,
        *,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
    ) -> None:
        for given, base in ((scorer, Scorer), (credit, Credit)):
            if not isinstance(given, base):
                raise TypeError(
                    f"a reward is a Scorer and a Credit, got {given!r}; make its class a subclass "
                    f"of tokengym.rewards.{base.__name__}"
                )
        self.scorer = scorer
        self.credit = credit
        self.scorer_name = scorer.name
        self.credit_name: str = credit.name or type(credit).__name__
        self.tokenizer = tokenizer
        self.continuations: Continuations | None = None
        """The policy that learns, where one is bound; for credit with ``needs_policy``."""
        self.seconds = 0.0
        """Seconds that scoring has taken."""
        self.scored = 0
        """Episodes scored so far."""
        self.unscored = 0
        """Those among them that have no score: their partner or their judge failed."""
        self.unread_share: float | None = None
        """Share of the first `READ_EPISODES` texts that the scorer has no tokens for; None before
        so many were scored."""
        self._shares: list[float] = []
        self.clock = time.monotonic
        self._began: float | None = None
        self._warns = not credit.needs_policy  # whose time is also that of a policy
        kinds, kind = scorer.attribution_kinds, credit.attribution
        if kind is not None and kinds is not None and kind not in kinds:
            raise RewardError(
                f"credit {self.credit_name!r} needs {kind} attributions, scorer "
                f"{self.scorer_name!r} gives {', '.join(sorted(kinds)) or 'none'}; "
                f"{remedy_for(kind)}"
            )

    @property
    def name(self) -> str:
        """The credit's and the scorer's names."""
        return f"{self.credit_name}({self.scorer_name})"

    @property
    def raw_scorer(self) -> Scorer:
        """The scorer without the normalisation of its values."""
        scorer = self.scorer
        while isinstance(scorer, Normalize):
            scorer = scorer.scorer
        return scorer

    @property
    def statistics(self) -> list[Normalize]:
        """The running statistics that change as episodes are scored, the outermost first."""
        layers, scorer = [], self.scorer
        while isinstance(scorer, ScorerWrapper):
            layers += [scorer] if isinstance(scorer, Normalize) else []
            scorer = scorer.scorer
        return layers

    @property
    def traits(self) -> RewardTraits:
        """What learners ask of it."""
        return RewardTraits(
            credit=self.credit_name,
            gae_lambda=self.credit.gae_lambda,
            needs_policy=self.credit.needs_policy,
            statistics=tuple(one.name for one in self.statistics),
        )

    def __repr__(self) -> str:
        return f"Reward({self.name})"

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "Reward":
        """Return the reward for responses of a policy's tokenizer.

        Args:
            tokenizer: What made every ``response_ids``.

        Raises:
            TokenizerError: if the scorer cannot read its ids.
            RewardError: if it cannot give the credit's attributions for them.
        """
        # Its kinds are checked again: a text written in other tokens has fewer.
        return Reward(self.scorer.bind(tokenizer), self.credit.bind(tokenizer), tokenizer=tokenizer)

    def evaluate(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Return the episodes with their score, its parts and their token rewards.

        Args:
            episodes: Finished episodes; scored as one batch.

        Raises:
            ScorerError: if a score is not one finite number per episode, or the scorer raises.
            CreditError: if token rewards do not fit the tokens or do not sum to the score. Both
                keep the episodes in their ``episodes``.
        """
        if not episodes:
            return []
        with self.scoring(len(episodes), episodes):
            for index, episode in enumerate(episodes):
                if not episode.response_ids:
                    raise CreditError(
                        f"episode {index} has no response_ids, so no token can earn its score; "
                        "give the response at least one token (the EOS counts)"
                    )
            finished = [row for row, episode in enumerate(episodes) if not episode.is_lost]
            paid = [episode.with_rewards(None, {}, None) for episode in episodes]
            if finished:
                scored = self._evaluate_finished([episodes[row] for row in finished])
                for row, episode in zip(finished, scored, strict=True):
                    paid[row] = episode
            self._count_unscored(paid)
            return paid

    def credit_scored(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Return episodes with the credit for the scores that they have from this scorer.

        Only a rule that reads attributions has the scorer asked again; what has no score is
        returned as it is.

        Raises:
            ScorerError: as `evaluate` does.
            CreditError: likewise.
        """
        known = [row for row, episode in enumerate(episodes) if episode.score is not None]
        scored, paid = [episodes[row] for row in known], list(episodes)
        if self.credit.attribution is not None or self.credit.needs_attributions:
            found: Sequence[Episode | None] = self.evaluate(scored)
        else:
            names = dict.fromkeys(name for episode in scored for name in episode.score_parts)
            parts = {name: [e.score_parts.get(name) for e in scored] for name in names}
            found = scored and self._credited(scored, Scores([e.score for e in scored], parts))
        for row, one in zip(known, found, strict=True):
            paid[row] = paid[row] if one is None else one
        return paid

    def _evaluate_finished(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Return what `evaluate` does, of episodes that no partner's failure lost."""
        scores = self._scores(episodes)
        self._check_reading(episodes)
        paid = [e.with_rewards(None, self._parts(scores, i), None) for i, e in enumerate(episodes)]
        # What has no score has no credit: the rule is not shown it.
        known = np.flatnonzero(scores.measured).tolist()
        if known:
            of_known = [episodes[row] for row in known]
            for row, one in zip(known, self._credited(of_known, scores.select(known)), strict=True):
                paid[row] = paid[row] if one is None else one
        return paid

    def _credited(self, episodes: Sequence[Episode], scores: Scores) -> list[Episode | None]:
        """Return episodes with score and credit; None where the rule asked for what has no score.

        A rule asks for all episodes at once, and one by one where an answer is missing.
        """
        try:
            with self.crediting(len(episodes)):
                credited, rewards = self._credit(episodes, scores)
        except NoScoreError:
            if len(episodes) == 1:
                return [None]
            rows = range(len(episodes))
            return [self._credited([episodes[row]], scores.select([row]))[0] for row in rows]
        return [
            episode.with_rewards(
                float(credited.values[row]), self._parts(credited, row), rewards[row]
            )
            for row, episode in enumerate(episodes)
        ]

    def _parts(self, scores: Scores, row: int) -> dict[str, float]:
        """Return the parts of an episode's score that were measured."""
        parts = scores.parts_of(row)
        return parts if isinstance(self.scorer, Normalize) else inner_parts(parts)

    def _scores(self, episodes: Sequence[Episode]) -> Scores:
        """Return the scorer's checked scores, with the attributions that the credit reads."""
        name, kind = self.scorer_name, self.credit.attribution
        # A scorer that does not say what it has is asked for nothing.
        asks = kind is not None and self.scorer.attribution_kinds is not None
        options = {"attribution": kind} if asks else {}
        scores = self.scorer.score(episodes, **options)
        if not isinstance(scores, Scores):
            raise ScorerError(
                f"scorer {name!r} returned {type(scores).__name__}; return "
                "Scores(values=one number per episode)"
            )
        scores.check(episodes, name)
        return scores

    def _credit(
        self, episodes: Sequence[Episode], scores: Scores
    ) -> tuple[Scores, Sequence[FloatArray]]:
        """Return scores as the credit read them, and the token rewards, (n,) of each episode."""
        scores = self._attributed(episodes, scores)
        is_talk = any(episode.written is not None for episode in episodes)
        rewards = (assign_policy_tokens if is_talk else _assign)(self.credit, episodes, scores)
        self._check_rewards(episodes, scores, rewards)
        return scores, rewards

    def _count_unscored(self, episodes: Sequence[Episode]) -> None:
        """Count episodes that have no score, and say so once."""
        missing = sum(episode.score is None for episode in episodes)
        if missing and not self.unscored:
            warn_unscored(missing, len(episodes), self.scorer_name)
        self.unscored += missing

    def _check_reading(self, episodes: Sequence[Episode]) -> None:
        """Warn, once, of a scorer that cannot read the first texts that it scores."""
        if self.unread_share is not None:
            return
        first = episodes[: READ_EPISODES - len(self._shares)]
        self._shares += map(float, self.scorer.oov_fraction(first))
        if len(self._shares) < READ_EPISODES:
            return
        self.unread_share = float(np.mean(self._shares))
        if self.unread_share > MAX_UNREAD_SHARE:
            warn_unread(self.raw_scorer, self.unread_share)

    def _attributed(self, episodes: Sequence[Episode], scores: Scores) -> Scores:
        """Return scores with the attributions that the credit needs, its own or the scorer's."""
        name, kind = self.credit_name, self.credit.attribution
        if self.credit.needs_attributions:
            probe = Probe(self.scorer, self.tokenizer, self.continuations)
            scores = self.credit.attribute(probe, episodes, scores)
            if not isinstance(scores, Scores):
                raise CreditError(
                    f"credit {name!r} returned {type(scores).__name__} from attribute(); return "
                    "scores.with_attributions(...)"
                )
            scores.check(episodes, name, of="credit")
        if kind is not None and scores.attributions is None:
            raise CreditError(
                f"credit {name!r} needs {kind} attributions, scorer {self.scorer_name!r} "
                f"returned none; {remedy_for(kind)}"
            )
        return scores

    def crediting(self, count: int) -> AbstractContextManager[None]:
        """Return a context in which what is raised over so many episodes is the credit's fault."""
        return raised_by(f"credit {self.credit_name!r}", CreditError, count)

    @contextmanager
    def scoring(self, count: int, finished: Sequence[Episode] = ()) -> Iterator[None]:
        """Count the time of this context; have what is raised in it carry finished episodes.

        A scorer that takes most of the time is named in a warning, once.

        Args:
            count: Texts that are scored.
            finished: Episodes without a score.

        Raises:
            RewardError: what was raised, with ``episodes``; a `ScorerError` where the scorer's own
                code raised something else.
        """
        started = self.clock()
        if self._began is None:
            self._began = started
        try:
            with raised_by(f"scorer {self.scorer.name!r}", ScorerError, len(finished)):
                yield
        except RewardError as failure:
            # Without the zeros that an environment without a reward gives them.
            unscored: dict[str, Any] = {"score": None, "score_parts": {}, "token_rewards": None}
            failure.keep([replace(episode, **unscored) for episode in finished])
            raise
        finally:
            now = self.clock()
            self.seconds += now - started
            self.scored += count
            passed = now - self._began
            if self._warns and self.seconds >= max(SLOW_SECONDS, SLOW_SHARE * passed):
                self._warns = False
                _LOG.warning(
                    "scorer %r takes %.0f %% of the time, %.2g s for each of %d episodes; score "
                    "more rows at once (num_envs), or wrap it in Cached where texts repeat",
                    self.scorer_name,
                    100 * self.seconds / passed,
                    self.seconds / max(self.scored, 1),
                    self.scored,
                )

    def _check_rewards(
        self, episodes: Sequence[Episode], scores: Scores, rewards: Sequence[FloatArray]
    ) -> None:
        """Raise unless there is one finite reward per token, (n,), and they sum to the score."""
        who = f"credit {self.credit_name!r}"
        if len(rewards) != len(episodes):
            counts = f"{len(rewards)} arrays for {len(episodes)} episodes"
            raise CreditError(f"{who} returned {counts}; return one per episode")
        for row, (episode, tokens) in enumerate(zip(episodes, rewards, strict=True)):
            expected = (len(episode.response_ids),)
            if np.shape(tokens) != expected or not np.isfinite(tokens).all():
                raise CreditError(
                    f"{who} returned {tokens} of shape {np.shape(tokens)} for episode {row}; "
                    f"expected finite ones, {expected}, one reward per response token"
                )
            score, total = float(scores.values[row]), float(np.sum(tokens, dtype=np.float64))
            if self.credit.sum_preserving and not close_sum(score, tokens):
                raise CreditError(
                    f"{who} gives episode {row} rewards that sum to {total:.6g}, its score is "
                    f"{score:.6g}; rescale them, or declare sum_preserving = False"
                )


def _assign(credit: Credit, episodes: Sequence[Episode], scores: Scores) -> Sequence[FloatArray]:
    """Return what a rule assigns, (n,) for each episode, once it is a sequence."""
    rewards: Sequence[FloatArray] = credit.assign(episodes, scores)
    if not isinstance(rewards, Sequence | np.ndarray):  # by code of the user's
        name, kind = credit.name or type(credit).__name__, type(rewards).__name__
        raise CreditError(f"credit {name!r} returned {kind}; return one array per episode")
    return rewards


def assign_policy_tokens(
    credit: Credit, episodes: Sequence[Episode], scores: Scores
) -> Sequence[FloatArray]:
    """Return the token rewards of a rule, 0 at tokens that the policy did not write.

    A rule is shown the written tokens alone, with the scorer's account of them. What a reply's
    tokens have to do with the score belongs to the step that appended them, the last token of the
    turn before (see `shift_reply_credit`). A rule that reads turns, or a language model, is shown
    all tokens.

    Args:
        credit: The rule.
        episodes: Finished episodes; of those without replies all tokens are written.
        scores: Their scores.

    Returns:
        Per episode (len(response_ids),) reward units.
    """
    masks = [
        np.ones(len(e.response_ids), np.int8) if e.written is None else e.written for e in episodes
    ]
    if credit.reads_turns or credit.needs_reference:
        rewards = _assign(credit, episodes, scores)
        if len(rewards) != len(episodes) or not credit.sum_preserving:
            return [np.asarray(r) * m for r, m in zip(rewards, masks, strict=False)]
        return [shift_reply_credit(r, m) for r, m in zip(rewards, masks, strict=True)]
    written = []  # the episodes as if there had been no replies
    for episode, mask in zip(episodes, masks, strict=True):
        places = np.flatnonzero(mask).tolist()
        per_token = {"log_probs": episode.log_probs, "token_rewards": episode.token_rewards}
        fields: dict[str, Any] = {k: None if v is None else v[places] for k, v in per_token.items()}
        ids = [episode.response_ids[place] for place in places]
        written.append(replace(episode, response_ids=ids, written=None, turns=(), **fields))
    if scores.attributions is not None:
        rows = zip(scores.attributions, masks, strict=True)
        # (written tokens,) each
        attributions = [shift_reply_credit(row, mask)[mask > 0] for row, mask in rows]
        scores = replace(scores, attributions=attributions)
    rewards = _assign(credit, written, scores)
    if [np.shape(r) for r in rewards] != [(len(e.response_ids),) for e in written]:
        return rewards  # refused by whoever checks them
    placed = [np.zeros(len(mask), dtype=np.float32) for mask in masks]
    for target, tokens, mask in zip(placed, rewards, masks, strict=True):
        target[mask > 0] = tokens
    return placed
