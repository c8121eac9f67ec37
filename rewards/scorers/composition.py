"""Scorers added, multiplied, as in ``RewardModel(...) + 0.5 * LengthPenalty()``, or explained."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.attribution.kinds import SIGNED_KINDS
from tokengym.rewards.attribution.probe import (
    PrefixReader,
    RescoringReader,
    ScaledReader,
    SumReader,
)
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.maths.shares import complete
from tokengym.rewards.scorers.base import (
    AnyScorer,
    Scorer,
    ScorerWrapper,
    Scores,
    SupportsScore,
    as_scorer,
    is_scorer,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class _Combination(Scorer):
    """Base of sums and products: terms, a number, and the bookkeeping of their parts.

    Args:
        terms: Scorers, at least one.
        number: Added, or multiplied with.

    Raises:
        ScorerError: if there is no term, or the number is not finite.
        TypeError: if a term is no scorer.
    """

    symbol = ""
    neutral = 0.0

    def __init__(self, terms: Sequence[SupportsScore], number: float) -> None:
        if not terms:
            raise ScorerError(f"{type(self).__name__} needs at least one scorer, got none")
        for term in terms:
            if not is_scorer(term):
                raise TypeError(
                    f"a term must be a scorer or a number, got {term!r}; wrap a function in "
                    "FunctionScorer"
                )
        if not np.isfinite(number):
            raise ScorerError(f"a scorer combines with finite numbers only, got {number}")
        self.terms: tuple[Scorer, ...] = tuple(map(as_scorer, terms))
        self.number = float(number)
        self.reads_text = any(term.reads_text for term in self.terms)
        self.attribution_kinds = self._kinds()

    @classmethod
    def of(cls, *terms: Any) -> Any:
        """Return the combination of scorers and numbers, one of its own kind taken apart."""
        scorers: list[SupportsScore] = []
        number = cls.neutral
        for term in terms:
            if isinstance(term, (int, float, np.number)) and not isinstance(term, bool):
                number = cls._join(number, float(term))
            elif isinstance(term, cls):
                scorers += term.terms
                number = cls._join(number, term.number)
            else:
                scorers.append(term)
        return cls(scorers, number)

    @staticmethod
    def _join(one: float, two: float) -> float:
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The terms' names, and the number unless it does nothing."""
        names = [term.name for term in self.terms]
        if self.number != self.neutral:
            names.insert(0, f"{self.number:g}")
        return f"({f' {self.symbol} '.join(names)})"

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> Any:
        """Return the combination of the terms bound to the policy's tokenizer."""
        return type(self)([term.bind(tokenizer) for term in self.terms], self.number)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the terms that have one, by position."""
        states = {str(place): term.state_dict() for place, term in enumerate(self.terms)}
        return {place: state for place, state in states.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ScorerError: if it is of other terms.
        """
        for place, inner in state.items():
            if not place.isdigit() or int(place) >= len(self.terms):
                raise ScorerError(
                    f"the state of {self.name!r} has an entry {place!r}, but it has "
                    f"{len(self.terms)} terms; pass what state_dict() returned"
                )
            self.terms[int(place)].load_state_dict(inner)

    def _offering(self, kind: str) -> list[int]:
        """Return which terms have a kind of attribution."""
        return [
            place
            for place, term in enumerate(self.terms)
            if kind in (term.attribution_kinds or frozenset())
        ]

    def _kinds(self) -> frozenset[str]:
        raise NotImplementedError

    def _score_terms(self, episodes: Sequence[Episode], kind: str | None) -> list[Scores]:
        """Return every term's scores, with attributions where it has them."""
        if kind is not None and kind not in (self.attribution_kinds or ()):
            raise ScorerError(
                f"scorer {self.name!r} has no attribution {kind!r}; it has "
                f"{', '.join(sorted(self.attribution_kinds or ())) or 'none'}"
            )
        offering = set() if kind is None else set(self._offering(kind))
        results = []
        for place, term in enumerate(self.terms):
            asked: dict[str, Any] = {"attribution": kind} if place in offering else {}
            scores = term.score(episodes, **asked)
            scores.check(episodes, term.name)
            results.append(scores)
        return results

    def _parts(self, results: Sequence[Scores]) -> dict[str, NDArray[np.float32]]:
        """Return each term's value under its name, and its own parts under theirs."""
        parts: dict[str, NDArray[np.float32]] = {}
        for term, scores in zip(self.terms, results, strict=True):
            label = _free(term.name, parts)
            parts[label] = scores.values
            for name, part in scores.parts.items():
                parts[name if name not in parts else _free(f"{label}.{name}", parts)] = part
        return parts


