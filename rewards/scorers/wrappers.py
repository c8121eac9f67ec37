"""Wrappers of a scorer: normalised or remembered scores, an explainer, a limit on time."""

import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Real
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from tokengym.base.registry import Registry, name_of
from tokengym.base.settings import check_choice, check_count, check_number
from tokengym.envs.episode import RAW_SCORE, Episode
from tokengym.rewards.errors import RewardError, ScorerError
from tokengym.rewards.maths.redistribution import Moments, update_moments
from tokengym.rewards.maths.signed_parts import add_rest_evenly
from tokengym.rewards.scorers.base import (
    AnyScorer,
    Scorer,
    ScorerWrapper,
    Scores,
    Shared,
    call_scorer,
    merged_columns,
)
from tokengym.rewards.scores import as_float32, inner_parts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


_EPSILON = 1e-8
NORMALIZATIONS: Registry[tuple[str, ...]] = Registry("normalize", error=RewardError)
"""Ways to normalise scores, with the arguments of `Normalize` that are options of each."""
NORMALIZATIONS.register("batch", ("by", "scale", "clip"))
NORMALIZATIONS.register("running", ("by", "scale", "clip", "window"))

Normalization = tuple[str, dict[str, Any]]
"""Name of a normalisation, and its options."""


def parse_normalization(text: str | Normalization) -> Normalization:
    """Return the name of a normalisation and its options; a pair is returned as it is.

    Args:
        text: "batch" or "running", with options as in "running:window=512,by=query_type"; "none"
            is None.
    """
    if isinstance(text, tuple) and list(map(type, text)) == [str, dict]:
        return text
    if not isinstance(text, str) or (name := name_of(text)) not in NORMALIZATIONS:
        raise RewardError(f"normalize must be None, 'running' or 'batch', got {text!r}")
    options = NORMALIZATIONS.parse(text).options
    known = NORMALIZATIONS[name]
    if other := next((key for key in options if key not in known), None):
        raise RewardError(f"normalize {name!r} has no option {other!r}; it has {', '.join(known)}")
    return name, {key: None if value == "none" else value for key, value in options.items()}


def _of_this_process(value: Any) -> list[Any]:
    return [value]


