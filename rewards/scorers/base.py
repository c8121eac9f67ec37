"""Scores of responses: the scorer's interface, scorers added or multiplied, or wrapped."""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import cache
from importlib import import_module
from itertools import count, groupby
from pathlib import Path
from pkgutil import iter_modules
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self

from tokengym.base.registry import Registry, imported
from tokengym.base.settings import accepts_settings, from_keywords
from tokengym.envs.episode import Episode
from tokengym.envs.prompts.contents import special_tokens
from tokengym.rewards.arguments import EpisodeArguments
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.maths.signed_parts import add_rest_to_last
from tokengym.rewards.scorers.calls import Calls, CallSettings
from tokengym.rewards.scores import SIGNED_KINDS, to_numpy
from tokengym.rewards.scores import Scores as Scores
from tokengym.rewards.scores import Shared as Shared

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class Scorer(ABC):
    """Scores finished texts in batches.

    A subclass needs only `score`. One that can also say which tokens a score rests on lists the
    kinds in ``attribution_kinds`` and takes ``attribution=`` in `score`, so that a credit gets
    both from one pass over the model, and several kinds where it has `score_accounts` too. One that
    learns from what it scores, such as a running mean, has `state_dict` and `load_state_dict`, so
    that a checkpoint keeps it.
    """

    attribution_kinds: frozenset[str] | None = None
    """Kinds that `score` accepts as ``attribution``: "attention" (weights), "relevance" (parts),
    ...; empty if nothing. None if the scorer does not say: it is never asked, and the attributions
    it returns of its own accord are taken for what the credit needs."""
    reads_text: bool = True
    """Whether `score` looks at ``response``; False if ``response_ids`` are all it needs."""
    disagrees: bool = False
    """Whether `score` reports the part "disagreement": how unsure it is of each response."""
    skips: bool = False
    """Whether a response whose call failed is left without a score."""
    compares: bool = False
    """Whether a score depends on the other responses of its group: True of a class with a
    `score_groups` of its own."""
    data_columns: Mapping[str, bool] = MappingProxyType({})
    """Columns of the data that `score` reads, and whether it needs each: an environment reads them
    from its data set, and refuses a scorer that needs one which the data lack. "*" stands for
    all."""

    _name: str | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.score_groups is not Scorer.score_groups:
            cls.compares = True
        places = [
            [name in vars(one) for one in cls.__mro__] for name in ("score", "score_accounts")
        ]
        if places[0].index(True) < places[1].index(True):
            cls.score_accounts = Scorer.score_accounts  # type: ignore[method-assign]

    @property
    def name(self) -> str:
        """The scorer's name in messages and reports: the class, or what the scorer was given."""
        return self._name or type(self).__name__

    @property
    def title(self) -> str:
        """The scorer in words, for a report; its name where that says enough."""
        return self.name

    @abstractmethod
    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the scores of a batch of episodes.

        Args:
            episodes: Episodes to score, at least one.
            attribution: The kind of token attribution to return too, one of
                ``attribution_kinds``; None for none.

        Raises:
            ScorerError: if the scorer does not have that attribution.
        """

    def score_accounts(
        self, episodes: Sequence[Episode], kinds: Sequence[str]
    ) -> dict[str, Scores]:
        """Return the scores with each of several kinds of attribution, by kind.

        Each is what `score` returns with that kind, and is asked for by itself unless a class says
        otherwise: a model that gives several kinds in one pass has a method of its own. A class
        whose `score` is nearer than such a method, of its own or of a mixin, has this one.
        """
        return {kind: self.score(episodes, attribution=kind) for kind in kinds}

    def score_groups(self, groups: Sequence[Sequence[Episode]]) -> Scores:
        """Return the scores of several responses to each prompt, group after group, (episodes,).

        A scorer that compares responses with each other compares those of a group.
        """
        return self.score([episode for group in groups for episode in group])

    def check_attribution(self, attribution: str | None) -> None:
        """Raise a ScorerError if `score` was asked for a kind that the scorer does not have."""
        kinds = self.attribution_kinds
        if attribution is not None and kinds is not None and attribution not in kinds:
            offered = ", ".join(map(repr, sorted(kinds))) or "none"
            raise ScorerError(
                f"scorer {self.name!r} has no attribution {attribution!r}; it has {offered}"
            )

    @property
    def gives_prefixes(self) -> bool:
        """Whether it says that it has a score at every token; else prefixes are scored as texts."""
        return "prefix" in (self.attribution_kinds or ())

    def score_prefix(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return the scores of texts that nobody played, (batch,): prefixes, parts left out.

        They are in the scale of the last call of `score`, and change nothing that the scorer learns
        from what it scores. A response may be empty. NaN where there is no score.
        """
        scores = self.score(episodes)
        scores.check(episodes, self.name)
        return scores.values

    def oov_fraction(self, episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Return the share of each text that the scorer cannot read, (batch,), in [0, 1].

        A model whose tokenizer lacks a word scores the text as if another stood there. Most
        scorers read every text.
        """
        return np.zeros(len(episodes))

    def __add__(self, other: "Scorer | float") -> "Sum":
        return Sum.of(self, other)

    def __radd__(self, other: "Scorer | float") -> "Sum":
        return Sum.of(other, self)

    def __neg__(self) -> "Product":
        return self * -1.0

    def __sub__(self, other: "Scorer | float") -> "Sum":
        return self + -other

    def __rsub__(self, other: "Scorer | float") -> "Sum":
        return other + -self

    def __mul__(self, other: "Scorer | float") -> "Product":
        return Product.of(self, other)

    def __rmul__(self, other: "Scorer | float") -> "Product":
        return Product.of(other, self)

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "Scorer":
        """Return the scorer for responses of this tokenizer; itself unless it reads token ids.

        Args:
            tokenizer: The policy's tokenizer, which made every ``response_ids``.

        Raises:
            TokenizerError: if the scorer cannot read its ids.
        """
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return what the scorer learnt while scoring, as plain numbers; {} for most."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        if state:
            raise ScorerError(f"scorer {self.name!r} holds no state, got {sorted(state)}")


AnyScorer = Scorer | Callable[..., float]
"""Accepted scorers: a `Scorer`, or a function of what it names of the episode, see
`FunctionScorer`."""


def merged_columns(scorers: Sequence[Scorer]) -> Mapping[str, bool]:
    """Return the columns of the data that several scorers read, and whether one needs each."""
    merged = [column for scorer in scorers for column in scorer.data_columns]
    return {c: any(scorer.data_columns.get(c, False) for scorer in scorers) for c in merged}


def call_scorer(scorer: Scorer, episodes: Sequence[Episode], attribution: str | None) -> Scores:
    """Return what a scorer says; one whose ``score`` knows no attributions is asked for none."""
    options = {} if attribution is None else {"attribution": attribution}
    scores: Scores = scorer.score(episodes, **options)
    return scores


def checked_accounts(
    scorer: Scorer, episodes: Sequence[Episode], kinds: Sequence[str]
) -> tuple[Scores, dict[str, Scores]]:
    """Return what a scorer says of episodes, checked: scores, and with each kind of attribution.

    A scorer that names no kinds is asked for none; what it returns stands for each of them.

    Raises:
        ScorerError: if it returns something else than scores, or they do not fit the episodes.
    """
    if kinds and scorer.attribution_kinds is not None:
        accounts = scorer.score_accounts(episodes, kinds)
        scores = accounts[kinds[0]]
    else:
        scores = scorer.score(episodes)
        accounts = dict.fromkeys(kinds, scores)
    for one in (scores, *accounts.values()):
        if not isinstance(one, Scores):
            raise ScorerError(
                f"scorer {scorer.name!r} returned {type(one).__name__}; return "
                "Scores(values=one number per episode)"
            )
        one.check(episodes, scorer.name)
    return scores, accounts


def score_finished(
    scorer: Scorer, episodes: Sequence[Episode], *, groups: Sequence[int] | None = None
) -> Scores:
    """Return the checked scores of episodes; those that a partner's failure lost have none.

    Args:
        scorer: Any scorer; it is not shown what was lost.
        episodes: Played episodes.
        groups: (episodes,) the number of each one's group, rising, for `Scorer.score_groups`;
            None: they are scored by themselves.
    """
    rows = [row for row, episode in enumerate(episodes) if not episode.is_lost]
    if not rows:
        return Scores([None] * len(episodes))
    finished = [episodes[row] for row in rows]
    if groups is None:
        scores = scorer.score(finished)
    else:
        of_group = [list(rows) for _, rows in groupby(rows, groups.__getitem__)]
        scores = scorer.score_groups([[episodes[row] for row in group] for group in of_group])
    scores.check(finished, scorer.name)
    return scores if len(rows) == len(episodes) else scores.placed(rows, len(episodes))


class FunctionScorer(Scorer):
    """Calls a function for each episode, with what its parameters name; it returns one number.

    None stands for a response that was not measured. Calls of an ``async def`` function run side by
    side, such as those of a judge behind a service.

    ```python
    def overlap(response, reference, level=1):  # fields of the episode, columns of the data
        return level * len(set(response.split()) & set(reference.split()))
    ```

    ``prompt``, ``response``, ``reference``, ``query_type``, ``metadata``, ``prompt_ids``,
    ``response_ids``, ``finish_reason`` and ``turns`` are the fields of `Episode`; any other name is
    a column of the data set, and ``**rest`` gets all of them. A function that names no field of the
    response takes prompt and response first, as ``lambda p, r: ...`` does.

    Args:
        function: The function. To score whole batches, or to keep a state in checkpoints, write a
            subclass of `Scorer` instead.
        name: In messages and reports; None takes the function's.
        calls: Fields of `CallSettings`.

    Raises:
        TypeError: if it is not callable, or none of its parameters is the response.
        ScorerError: if a setting of the calls is out of range or has no effect.
    """

    attribution_kinds = frozenset()

    @accepts_settings(CallSettings)
    def __init__(
        self, function: Callable[..., Any], *, name: str | None = None, **calls: Any
    ) -> None:
        if not callable(function):
            raise TypeError(f"function must be callable, got {function!r}; see FunctionScorer")
        self.function = function
        self._name = name or str(getattr(function, "__name__", type(function).__name__))
        settings = from_keywords(CallSettings, calls, owner="FunctionScorer", others=("name",))
        self._calls = Calls(function, settings, self._name)
        self.skips = settings.on_error == "skip"
        self._arguments = EpisodeArguments(function, self._name)
        self.data_columns = self._arguments.columns

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> Self:
        """Return the scorer; if its function looks for what no response shows, a line says so."""
        texts = self._arguments.texts_sought()
        for token in special_tokens(tokenizer):
            if token and any(token in text for text in texts):
                _say_hidden(self.name, token)
        return self

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return what the function gives for each episode: one number, or None."""
        self.check_attribution(attribution)
        values: list[float | None] = []
        for value in self._calls([self._arguments.of(episode) for episode in episodes]):
            if value is None:
                values.append(None)
                continue
            is_exact = isinstance(value, Decimal | Fraction)
            number = np.asarray(float(value) if is_exact else to_numpy(value))
            if number.size != 1 or number.dtype.kind not in "biuf":
                value_text = " ".join(repr(value).split())[:80]
                raise ScorerError(
                    f"scorer {self.name!r} returned {value_text} for one prompt and response; "
                    "return one number"
                )
            values.append(float(number.reshape(())))
        return Scores(values)


@cache
def _say_hidden(name: str, token: str) -> None:
    """Log, once, that a function looks for a token that the texts of responses leave out."""
    logger.warning(
        "scorer %r looks for %r, a special token of the policy's tokenizer, which the text of a "
        "response leaves out, so that it is never found; look for its id in response_ids",
        name,
        token,
    )


Attributed = tuple[Sequence[NDArray[Any]], bool, bool]
"""Attributions of `Scores`, ``additive`` and ``signed``."""


class _Combination(Scorer):
    """Base of sums and products: terms, a number, and the bookkeeping of their parts."""

    symbol: ClassVar[str]
    word: ClassVar[str]
    """Says the symbol."""
    operation: ClassVar[np.ufunc]
    """Joins values and numbers."""

    def __init__(self, terms: Sequence[Scorer], number: float) -> None:
        others = [term for term in terms if not isinstance(term, Scorer)]
        if others or not terms:
            got = repr(others[0]) if others else "none"
            raise TypeError(
                f"{type(self).__name__} needs scorers, got {got}; wrap a function in FunctionScorer"
            )
        if not np.isfinite(number):
            raise ScorerError(f"a scorer combines with finite numbers only, got {number}")
        self.terms = tuple(terms)
        self.number = float(number)
        self.reads_text = any(term.reads_text for term in self.terms)
        self.skips = any(term.skips for term in self.terms)
        self.compares = any(term.compares for term in self.terms)
        self.data_columns = merged_columns(self.terms)
        self._offering: dict[str, list[int]] = {}
        """Terms that have a kind of attribution, by the kind."""
        for index, term in enumerate(self.terms):
            for kind in term.attribution_kinds or ():
                self._offering.setdefault(kind, []).append(index)
        self.attribution_kinds = frozenset(filter(self._combines, self._offering))

    @classmethod
    def of(cls, *terms: Any) -> Any:
        """Return the combination of scorers and numbers, one of its own kind taken apart."""
        scorers: list[Scorer] = []
        numbers = [float(cls.operation.identity)]
        for term in terms:
            if isinstance(term, (int, float, np.number)) and not isinstance(term, bool):
                numbers.append(float(term))
            elif isinstance(term, cls):
                scorers += term.terms
                numbers.append(term.number)
            else:
                scorers.append(term)
        return cls(scorers, cls.operation.reduce(numbers))

    @property
    def name(self) -> str:
        """The terms' names, and the number unless it does nothing."""
        return f"({f' {self.symbol} '.join((*self._shown_number, *(t.name for t in self.terms)))})"

    @property
    def title(self) -> str:
        """The combination in words."""
        return f" {self.word} ".join((*self._shown_number, *(term.title for term in self.terms)))

    @property
    def _shown_number(self) -> list[str]:
        return [f"{self.number:g}"] if self.number != self.operation.identity else []

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> Any:
        """Return the combination of the terms bound to the policy's tokenizer."""
        return type(self)([term.bind(tokenizer) for term in self.terms], self.number)

    def oov_fraction(self, episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Return the largest share that a term cannot read, (batch,)."""
        return np.max([term.oov_fraction(episodes) for term in self.terms], axis=0)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the terms that have one, by position."""
        states = {str(number): term.state_dict() for number, term in enumerate(self.terms)}
        return {number: state for number, state in states.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for number in state:
            if not number.isdigit() or int(number) >= len(self.terms):
                raise ScorerError(
                    f"the state of {self.name!r} has an entry {number!r} beside its "
                    f"{len(self.terms)} terms; pass what state_dict() returned"
                )
        for place, term in enumerate(self.terms):  # {} is the state of one that learned nothing
            term.load_state_dict(state.get(str(place), {}))

    def score_prefix(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return the combined scores of texts that nobody played, (batch,)."""
        return self._combined([term.score_prefix(episodes) for term in self.terms])

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the combined scores, with the terms as parts."""
        if attribution is not None:
            return self.score_accounts(episodes, [attribution])[attribution]
        return self._joined(episodes, [term.score(episodes) for term in self.terms])

    def score_accounts(
        self, episodes: Sequence[Episode], kinds: Sequence[str]
    ) -> dict[str, Scores]:
        """Return the combined scores with each kind; each term is asked once."""
        of_terms: list[dict[str, Scores]] = []
        for kind in kinds:
            self.check_attribution(kind)
        for index, term in enumerate(self.terms):
            offered = [kind for kind in kinds if index in self._offering[kind]]
            accounts = term.score_accounts(episodes, offered) if offered else {}
            first = accounts[offered[0]] if offered else term.score(episodes)
            of_terms.append({**dict.fromkeys(kinds, first), **accounts})
        return {
            kind: self._joined(episodes, [accounts[kind] for accounts in of_terms], kind)
            for kind in kinds
        }

    def score_groups(self, groups: Sequence[Sequence[Episode]]) -> Scores:
        """Return the combined scores of groups; terms that compare responses do so."""
        episodes = [episode for group in groups for episode in group]
        return self._joined(episodes, [term.score_groups(groups) for term in self.terms])

    def _joined(
        self, episodes: Sequence[Episode], results: Sequence[Scores], attribution: str | None = None
    ) -> Scores:
        """Return the terms' scores as one, with the terms as parts."""
        for term, scores in zip(self.terms, results, strict=True):
            scores.check(episodes, term.name)
        values = self._combined([scores.values for scores in results])
        attributed = attribution and self._attributed(values, results, attribution)
        rows, additive, signed = attributed or (None, False, False)
        parts = self._parts(results)  # checked above: what is NaN there was not measured
        return Scores(values, parts, rows, additive, signed, gaps=("values", *parts))

    def _combined(self, values: Sequence[ArrayLike]) -> NDArray[np.float64]:
        """Return the number and the (terms, batch) values joined, (batch,)."""
        joined = self.operation.reduce(np.array(values, dtype=np.float64), axis=0)
        result: NDArray[np.float64] = self.operation(self.number, joined)
        return result

    @abstractmethod
    def _combines(self, kind: str) -> bool:
        """Return whether the terms' attributions of a kind make one of the combination."""

    @abstractmethod
    def _attributed(
        self, values: NDArray[np.float64], results: Sequence[Scores], kind: str
    ) -> Attributed:
        """Return attributions, (n,) each, of values (batch,), and if additive and signed."""

    def _parts(self, results: Sequence[Scores]) -> dict[str, NDArray[np.float32]]:
        """Return each term's values, (batch,), under its name, its own parts under theirs.

        A name that is taken is numbered: "Length 2".
        """
        parts: dict[str, NDArray[np.float32]] = {}

        def free(name: str) -> str:
            numbered = (name if number == 1 else f"{name} {number}" for number in count(1))
            return next(one for one in numbered if one not in parts)

        for term, scores in zip(self.terms, results, strict=True):
            label = free(term.name)
            parts[label] = scores.values
            for name, part in scores.parts.items():
                parts[name if name not in parts else free(f"{label}.{name}")] = part
        return parts


class Sum(_Combination):
    """The sum of several scorers and a number.

    ``score_parts`` holds each term's value under its name. Signed attributions of the terms are
    added; what the terms without any are worth belongs to no token, so that it is paid with the
    last one. Weights, as ABC's, are those of the one term that has them.
    """

    symbol, word = "+", "plus"
    operation = np.add

    def _combines(self, kind: str) -> bool:
        return kind in SIGNED_KINDS or len(self._offering[kind]) == 1

    def _attributed(
        self, values: NDArray[np.float64], results: Sequence[Scores], kind: str
    ) -> Attributed:
        having = [results[index] for index in self._offering[kind]]
        additive = all(scores.additive for scores in having)
        rows: list[NDArray[Any]] = []
        columns = [scores.attributions or () for scores in having]
        for value, *tokens in zip(values.tolist(), *columns, strict=True):
            if np.isnan(value):  # of what was not measured a row may be anything
                rows.append(tokens[0])
                continue
            row = np.sum(tokens, axis=0, dtype=float)
            rows.append(add_rest_to_last(value, row) if additive else row)
        return rows, additive, all(scores.signed for scores in having)


class Product(_Combination):
    """The product of several scorers and a number.

    ``score_parts`` holds each factor's value under its name. Attributions are those of the one
    factor that has them; signed ones are multiplied by the others' values. A scorer times a number
    alone has scores of prefixes.
    """

    symbol, word = "*", "times"
    operation = np.multiply

    def _combines(self, kind: str) -> bool:
        return len(self._offering[kind]) == 1 and (len(self.terms) == 1 or kind != "prefix")

    def _attributed(
        self, values: NDArray[np.float64], results: Sequence[Scores], kind: str
    ) -> Attributed:
        (index,) = self._offering[kind]
        having = results[index]
        rows: Sequence[NDArray[Any]] = having.attributions or ()
        if having.signed:
            factors = np.array([scores.values for scores in results], dtype=np.float64)
            others = self.number * np.delete(factors, index, axis=0).prod(axis=0)
            rows = [row.astype(np.float64) * o for row, o in zip(rows, others, strict=True)]
        return rows, having.additive, having.signed


def _load(name: str | None) -> None:
    """Import the file in which a scorer of that name would register, or all of them."""
    modules = [module.name for module in iter_modules([str(Path(__file__).parent)])]
    if name is not None:
        file = "penalties" if name.endswith("-penalty") else name.replace("-", "_")
        modules = [file] if file in modules and name not in SCORERS else []
    for module in modules:
        import_module(f"tokengym.rewards.scorers.{module}")


def _adopted(name: str, plugin: Any) -> Any:
    """Return what a package has under a name; its ``from_pretrained`` loads each model once."""
    if getattr(plugin, "__name__", "") != "from_pretrained":
        return plugin
    loaded_once: Any = imported("tokengym.rewards.models.loading:loaded_once")
    return loaded_once(plugin)


SCORERS: Registry[Callable[..., Any]] = Registry(
    "scorer",
    group="scorers",
    error=ScorerError,
    from_files=True,
    adopt=_adopted,
    import_names=_load,
)
"""Factories of scorers by name, as far as their files were imported."""


def register_scorer(name: str, factory: Callable[..., Any]) -> None:
    """Make a scorer known by name, with the factory's keywords as options.

    Args:
        name: That of its file, with hyphens.
        factory: Returns a scorer.

    Raises:
        ScorerError: if another scorer has the name.
    """
    SCORERS.register(name, factory)


def as_scorer(value: Any) -> Scorer:
    """Return a scorer, or a function as one.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(value, Scorer):
        return value
    if isinstance(value, type):
        raise TypeError(f"scorer got the class {value.__name__}; pass one: {value.__name__}(...)")
    if callable(value) and not hasattr(value, "score"):
        return FunctionScorer(value)
    raise TypeError(
        f"a scorer must be a function of prompt and response, or of a subclass of "
        f"tokengym.rewards.Scorer, got {value!r}"
    )


class ScorerWrapper(Scorer):
    """A scorer around another one, which it forwards everything to that it does not change.

    Args:
        scorer: The scorer inside: a `Scorer`, or a function.
    """

    def __init__(self, scorer: AnyScorer) -> None:
        self._enclose(as_scorer(scorer))

    def _enclose(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.attribution_kinds = scorer.attribution_kinds
        self.reads_text = scorer.reads_text
        self.disagrees = scorer.disagrees
        self.skips = scorer.skips
        self.compares = scorer.compares
        self.data_columns = dict(scorer.data_columns)  # a proxy cannot be copied or pickled

    def around(self, scorer: Scorer) -> Self:
        """Return a copy around another scorer."""
        other = copy.copy(self)
        other._enclose(scorer)
        return other

    @property
    def name(self) -> str:
        """The class and the name of the scorer inside."""
        return f"{type(self).__name__}({self.scorer.name})"

    @property
    def title(self) -> str:
        """The name, with the scorer inside in words."""
        return self.name.replace(self.scorer.name, self.scorer.title)

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> Self:
        """Return a copy whose scorer inside is bound to the policy's tokenizer."""
        return self.around(self.scorer.bind(tokenizer))

    def score_groups(self, groups: Sequence[Sequence[Episode]]) -> Scores:
        """Return the scores of groups, compared inside and changed as `score` changes others."""
        episodes = [episode for group in groups for episode in group]
        scorer = self.around(_InGroups(self.scorer, groups)) if self.compares else self
        return scorer.score(episodes)

    def score_prefix(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return what the scorer inside says of texts that nobody played, (batch,)."""
        return self.scorer.score_prefix(episodes)

    def oov_fraction(self, episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Return what the scorer inside cannot read, (batch,)."""
        return self.scorer.oov_fraction(episodes)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scorer inside."""
        return self.scorer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of the scorer inside."""
        self.scorer.load_state_dict(state)


class _InGroups(ScorerWrapper):
    """Scores certain groups, for a wrapper that asks for the scores of their episodes."""

    def __init__(self, scorer: Scorer, groups: Sequence[Sequence[Episode]]) -> None:
        super().__init__(scorer)
        self._groups = groups

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the scores of the groups, whose episodes these are."""
        return self.scorer.score_groups(self._groups)