class Sum(_Combination):
    """The sum of several scorers and a number.

    ``score_parts`` holds each term's value under its name. Signed attributions of the terms are
    added; what the terms without any are worth belongs to no token, so that it is paid with the
    last one. Weights, as ABC's, are those of the one term that has them.
    """

    symbol = "+"
    neutral = 0.0

    @staticmethod
    def _join(one: float, two: float) -> float:
        return one + two

    def _kinds(self) -> frozenset[str]:
        offered = {kind for term in self.terms for kind in term.attribution_kinds or ()}
        return frozenset(
            kind for kind in offered if kind in SIGNED_KINDS or len(self._offering(kind)) == 1
        )

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the sums, with the terms as parts.

        Args:
            episodes: Episodes to score.
            attribution: A kind that one of the terms has.

        Raises:
            ScorerError: if none has it, or a term returns no finite scores.
        """
        results = self._score_terms(episodes, attribution)
        values = self.number + np.sum([scores.values for scores in results], axis=0, dtype=float)
        parts = self._parts(results)
        if attribution is None:
            return Scores(values, parts)
        having = [results[place] for place in self._offering(attribution)]
        columns = [scores.attributions or () for scores in having]
        rows = [np.sum(tokens, axis=0, dtype=float) for tokens in zip(*columns, strict=True)]
        additive = all(scores.additive for scores in having)
        if additive:
            rows = [complete(float(v), row) for v, row in zip(values, rows, strict=True)]
        return Scores(values, parts, rows, additive, all(scores.signed for scores in having))

    def peek(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return the sums of texts that nobody played."""
        terms = [np.asarray(term.peek(episodes), dtype=np.float64) for term in self.terms]
        return self.number + np.sum(terms, axis=0)

    def prefix_reader(self, *, every_prefix: bool = False) -> PrefixReader | None:
        """Return the sum of the readers of those terms that score prefixes."""
        places = range(len(self.terms)) if every_prefix else self._offering("prefix")
        readers = [self.terms[place].prefix_reader(every_prefix=every_prefix) for place in places]
        known = [reader for reader in readers if reader is not None]
        return SumReader(known) if known and len(known) == len(readers) else None