class Normalize(ScorerWrapper):
    """Running normalisation: value' = clip((value - mean) / deviation, -clip, clip).

    A batch updates the statistics before it is normalised by them. The value as it was stays in
    ``parts["raw_score"]``. The same episode may score differently later: evaluate with the scorer
    inside. `bind` returns a copy with statistics of its own, so that environments which are given
    one `Normalize` do not share them.

    Where prompts of several kinds are scored on different scales, one mean for all tells the
    policy which kind it was asked, not how well it answered; ``by`` keeps statistics per kind.

    Args:
        scorer: Scorer to normalise.
        window: Scores remembered, with exponentially decaying weights, or None for all. With a
            window no longer than the batch the statistics are the batch's own. Groups share it
            in proportion to their episodes in the batch.
        scale: Whether to divide by the deviation; False centres only.
        clip: Bound on the result, in units after scaling; None for no bound.
        by: Annotation of the prompt whose values each get statistics of their own, "query_type";
            None for one mean and deviation of all episodes. A score that is its group's only one
            so far becomes 0.

    Raises:
        ScorerError: if ``window`` or ``clip`` is not positive, or ``by`` is something else.

    Source: the normalisation of Kim et al. 2024, arXiv:2402.03469 (all history, clip 10).
    """

    def __init__(
        self,
        scorer: AnyScorer,
        *,
        window: int | None = None,
        scale: bool = True,
        clip: float | None = 10.0,
        by: Literal["query_type"] | None = None,
    ) -> None:
        super().__init__(scorer)
        self.window = window
        self.scale = scale
        self.clip = clip
        self.by = by
        check_count(self, "window", optional=True, hint="None remembers all", error=ScorerError)
        remedy = "None does not clip"
        check_number(self, "clip", above=0, optional=True, hint=remedy, error=ScorerError)
        check_choice(self, "by", ("query_type", None), error=ScorerError)
        self.groups: dict[str | None, Moments] = {}
        """Moments by value of ``by``; those of all episodes at None without groups."""
        self.gather: Callable[[Any], list[Any]] = _of_this_process
        """Returns the values of all processes that score a round together, given this one's."""

    @property
    def moments(self) -> Moments:
        """The moments of all episodes; empty where groups have their own."""
        return self.groups.get(None, Moments())

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return normalised scores; the batch updates the statistics first.

        Weights are passed on. Signed attributions are scaled with the value; of those that sum to
        it, what centring and clipping take off is spread evenly, as a constant of the episode. On
        the last token alone it would outweigh the parts, which a critic has to learn first.
        """
        return self._updated(episodes, call_scorer(self.scorer, episodes, attribution))

    def score_accounts(
        self, episodes: Sequence[Episode], kinds: Sequence[str]
    ) -> dict[str, Scores]:
        """Return normalised scores with each kind; the batch updates the statistics once."""
        raw = self.scorer.score_accounts(episodes, kinds)
        first = self._updated(episodes, raw[kinds[0]])
        for one in raw.values():
            one.check(episodes, self.scorer.name)
        others = {kind: self._normalized(episodes, raw[kind]) for kind in kinds[1:]}
        return {kinds[0]: first, **others}

    def score_groups(self, groups: Sequence[Sequence[Episode]]) -> Scores:
        """Return normalised scores of groups; all of them are one batch to the statistics."""
        episodes = [episode for group in groups for episode in group]
        return self._updated(episodes, self.scorer.score_groups(groups))

    def _updated(self, episodes: Sequence[Episode], raw: Scores) -> Scores:
        """Return scores normalised by the statistics, which they update first."""
        raw.check(episodes, self.scorer.name)
        known = [e for e, is_known in zip(episodes, raw.measured, strict=True) if is_known]
        parts = self.gather(([self._label(episode) for episode in known], raw.values[raw.measured]))
        labels = [label for labels, _ in parts for label in labels]
        values = np.concatenate([values for _, values in parts])
        groups = dict(self.groups)  # copies of this scorer keep the one they have
        for label in dict.fromkeys(labels):
            rows = [row for row, other in enumerate(labels) if other == label]
            # A group's share of the window, rounded up, as it has that share of this batch.
            window = None if self.window is None else -(-self.window * len(rows) // len(labels))
            groups[label] = update_moments(
                groups.get(label, Moments()), values[rows], window=window
            )
        self.groups = groups
        return self._normalized(episodes, raw)

    def _normalized(self, episodes: Sequence[Episode], scores: Scores) -> Scores:
        """Return scores with normalised values, and their attributions in the same units."""
        means, deviations, factors = self._statistics(episodes)
        values = (scores.values.astype(np.float64) - means) / deviations
        if self.clip is not None:
            values = values.clip(-self.clip, self.clip)
        rows: Any = scores.attributions
        if rows is not None and scores.signed:
            rows = [row.astype(np.float64) * by for by, row in zip(factors, rows, strict=True)]
        if rows is not None and scores.additive:
            rows = [  # of what was not measured a row may be anything
                row if np.isnan(value) else add_rest_evenly(value, row)
                for value, row in zip(values.tolist(), rows, strict=True)
            ]
        parts: Any = scores.parts  # of a `Normalize`: with the value as it was before that one
        if not isinstance(self.scorer, Normalize):
            parts = {**inner_parts(parts), RAW_SCORE: scores.values}
        gaps = frozenset(("values", *parts))  # checked before
        return replace(scores, values=as_float32(values), parts=parts, attributions=rows, gaps=gaps)

    def score_prefix(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return scores normalised by the statistics as they are, and not clipped, (batch,)."""
        raw = self.scorer.score_prefix(episodes)
        means, _, factors = self._statistics(episodes)
        return (np.asarray(raw, dtype=np.float64) - means) * factors

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics."""
        groups = {name: moments._asdict() for name, moments in self.groups.items() if name}
        return {**self.moments._asdict(), "groups": groups, "scorer": self.scorer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the statistics that `state_dict` returned."""
        try:
            groups: dict[str | None, Moments] = {None: _moments(state)} if self.by is None else {}
            groups |= {name: _moments(group) for name, group in state.get("groups", {}).items()}
            if state["scorer"]:
                self.scorer.load_state_dict(state["scorer"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ScorerError(
                f"the state of {self.name!r} is damaged ({error!r}); pass that of state_dict()"
            ) from None
        self.groups = groups

    def _label(self, episode: Episode) -> str | None:
        """Return the group of an episode; None if there are no groups."""
        if self.by is None:
            return None
        if episode.query_type is None:
            raise ScorerError(
                f"scores are normalised by {self.by}, which the prompt {episode.prompt!r} lacks; "
                f"name the data set's column with {self.by}_column, or normalise all together"
            )
        return episode.query_type

    def _statistics(
        self, episodes: Sequence[Episode]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return means, deviations, and factors of differences, 0 before any spread; (batch,)."""
        moments = [self.groups.get(self._label(episode), Moments()) for episode in episodes]
        means, deviations = np.array([one.mean for one in moments]), np.ones(len(moments))
        if self.scale:
            deviations = np.sqrt([one.variance for one in moments]) + _EPSILON
        return means, deviations, np.where(deviations > _EPSILON, 1.0 / deviations, 0.0)


def _moments(state: Mapping[str, Any]) -> Moments:
    return Moments(int(state["seen"]), float(state["mean"]), float(state["variance"]))


class Cached(Shared, ScorerWrapper):
    """Scores a text the first time it is seen and looks it up afterwards.

    Pays where texts come back: in evaluations, in Shapley values, in a policy that has become sure.
    A text is known by prompt, response, ids and who wrote them, reference, query type, metadata and
    how it ended. Where responses are compared with each other nothing is remembered.
    ``hits`` and ``misses`` count.

    What is remembered is what was paid when the text was first seen. A model rounds by the padding
    of its batch, so asked again it may give the last digits otherwise, about 1e-6 of a score.
    Checkpoints keep no texts: a resumed run asks again, and may differ by as much.

    Args:
        scorer: Scorer whose scores are remembered; its scores must depend on the episode alone.
        size: Most texts remembered; the one unused for longest goes first.

    Raises:
        ScorerError: if ``size`` is not positive, or the scorer learns from what it scores.
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
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "Cached":
        """Return the cache of the scorer bound to the policy's tokenizer; itself if that is it."""
        bound = self.scorer.bind(tokenizer)
        return self if bound is self.scorer else self.around(bound)

    def around(self, scorer: Scorer) -> "Cached":
        """Return an empty cache of another scorer."""
        return Cached(scorer, size=self.size)

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the scores; unknown texts are scored in one batch, each once."""
        if self.compares:
            return call_scorer(self.scorer, episodes, attribution)

        def score(new: Sequence[Episode]) -> list[Scores]:
            scores = call_scorer(self.scorer, new, attribution)
            scores.check(new, self.scorer.name)
            return scores.split()

        kind = f"score {attribution}"
        return Scores.joined(self._look_up(episodes, kind, score, lambda one: one.measured.all()))

    def score_accounts(
        self, episodes: Sequence[Episode], kinds: Sequence[str]
    ) -> dict[str, Scores]:
        """Return the scores with each kind, remembered together."""
        if self.compares:
            return self.scorer.score_accounts(episodes, kinds)

        def score(new: Sequence[Episode]) -> list[tuple[Scores, ...]]:
            accounts = self.scorer.score_accounts(new, kinds)
            for one in accounts.values():
                one.check(new, self.scorer.name)
            return [*zip(*(accounts[kind].split() for kind in kinds), strict=True)]

        known = self._look_up(
            episodes, f"accounts {','.join(kinds)}", score, lambda ones: ones[0].measured.all()
        )
        columns = zip(kinds, zip(*known, strict=True), strict=True)
        return {kind: Scores.joined(column) for kind, column in columns}

    def score_prefix(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return the scores of texts that nobody played, (batch,), remembered apart from others."""

        def score(new: Sequence[Episode]) -> list[float]:
            return np.asarray(self.scorer.score_prefix(new), dtype=np.float64).tolist()

        return np.array(self._look_up(episodes, "score_prefix", score, np.isfinite))

    def _look_up(
        self,
        episodes: Sequence[Episode],
        kind: str,
        score: Callable[[Sequence[Episode]], list[T]],
        is_known: Callable[[T], Any],
    ) -> list[T]:
        """Return the scores of each episode, those of new texts scored in one batch.

        What is not known, as a judge did not answer, is asked for again the next time.
        """
        keys = [(kind, *_text_key(episode)) for episode in episodes]
        entries = {key: self._entries[key] for key in keys if key in self._entries}
        new = {key: e for key, e in zip(keys, episodes, strict=True) if key not in entries}
        self.misses += len(new)
        self.hits += len(keys) - len(new)
        if new:
            entries.update(zip(new, score(list(new.values())), strict=True))
        for key in keys:
            if is_known(entries[key]):
                self._entries[key] = entries[key]
                self._entries.move_to_end(key)
        while len(self._entries) > self.size:
            self._entries.popitem(last=False)
        return [entries[key] for key in keys]


def _text_key(episode: Episode) -> tuple[Hashable, ...]:
    """Return what tells an episode from others that may score differently."""
    # An array's own repr leaves out the middle of a long one, and digits.
    metadata = {
        name: (value.dtype.str, value.tolist()) if isinstance(value, np.ndarray) else value
        for name, value in episode.metadata.items()
    }
    return (
        *(episode.prompt, episode.response, episode.prompt_ids, episode.response_ids),
        *(episode.finish_reason, episode.turns, episode.messages),
        *(episode.reference, episode.query_type, repr(metadata) if metadata else ""),
        None if episode.written is None else episode.written.tobytes(),  # replies cost no length
    )


class WithAttribution(ScorerWrapper):
    """The values of one scorer; which tokens they rest on is said by another.

    Where the true score is a function that knows no tokens, a model that learnt it can still lend
    its attention, its gradients or its scores of prefixes. Signed attributions stay in the
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
        """Return the scorer's values and, if asked for, the explainer's attributions."""
        if attribution is None:
            return self.scorer.score(episodes)
        return self.score_accounts(episodes, [attribution])[attribution]

    def score_accounts(
        self, episodes: Sequence[Episode], kinds: Sequence[str]
    ) -> dict[str, Scores]:
        """Return the scorer's values with each of the explainer's attributions."""
        scores = self.scorer.score(episodes)
        scores.check(episodes, self.scorer.name)
        accounts = self.explainer.score_accounts(episodes, kinds)
        for account in accounts.values():
            account.check(episodes, self.explainer.name)
        return {kind: self._explained(scores, accounts[kind]) for kind in kinds}

    def _explained(self, scores: Scores, account: Scores) -> Scores:
        """Return scores with the attributions of the explainer's account of them."""
        explained = scores.with_attributions(
            account.attributions or (),
            signed=account.signed,
            parts={self.explainer.name: account.values},
        )
        values = np.where(account.measured, scores.values, np.nan)
        gaps = scores.gaps | {"values", self.explainer.name}
        return replace(explained, values=as_float32(values), gaps=gaps)


class TimeLimit(ScorerWrapper):
    """Gives up on a scorer that does not answer, such as a judge behind a connection that hangs.

    It takes the alarm clock of the process (SIGALRM) for as long as the scorer works, and so works
    in the main thread alone. A call into other code that never returns to Python is not
    interrupted. Of limits inside each other, the one that is due first stops both.

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
        """Return the scores; a TimeoutError is raised if they take too long."""
        with self._limited():
            return call_scorer(self.scorer, episodes, attribution)

    def score_accounts(
        self, episodes: Sequence[Episode], kinds: Sequence[str]
    ) -> dict[str, Scores]:
        """Return the scores with each kind; see `score`."""
        with self._limited():
            return self.scorer.score_accounts(episodes, kinds)

    def score_prefix(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return the scores of texts that nobody played, (batch,); see `score`."""
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
        due, every = signal.getitimer(signal.ITIMER_REAL)
        if 0.0 < due <= self.seconds:  # that of a limit around this one, which stops both
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            raise TimeoutError(f"no answer within scorer_timeout={self.seconds:g} s")

        handler = signal.signal(signal.SIGALRM, stop)
        # Again and again: the scorer may catch the error and try once more.
        signal.setitimer(signal.ITIMER_REAL, self.seconds, self.seconds)
        try:
            yield
        finally:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
            finally:  # also if the alarm rings just now
                signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)  # None: other code's
                if due:  # less the time that passed here; at once if that was all of it
                    left = max(due - (time.monotonic() - began), 1e-6)
                    signal.setitimer(signal.ITIMER_REAL, left, every)
