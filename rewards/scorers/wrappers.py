"""Wrappers of a scorer: remembered scores, another's account of tokens, a limit on time."""

import copy
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tokengym.base.settings import check_count
from tokengym.envs.episode import Episode
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.scorers.base import (
    AnyScorer,
    Product,
    Scorer,
    Scores,
    Shared,
    Sum,
    as_scorer,
    call_scorer,
    merged_columns,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ScorerWrapper(Scorer):
    """A scorer around another one, which it forwards everything to that it does not change.

    Args:
        scorer: The scorer inside: a `Scorer`, an object with ``score``, or a function.
    """

    def __init__(self, scorer: AnyScorer) -> None:
        self._enclose(as_scorer(scorer))

    def _enclose(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.attribution_kinds = scorer.attribution_kinds
        self.reads_text = scorer.reads_text
        self.disagrees = scorer.disagrees
        self.data_columns = scorer.data_columns

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

    def with_components(self, **components: Any) -> Self | None:
        """Return a copy around the scorer inside with its components switched; None: it has none.

        Args:
            components: See the scorer inside.
        """
        switched = self.scorer.with_components(**components)
        return None if switched is None else self.around(switched)

    def score_groups(self, groups: Sequence[Sequence[Episode]]) -> Scores:
        """Return the scores of groups, compared inside and changed as `score` changes others.

        Args:
            groups: Episodes of one prompt each, at least one episode in all.
        """
        episodes = [episode for group in groups for episode in group]
        if not _compares(self.scorer):
            return self.score(episodes)
        return self.around(_InGroups(self.scorer, groups)).score(episodes)

    def token_worth(
        self, episodes: Sequence[Episode], tokenizer: "PreTrainedTokenizerBase"
    ) -> list[NDArray[np.float64]] | None:
        """Return what each token adds to the score inside; None where that cannot be told."""
        return self.scorer.token_worth(episodes, tokenizer)

    def score_prefix(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return what the scorer inside says of texts that nobody played."""
        return self.scorer.score_prefix(episodes)

    def oov_fraction(self, episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Return what the scorer inside cannot read."""
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


def _compares(scorer: Scorer) -> bool:
    """Return whether a score depends on the other responses of its group."""
    if isinstance(scorer, ScorerWrapper):
        return _compares(scorer.scorer)
    if isinstance(scorer, Sum | Product):
        return any(map(_compares, scorer.terms))
    overridden = type(scorer).score_groups is not Scorer.score_groups
    return overridden or "score_groups" in vars(scorer)  # somebody's object, adapted


class _Entry(NamedTuple):
    value: float
    parts: dict[str, float]
    attribution: NDArray[np.float32] | None
    additive: bool
    signed: bool


class Cached(Shared, ScorerWrapper):
    """Scores a text the first time it is seen and looks it up afterwards.

    Pays where texts come back: in evaluations, in Shapley values, in a policy that has become sure.
    A text is known by prompt, response, ids and who wrote them, reference, query type, metadata and
    how it ended. Where responses are compared with each other nothing is remembered.
    ``hits`` and ``misses`` count.

    Args:
        scorer: Scorer whose scores are remembered; its scores must depend on the episode alone.
        size: Most texts remembered; the one unused for longest goes first.

    Raises:
        ScorerError: if ``size`` is not positive, or the scorer learns from what it scores.

    Example:
        >>> from tokengym.rewards import FunctionScorer
        >>> scorer = Cached(FunctionScorer(lambda prompt, response: len(response)))
        >>> episode = Episode(prompt="Go", response="on", prompt_ids=[1], response_ids=[2])
        >>> scorer.score([episode, episode]).values.tolist(), scorer.hits, scorer.misses
        ([2.0, 2.0], 1, 1)
    """

    def __init__(self, scorer: AnyScorer, *, size: int = 10_000) -> None:
        super().__init__(scorer)
        if self.scorer.state_dict():
            raise ScorerError(
                f"scorer {self.scorer.name!r} learns from what it scores, so its scores cannot "
                "be remembered; cache the scorer inside, as in Normalize(Cached(scorer))"
            )
        self.size = size
        check_count(self, "size", error=ScorerError)
        self.hits = self.misses = 0
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "Cached":
        """Return the cache of the scorer bound to the policy's tokenizer; itself if that is it."""
        bound = self.scorer.bind(tokenizer)
        return self if bound is self.scorer else self.around(bound)

    def around(self, scorer: Scorer) -> "Cached":
        """Return an empty cache of another scorer."""
        return Cached(scorer, size=self.size)

    def score_groups(self, groups: Sequence[Sequence[Episode]]) -> Scores:
        """Return the scores of groups; those of a scorer that compares are not remembered."""
        if _compares(self.scorer):
            return self.scorer.score_groups(groups)
        return self.score([episode for group in groups for episode in group])

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the scores; unknown texts are scored in one batch, each once."""
        if _compares(self.scorer):
            return call_scorer(self.scorer, episodes, attribution)

        def score(unknown: Sequence[Episode]) -> list[_Entry]:
            scores = call_scorer(self.scorer, unknown, attribution)
            scores.check(unknown, self.scorer.name)
            rows = scores.attributions
            return [
                _Entry(
                    float(scores.values[row]),
                    {name: float(part[row]) for name, part in scores.parts.items()},
                    None if rows is None else rows[row].copy(),
                    scores.additive,
                    scores.signed,
                )
                for row in range(len(unknown))
            ]

        entries = self._look_up(episodes, f"score {attribution}", score)
        names = list(dict.fromkeys(name for entry in entries for name in entry.parts))
        rows = [entry.attribution for entry in entries if entry.attribution is not None]
        return Scores(
            values=[entry.value for entry in entries],
            parts={name: [entry.parts.get(name, 0.0) for entry in entries] for name in names},
            attributions=rows if len(rows) == len(entries) else None,
            additive=all(entry.additive for entry in entries),
            signed=all(entry.signed for entry in entries),
        )

    def score_prefix(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return the scores of texts that nobody played, remembered apart from the others."""

        def score_prefix(unknown: Sequence[Episode]) -> list[_Entry]:
            values = self.scorer.score_prefix(unknown)
            return [_Entry(float(value), {}, None, False, False) for value in values]

        return np.array(
            [entry.value for entry in self._look_up(episodes, "score_prefix", score_prefix)]
        )

    def _look_up(
        self,
        episodes: Sequence[Episode],
        kind: str,
        read: Callable[[Sequence[Episode]], list[_Entry]],
    ) -> list[_Entry]:
        keys: list[Hashable] = []
        for e in episodes:
            text = (e.prompt, e.response, e.prompt_ids, e.response_ids, e.finish_reason, e.turns)
            written = None if e.written is None else e.written.tobytes()  # replies cost no length
            asked = (
                e.messages,
                e.reference,
                e.query_type,
                _as_text(e.metadata) if e.metadata else "",
            )
            keys.append((kind, text, written, asked))
        entries = {key: self._entries[key] for key in keys if key in self._entries}
        unknown = {
            key: episode for key, episode in zip(keys, episodes, strict=True) if key not in entries
        }
        self.misses += len(unknown)
        self.hits += len(keys) - len(unknown)
        if unknown:
            entries.update(zip(unknown, read(list(unknown.values())), strict=True))
        for key in keys:
            self._entries[key] = entries[key]
            self._entries.move_to_end(key)
        while len(self._entries) > self.size:
            self._entries.popitem(last=False)
        return [entries[key] for key in keys]


def _as_text(metadata: Mapping[str, Any]) -> str:
    """Return metadata as a text that differs where any value does."""
    # An array's own repr leaves out the middle of a long one, and digits.
    return repr(
        {
            name: (value.dtype.str, value.tolist()) if isinstance(value, np.ndarray) else value
            for name, value in metadata.items()
        }
    )


class WithAttribution(ScorerWrapper):
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
        self.explainer = explainer
        super().__init__(scorer)

    def _enclose(self, scorer: Scorer) -> None:
        super()._enclose(scorer)
        self.attribution_kinds = self.explainer.attribution_kinds
        self.data_columns = merged_columns((scorer, self.explainer))
        self.reads_text = scorer.reads_text or self.explainer.reads_text

    @property
    def name(self) -> str:
        """Both names."""
        return f"WithAttribution({self.scorer.name} by {self.explainer.name})"

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "WithAttribution":
        """Return the scorer with both bound to the policy's tokenizer."""
        return WithAttribution(self.scorer.bind(tokenizer), self.explainer.bind(tokenizer))

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


class TimeLimit(ScorerWrapper):
    """Gives up on a scorer that does not answer, such as a judge behind a connection that hangs.

    It takes the alarm clock of the process (SIGALRM) for as long as the scorer works, and so works
    in the main thread alone. A call into other code that never returns to Python is not
    interrupted. Of limits inside each other, each counts from its own call.

    Args:
        scorer: Scorer that may take long.
        seconds: Longest time of one call.

    Raises:
        ScorerError: if ``seconds`` is not positive.
    """

    def __init__(self, scorer: AnyScorer, seconds: float) -> None:
        is_number = isinstance(seconds, Real) and not isinstance(seconds, bool)
        if not is_number or not 0 < seconds < threading.TIMEOUT_MAX:
            raise ScorerError(
                f"scorer_timeout must be a number of seconds > 0, got {seconds!r}; None waits"
            )
        super().__init__(scorer)
        self.seconds = float(seconds)

    @property
    def name(self) -> str:
        """The name of the scorer inside."""
        return self.scorer.name

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the scores.

        Raises:
            TimeoutError: if they take too long.
            ScorerError: outside the main thread.
        """
        with self._limited():
            return call_scorer(self.scorer, episodes, attribution)

    def score_groups(self, groups: Sequence[Sequence[Episode]]) -> Scores:
        """Return the scores of groups; see `score`."""
        with self._limited():
            return self.scorer.score_groups(groups)

    def score_prefix(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return the scores of texts that nobody played; see `score`."""
        with self._limited():
            return self.scorer.score_prefix(episodes)

    @contextmanager
    def _limited(self) -> Iterator[None]:
        if sys.platform == "win32":
            raise ScorerError("scorer_timeout needs signals that Windows lacks; pass None")
        if threading.current_thread() is not threading.main_thread():
            raise ScorerError(
                f"scorer_timeout={self.seconds:g} works in the main thread only; score there, or "
                "pass None"
            )

        began = time.monotonic()
        due, every = signal.getitimer(signal.ITIMER_REAL)  # of a limit around this one; 0 is none
        sooner = 0.0 < due < self.seconds
        rung = False

        def stop(number: int, frame: FrameType | None) -> None:
            nonlocal rung
            left = began + self.seconds - time.monotonic()
            if sooner and left > 0.0:
                rung = True
                signal.setitimer(signal.ITIMER_REAL, left, self.seconds)
                if callable(handler):
                    handler(number, frame)
                return
            raise TimeoutError(f"no answer within scorer_timeout={self.seconds:g} s")

        handler = signal.signal(signal.SIGALRM, stop)
        # Again and again: the scorer may catch the error and try once more.
        signal.setitimer(signal.ITIMER_REAL, due if sooner else self.seconds, self.seconds)
        try:
            yield
        finally:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
            finally:  # also if the alarm rings just now
                signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)  # None: other code's
                if due:  # less the time that passed here; at once if that was all of it
                    left = every if rung else max(due - (time.monotonic() - began), 1e-6)
                    signal.setitimer(signal.ITIMER_REAL, left, every)