class Product(_Combination):
    """The product of several scorers and a number.

    ``score_parts`` holds each factor's value under its name. Attributions are those of the one
    factor that has them; signed ones are multiplied by the others' values. The scores of prefixes
    are to be had of a scorer times a number only.
    """

    symbol = "*"
    neutral = 1.0

    @staticmethod
    def _join(one: float, two: float) -> float:
        return one * two

    def _kinds(self) -> frozenset[str]:
        offered = {kind for term in self.terms for kind in term.attribution_kinds or ()}
        alone = len(self.terms) == 1
        return frozenset(
            kind
            for kind in offered
            if len(self._offering(kind)) == 1 and (alone or kind != "prefix")
        )

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the products, with the factors as parts.

        Args:
            episodes: Episodes to score.
            attribution: A kind that exactly one of the factors has.

        Raises:
            ScorerError: if it is not so, or a factor returns no finite scores.
        """
        results = self._score_terms(episodes, attribution)
        factors = np.array([scores.values for scores in results], dtype=np.float64)
        values = self.number * factors.prod(axis=0)
        parts = self._parts(results)
        if attribution is None:
            return Scores(values, parts)
        (place,) = self._offering(attribution)
        having = results[place]
        rows: Sequence[NDArray[Any]] = having.attributions or ()
        if having.signed:
            others = self.number * np.delete(factors, place, axis=0).prod(axis=0)
            rows = [row.astype(np.float64) * o for row, o in zip(rows, others, strict=True)]
        return Scores(values, parts, rows, having.additive, having.signed)

    def peek(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return the products of texts that nobody played."""
        terms = [np.asarray(term.peek(episodes), dtype=np.float64) for term in self.terms]
        return self.number * np.prod(terms, axis=0)

    def prefix_reader(self, *, every_prefix: bool = False) -> PrefixReader | None:
        """Return the one factor's reader times the number; several are scored anew if need be."""
        if len(self.terms) > 1:
            return RescoringReader(self) if every_prefix else None
        reader = self.terms[0].prefix_reader(every_prefix=every_prefix)
        return (
            None
            if reader is None
            else ScaledReader(reader, lambda episodes: np.full(len(episodes), self.number))
        )


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """Return the name, numbered if it is taken."""
    if name not in taken:
        return name
    number = 2
    while f"{name} {number}" in taken:
        number += 1
    return f"{name} {number}"


class Explained(ScorerWrapper):
    """The values of one scorer; which tokens they rest on is said by another.

    Where the true score is a function that knows no tokens, a model that learnt it can still lend
    its attention, its gradients or its scores of prefixes. Every credit then redistributes the
    same score, and only the account of the tokens is learnt. Signed attributions stay in the
    explainer's units: what they leave of the score is the credit's to place (RED's last token).

    ``score_parts`` holds the explainer's own value under its name, so that its error shows.

    Args:
        scorer: What a response is worth.
        explainer: What says which tokens that rests on, such as a `RewardModel`.

    Raises:
        ScorerError: if the explainer has no attributions.
    """

    def __init__(self, scorer: AnyScorer, explainer: Scorer) -> None:
        if not explainer.attribution_kinds:
            raise ScorerError(
                f"scorer {explainer.name!r} says nothing about tokens; explain by one "
                "that does, such as RewardModel"
            )
        super().__init__(scorer)
        self.explainer = explainer

    @property
    def attribution_kinds(self) -> frozenset[str] | None:  # type: ignore[override]
        """The explainer's kinds."""
        return self.explainer.attribution_kinds

    @property
    def reads_text(self) -> bool:  # type: ignore[override]
        """Whether either looks at texts."""
        return self.scorer.reads_text or self.explainer.reads_text

    @property
    def name(self) -> str:
        """Both names."""
        return f"Explained({self.scorer.name} by {self.explainer.name})"

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "Explained":
        """Return the scorer with both bound to the policy's tokenizer."""
        return Explained(self.scorer.bind(tokenizer), self.explainer.bind(tokenizer))

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the scorer's values and, if asked for, the explainer's attributions.

        Raises:
            ScorerError: if a score is not one finite number per episode.
        """
        scores = self.scorer.score(episodes)
        if attribution is None:
            return scores
        scores.check(episodes, self.scorer.name)
        account = self.explainer.score(episodes, attribution=attribution)
        return scores.with_attributions(
            account.attributions or (),
            signed=account.signed,
            parts={self.explainer.name: account.values},
        )

    def prefix_reader(self, *, every_prefix: bool = False) -> PrefixReader | None:
        """Return the explainer's reader; asked to score every prefix, the scorer itself does.

        Args:
            every_prefix: Whether the score itself is taken of every prefix (`RED`).
        """
        if not every_prefix:
            return self.explainer.prefix_reader()
        return self.scorer.prefix_reader(every_prefix=True)
