"""What a response is worth: the scorer's interface and the scores it returns."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self

from tokengym.envs.episode import Episode
from tokengym.rewards.attribution.probe import PrefixReader, RescoringReader
from tokengym.rewards.errors import ScorerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokengym.rewards.scorers.composition import Product, Sum

FloatArray = NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True, init=False, eq=False)
class Scores:
    """The scores of a batch of episodes.

    Arrays are stored as float32, whatever was passed; `check` compares them to the episodes.
    """

    values: FloatArray
    """(batch,) float32: the score of each response."""
    parts: Mapping[str, FloatArray]
    """Name -> (batch,) float32: what the score was made of."""
    attributions: Sequence[FloatArray] | None
    """Per episode (len(response_ids),) float32: what each token had to do with the score."""
    additive: bool
    """Attributions are signed parts that sum to the value."""
    signed: bool
    """Attributions are signed, in reward units; True if ``additive``, and also where parts of the
    value belong to no token. If False they are weights >= 0 of any scale."""

    def __init__(
        self,
        values: ArrayLike,
        parts: Mapping[str, ArrayLike] | None = None,
        attributions: Sequence[ArrayLike] | None = None,
        additive: bool = False,
        signed: bool = False,
    ) -> None:
        stored: dict[str, Any] = {
            "values": np.asarray(values, dtype=np.float32),
            "parts": {name: np.asarray(part, np.float32) for name, part in (parts or {}).items()},
            "attributions": None,
            "additive": additive,
            "signed": additive or signed,
        }
        if attributions is not None:
            stored["attributions"] = [np.asarray(row, dtype=np.float32) for row in attributions]
        for name, value in stored.items():
            object.__setattr__(self, name, value)

    def with_attributions(
        self,
        attributions: Sequence[ArrayLike],
        *,
        signed: bool,
        parts: Mapping[str, ArrayLike] | None = None,
    ) -> "Scores":
        """Return these scores with other attributions and further parts.

        Args:
            attributions: Per episode (len(response_ids),).
            signed: Whether they are signed and in reward units, or weights.
            parts: Name -> (batch,), added to those there are.
        """
        return Scores(self.values, {**self.parts, **(parts or {})}, attributions, signed=signed)

    def check(self, episodes: Sequence[Episode], name: str) -> None:
        """Raise unless there is one finite score per episode and one attribution per token.

        Raises:
            ScorerError: naming the scorer, the shape or value, and the episode.
        """
        expected = (len(episodes),)
        for label, array in {"values": self.values, **self.parts}.items():
            if array.shape != expected:
                raise ScorerError(
                    f"scorer {name!r} returned {label} of shape {array.shape} for {len(episodes)} "
                    f"episodes; return one number per episode, shape {expected}"
                )
            if not np.isfinite(array).all():
                row = int(np.flatnonzero(~np.isfinite(array))[0])
                raise ScorerError(
                    f"scorer {name!r} returned {label}[{row}] = {array[row]} for the response "
                    f"{_short(episodes[row].response)}; scores must be finite"
                )
        if self.attributions is not None:
            self._check_attributions(episodes, name)

    def _check_attributions(self, episodes: Sequence[Episode], name: str) -> None:
        rows = self.attributions or []
        if len(rows) != len(episodes):
            raise ScorerError(
                f"scorer {name!r} returned {len(rows)} attributions for {len(episodes)} episodes; "
                "return one array per episode"
            )
        for index, (episode, row) in enumerate(zip(episodes, rows, strict=True)):
            if row.shape != (len(episode.response_ids),):
                raise ScorerError(
                    f"scorer {name!r} returned attributions[{index}] of shape {row.shape}; "
                    f"expected ({len(episode.response_ids)},), one per response token"
                )
            if not np.isfinite(row).all():
                raise ScorerError(
                    f"scorer {name!r} returned attributions[{index}] with NaN or Inf for the "
                    f"response {_short(episode.response)}; attributions must be finite"
                )


class SupportsScore(Protocol):
    """Anything that scores episodes: a `Scorer`, or an object of a user with this one method."""

    def score(self, episodes: Sequence[Episode]) -> Scores:
        """Return the scores of a batch of episodes."""


class Scorer(ABC):
    """Scores finished texts in batches.

    A subclass needs only `score`. One that can also say which tokens a score rests on lists the
    kinds in ``attribution_kinds`` and takes ``attribution=`` in `score`, so that a credit gets
    both from one pass over the model.
    """

    attribution_kinds: frozenset[str] | None = None
    """Kinds that `score` accepts as ``attribution``: "attention" (weights), "relevance" (parts),
    ...; empty if nothing. None if the scorer does not say: it is never asked, and the attributions
    it returns of its own accord are taken for what the credit needs."""
    reads_text: bool = True
    """Whether `score` looks at ``response``; False if ``response_ids`` are all it needs."""

    _name: str | None = None

    @property
    def name(self) -> str:
        """The scorer's name in messages and reports: the class, or what the scorer was given."""
        return self._name or type(self).__name__

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

    def score_groups(self, groups: Sequence[Sequence[Episode]]) -> Scores:
        """Return the scores of several responses to each prompt, group after group, (episodes,).

        A scorer that compares responses with each other compares those of a group.

        Args:
            groups: Episodes of one prompt each, at least one episode in all.
        """
        return self.score([episode for group in groups for episode in group])

    def begin_round(self) -> None:  # noqa: B027 - most scorers know no rounds
        """Note that what is scored until `settle` is one round of episodes."""

    def settle(self, batches: Sequence[tuple[Sequence[Episode], Scores]]) -> list[Scores]:
        """Return the scores of a round, now that all of its episodes are known.

        Args:
            batches: Episodes and scores of each call of `score` since `begin_round`, with the
                attributions that the credit made of them.

        Returns:
            The scores of each batch; as they were, unless they depend on the round.
        """
        return [scores for _, scores in batches]

    def check_attribution(self, attribution: str | None) -> None:
        """Refuse a kind of attribution that is not among ``attribution_kinds``.

        Args:
            attribution: What `score` was asked for; None for none.

        Raises:
            ScorerError: if the scorer does not have it.
        """
        kinds = self.attribution_kinds
        if attribution is None or kinds is None or attribution in kinds:
            return
        offered = f"; it has {', '.join(map(repr, sorted(kinds)))}" if kinds else ""
        raise ScorerError(f"scorer {self.name!r} has no attribution {attribution!r}{offered}")

    def peek(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return the scores of texts that nobody played, (batch,): prefixes, parts left out.

        They are in the scale of the last call of `score`, and change nothing that the scorer learns
        from what it scores. A response may be empty.

        Args:
            episodes: Episodes to score, at least one.
        """
        return self.score(episodes).values

    def prefix_reader(self, *, every_prefix: bool = False) -> PrefixReader | None:
        """Return what follows episodes token by token, for credit that is paid as it is earned.

        Args:
            every_prefix: Whether scoring the whole text so far at every step is acceptable, where
                there is no cheaper way.

        Returns:
            None if there is no acceptable way.
        """
        return RescoringReader(self) if every_prefix else None

    def __add__(self, other: "SupportsScore | float") -> "Sum":
        """Return the sum of two scorers, or of a scorer and a number; see `Sum`."""
        from tokengym.rewards.scorers.composition import Sum

        return Sum.of(self, other)

    def __radd__(self, other: "SupportsScore | float") -> "Sum":
        """Return the sum of a number, or a user's scorer, and this one."""
        from tokengym.rewards.scorers.composition import Sum

        return Sum.of(other, self)

    def __neg__(self) -> "Product":
        """Return the scorer times -1."""
        return self * -1.0

    def __sub__(self, other: "Scorer | float") -> "Sum":
        """Return the difference of two scorers, or of a scorer and a number."""
        return self + -other

    def __rsub__(self, other: "SupportsScore | float") -> "Sum":
        """Return a number, or a user's scorer, less this one."""
        return other + -self

    def __mul__(self, other: "SupportsScore | float") -> "Product":
        """Return the product of two scorers, or of a scorer and a number; see `Product`."""
        from tokengym.rewards.scorers.composition import Product

        return Product.of(self, other)

    def __rmul__(self, other: "SupportsScore | float") -> "Product":
        """Return the product of a number, or a user's scorer, and this one."""
        from tokengym.rewards.scorers.composition import Product

        return Product.of(other, self)

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "Scorer":
        """Return the scorer for responses of this tokenizer; itself unless it reads token ids.

        Args:
            tokenizer: The policy's tokenizer, which made every ``response_ids``.

        Raises:
            TokenizerError: if the scorer cannot read its ids.
        """
        return self

    def with_components(self, **components: Any) -> "Scorer | None":
        """Return the scorer with components switched by a reward's options; None: it has none."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what the scorer learnt while scoring, as plain numbers; {} for most."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        if state:
            raise ScorerError(f"scorer {self.name!r} holds no state, got {sorted(state)}")


class ScorerWrapper(Scorer):
    """A scorer around another one, which it forwards everything to that it does not change.

    Args:
        scorer: The scorer inside: a `Scorer`, an object with ``score``, or a function.
    """

    def __init__(self, scorer: "AnyScorer") -> None:
        self.scorer = as_scorer(scorer)

    @property
    def attribution_kinds(self) -> frozenset[str] | None:  # type: ignore[override]
        """The kinds of the scorer inside."""
        return self.scorer.attribution_kinds

    @property
    def reads_text(self) -> bool:  # type: ignore[override]
        """Whether the scorer inside looks at texts."""
        return self.scorer.reads_text

    @property
    def name(self) -> str:
        """The class and the name of the scorer inside."""
        return f"{type(self).__name__}({self.scorer.name})"

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> Self:
        """Return a copy whose scorer inside is bound to the policy's tokenizer."""
        other = copy.copy(self)
        other.scorer = self.scorer.bind(tokenizer)
        return other

    def peek(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return what the scorer inside says of texts that nobody played."""
        return self.scorer.peek(episodes)

    def prefix_reader(self, *, every_prefix: bool = False) -> PrefixReader | None:
        """Return the reader of the scorer inside."""
        return self.scorer.prefix_reader(every_prefix=every_prefix)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scorer inside."""
        return self.scorer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of the scorer inside."""
        self.scorer.load_state_dict(state)


_LACKING: Any = object()
"""Stands for an ability that an object does not have; None is a value of some."""


class _Adapted(Scorer):
    """Someone's object with a method ``score``, as a scorer.

    Args:
        scorer: The object; whatever else of `Scorer` it has is used too.
    """

    _OPTIONAL = (
        *("attribution_kinds", "reads_text", "peek", "prefix_reader", "bind"),
        *("state_dict", "load_state_dict"),
    )

    def __init__(self, scorer: Any) -> None:
        self.adapted = scorer
        for name in self._OPTIONAL:
            if (ability := getattr(scorer, name, _LACKING)) is not _LACKING:
                setattr(self, name, ability)

    @property
    def name(self) -> str:
        """The object's name, its class's if it does not say."""
        return str(getattr(self.adapted, "name", type(self.adapted).__name__))

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return what the object scores."""
        options: dict[str, Any] = {} if attribution is None else {"attribution": attribution}
        scores: Scores = self.adapted.score(episodes, **options)
        return scores


class FunctionScorer(Scorer):
    """Calls ``function(prompt, response)`` for each episode; it returns one number.

    Args:
        function: Function of two texts. To score whole batches, references or token ids, write a
            subclass of `Scorer` instead.
        name: In messages and reports; None takes the function's.

    Raises:
        TypeError: if it is not callable.

    Example:
        >>> scorer = FunctionScorer(lambda prompt, response: response.count("!"))
        >>> episode = Episode(prompt="Go", response="on!!", prompt_ids=[1], response_ids=[2])
        >>> scorer.score([episode]).values
        array([2.], dtype=float32)
    """

    attribution_kinds = frozenset()

    def __init__(self, function: Callable[[str, str], float], *, name: str | None = None) -> None:
        if not callable(function):
            raise TypeError(
                f"function must be callable as function(prompt, response), got {function!r}"
            )
        self.function = function
        self._name = name or str(getattr(function, "__name__", type(function).__name__))

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return what the function gives for each episode.

        Raises:
            ScorerError: if it returns something other than one number.
        """
        self.check_attribution(attribution)
        values = [self._number(self.function(e.prompt, e.response)) for e in episodes]
        return Scores(values=np.array(values, dtype=np.float32))

    def _number(self, value: object) -> float:
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "biuf":
            shown = " ".join(repr(value).split())[:80]
            raise ScorerError(
                f"scorer {self.name!r} returned {shown} for one prompt and response; "
                "return one number"
            )
        return float(array.reshape(()))


AnyScorer = SupportsScore | Callable[[str, str], float]
"""What is taken for a scorer: a `Scorer`, an object with ``score``, or a function of prompt and
response."""


SCORERS: dict[str, Callable[..., Any]] = {}
"""Scorers by name, as far as their files were imported; see `find_scorer`."""


def loaded_once(load: Callable[..., T]) -> Callable[..., T]:
    """Return a loader of stored models that loads each once in a process.

    It is loaded anew when files change, or when "auto" stands for another device.

    Args:
        load: Takes the model's folder or hub name as ``path``, and options that can be hashed.
    """

    @lru_cache(maxsize=8)
    def remembered(path: str, stamp: int, auto: str, options: tuple[tuple[str, Any], ...]) -> T:
        return load(path, **dict(options))

    @wraps(load)
    def loader(path: str | Path, **options: Any) -> T:
        from tokengym.rewards.models.loading import auto_device  # loads torch

        folder = Path(path)
        files = list(folder.iterdir()) if folder.is_dir() else []
        stamp = max((file.stat().st_mtime_ns for file in files), default=0)
        location = str(folder.resolve()) if files else str(path)
        return remembered(location, stamp, auto_device(), tuple(sorted(options.items())))

    return loader


def register_scorer(name: str, factory: Callable[..., Any]) -> None:
    """Make a scorer known by name, with the factory's keywords as options.

    Args:
        name: That of its file, with hyphens.
        factory: Returns a scorer.

    Raises:
        ScorerError: if another scorer has the name.
    """
    if SCORERS.setdefault(name, factory) is not factory:
        raise ScorerError(f"a scorer named {name!r} is registered already; choose another name")


def is_scorer(value: object) -> bool:
    """Return whether a value scores episodes: it has a method ``score``."""
    return isinstance(value, Scorer) or callable(getattr(value, "score", None))


def as_scorer(value: Any) -> Scorer:
    """Return a scorer, an object with ``score``, or a function, as a `Scorer`.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(value, Scorer):
        return value
    if is_scorer(value):
        return _Adapted(value)
    if callable(value):
        return FunctionScorer(value)
    raise TypeError(
        f"a scorer must have a method score(episodes) or be a function of prompt and response, got "
        f"{value!r}; wrap a function in FunctionScorer"
    )


def _short(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")
