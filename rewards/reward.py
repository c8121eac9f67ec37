"""A reward: a scorer and a credit rule, checked where they meet."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tokengym.envs.episode import RAW_SCORE, Episode
from tokengym.rewards.credits.names import SUPPLIERS
from tokengym.rewards.credits.probe import Continuations
from tokengym.rewards.credits.rule import Rule, as_rule
from tokengym.rewards.errors import (
    CreditError,
    NoScoreError,
    RewardError,
    ScorerError,
    raised_by,
)
from tokengym.rewards.maths.redistribution import close_sum
from tokengym.rewards.scorers.base import Scorer, ScorerWrapper, Scores, checked_accounts
from tokengym.rewards.scorers.wrappers import Normalize
from tokengym.rewards.scores import FloatArray, inner_parts, remedy_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokengym.rewards.credits.inputs import Inputs

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

    name: str
    """Rule and scorer, such as ``sparse(RewardModel(reward_model))``."""
    credit: str
    """Name of the rule."""
    gae_lambda: float | None
    """The lambda that the rule declares, None if it declares none."""
    needs_policy: bool
    """Whether the rule continues responses with a policy."""
    carried: tuple[str, ...]
    """Names that the rule reads of the policy that wrote the episode, which carries them."""
    statistics: tuple[str, ...]
    """Names of the running statistics of its scorer, which episodes change."""


TOLD: set[str] = set()
"""Scorers of whose missing scores this process has warned."""


def warn_unscored(missing: int, count: int, scorer: str) -> None:
    """Warn of episodes that have no score, once for a scorer, training and measuring alike."""
    if scorer not in TOLD:
        TOLD.add(scorer)
        _LOG.warning(
            "%d of %d episodes have no score, as scorer %r gave None, or it or their partner "
            "failed; means and learners leave them out",
            missing,
            count,
            scorer,
        )


def _selected(
    rows: Sequence[int], scores: Scores, accounts: Mapping[str, Scores]
) -> tuple[Scores, dict[str, Scores]]:
    """Return scores, and those with each kind of attribution, of some episodes."""
    return scores.select(rows), {kind: one.select(rows) for kind, one in accounts.items()}


class Reward:
    """Score of a response, and the credit of its tokens.

    Args:
        scorer: A scorer.
        credit: The rule that spreads each score over the tokens: a `Rule`, or a function that
            `token_credit` marked.
        tokenizer: The policy's; `bind` sets it, and the reward wrappers call `bind`.

    Raises:
        TypeError: if either is something else.
        RewardError: if the credit needs attributions of a kind that the scorer cannot give.
    """

    def __init__(
        self,
        scorer: Scorer,
        credit: Rule | Callable[..., Any],
        *,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
    ) -> None:
        rule = as_rule(credit)
        if not isinstance(scorer, Scorer):
            raise TypeError(
                f"a reward is a Scorer and a rule, got {scorer!r}; make its class a subclass of "
                "tokengym.rewards.Scorer"
            )
        if not isinstance(rule, Rule):
            raise TypeError(
                f"a reward is a Scorer and a rule, got {rule!r}; mark its function with "
                "@tokengym.token_credit"
            )
        self.scorer = scorer
        self.credit = rule
        self.scorer_name = scorer.name
        self.credit_name: str = rule.name
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
        self._warns = not rule.needs_policy  # whose time is also that of a policy
        if trainers := rule.reads_of("trainer"):
            raise RewardError(
                f"credit {rule.signature.who} reads {trainers[0]!r}, which comes from "
                f"{SUPPLIERS['trainer']}"
            )
        for kind in self.accounts:
            if (kinds := scorer.attribution_kinds) is not None and kind not in kinds:
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
    def accounts(self) -> list[str]:
        """Kinds of attribution that are asked of the scorer."""
        of_texts = self.scorer.attribution_kinds is not None and not self.scorer.gives_prefixes
        return [kind for kind in self.credit.accounts if kind != "prefix" or not of_texts]

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
            name=self.name,
            credit=self.credit_name,
            gae_lambda=self.credit.gae_lambda,
            needs_policy=self.credit.needs_policy,
            carried=self.credit.carried,
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
        if self._asks_scorer:
            found: Sequence[Episode | None] = self.evaluate(scored)
        else:
            names = dict.fromkeys(name for episode in scored for name in episode.score_parts)
            parts = {name: [e.score_parts.get(name) for e in scored] for name in names}
            scores = Scores([e.score for e in scored], parts)
            found = scored and self._credited(scored, scores, {})
        for row, one in zip(known, found, strict=True):
            paid[row] = paid[row] if one is None else one
        return paid

    @property
    def _asks_scorer(self) -> bool:
        """Whether the rule asks the scorer for more than the scores."""
        return bool({*self.credit.reads_of("scorer")} - {"scores", "paid", "score_parts"})

    def _evaluate_finished(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Return what `evaluate` does, of episodes that no partner's failure lost."""
        scores, accounts = checked_accounts(self.scorer, episodes, self.accounts)
        self._check_reading(episodes)
        paid = [e.with_rewards(None, self._parts(scores, i), None) for i, e in enumerate(episodes)]
        # What has no score has no credit: the rule is not shown it.
        known = np.flatnonzero(scores.measured).tolist()
        if known:
            of_known = [episodes[row] for row in known], *_selected(known, scores, accounts)
            for row, one in zip(known, self._credited(*of_known), strict=True):
                paid[row] = paid[row] if one is None else one
        return paid

    def _credited(
        self, episodes: Sequence[Episode], scores: Scores, accounts: Mapping[str, Scores]
    ) -> list[Episode | None]:
        """Return episodes with score and credit; None where the rule asked for what has no score.

        A rule asks for all episodes at once, and one by one where an answer is missing.
        """
        try:
            with self.crediting(len(episodes)):
                credited, rewards = self._credit(episodes, scores, accounts)
        except NoScoreError:
            if len(episodes) == 1:
                return [None]
            rows = range(len(episodes))
            return [
                self._credited([episodes[row]], *_selected([row], scores, accounts))[0]
                for row in rows
            ]
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

    def _credit(
        self, episodes: Sequence[Episode], scores: Scores, accounts: Mapping[str, Scores]
    ) -> tuple[Scores, Sequence[FloatArray]]:
        """Return scores with the rule's figures, and the token rewards, (n,) of each episode."""
        for kind, account in accounts.items():
            if account.attributions is None and kind != "prefix":  # which texts of their own have
                raise CreditError(
                    f"credit {self.credit_name!r} needs {kind} attributions, scorer "
                    f"{self.scorer_name!r} returned none; {remedy_for(kind)}"
                )
        inputs = self.inputs(episodes, scores=scores, accounts=accounts)
        tokens, figures = self.credit(inputs)
        rewards = [row.astype(np.float32) for row in inputs.placed(tokens)]
        self._check_sums(scores, rewards)
        reported = inner_parts({name: one.cpu().numpy() for name, one in figures.items()})
        if taken := scores.parts.keys() & reported.keys():
            raise CreditError(
                f"credit {self.credit_name!r} returned the figure {min(taken)!r}, which is a part "
                f"of the score of {self.scorer_name!r}; give it another name"
            )
        return Scores(scores.values, {**scores.parts, **reported}, gaps=scores.gaps), rewards

    def inputs(self, episodes: Sequence[Episode], **known: Any) -> "Inputs":
        """Return the names that the rule may read of episodes; ``known`` as for `Inputs`."""
        from tokengym.rewards.credits.inputs import Inputs

        rule = self.credit
        return Inputs(
            episodes,
            scorer=self.scorer,
            tokenizer=self.tokenizer,
            reads=rule.reads,
            reference=rule.reader() if rule.needs_reference else None,
            continuations=self.continuations,
            **known,
        )

    def pieces(self, episodes: Sequence[Episode]) -> list[list[range]]:
        """Return the tokens of each response that are paid in one sum."""
        return self.credit.pieces(episodes, tokenizer=self.tokenizer)

    def _count_unscored(self, episodes: Sequence[Episode]) -> None:
        """Count episodes that have no score, and say so once."""
        missing = sum(episode.score is None for episode in episodes)
        if missing and not self.unscored:
            warn_unscored(missing, len(episodes), self.raw_scorer.name)
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

    def _check_sums(self, scores: Scores, rewards: Sequence[FloatArray]) -> None:
        """Raise unless the rewards of each episode, (n,), sum to its score."""
        if not self.credit.conserves:
            return
        for row, tokens in enumerate(rewards):
            score = float(scores.values[row])
            if not close_sum(score, tokens):
                total, said = float(np.sum(tokens, dtype=np.float64)), scores.parts.get(RAW_SCORE)
                remedy = "rescale them, or declare conserves=False"
                if said is not None and close_sum(float(said[row]), tokens):
                    remedy = "they sum to scores, what the scorer said: divide paid"
                raise CreditError(
                    f"credit {self.credit.signature.who} gives episode {row} rewards that sum to "
                    f"{total:.6g}, its score is {score:.6g}; {remedy}"
                )
