"""A scorer whose values are centred and scaled by what it has seen so far."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tokengym.base.registry import Registry, name_of
from tokengym.base.settings import check_choice, check_count, check_number
from tokengym.envs.episode import RAW_SCORE, Episode
from tokengym.rewards.errors import RewardError, ScorerError
from tokengym.rewards.maths.redistribution import Moments, update_moments
from tokengym.rewards.maths.shares import add_rest_evenly
from tokengym.rewards.scorers.base import AnyScorer, call_scorer
from tokengym.rewards.scorers.wrappers import ScorerWrapper
from tokengym.rewards.scores import Scores, inner_parts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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

    Example:
        >>> parse_normalization("running:window=512,clip=none")
        ('running', {'window': 512, 'clip': None})
    """
    if isinstance(text, tuple) and list(map(type, text)) == [str, dict]:
        return text
    if not isinstance(text, str) or (name := name_of(text)) not in NORMALIZATIONS:
        raise RewardError(f"normalize must be None, 'running' or 'batch', got {text!r}")
    options = NORMALIZATIONS.parse(text).options
    for key in options:
        if key not in NORMALIZATIONS[name]:
            raise RewardError(
                f"normalize {name!r} has no option {key!r}; it has "
                f"{', '.join(NORMALIZATIONS[name])}"
            )
    return name, {key: None if value == "none" else value for key, value in options.items()}


class Normalize(ScorerWrapper):
    """Running normalisation: value' = clip((value - mean) / deviation, -clip, clip).

    A batch updates the statistics before it is normalised by them. The value as it was stays in
    ``parts["raw_score"]``. Scoring changes the statistics, so the same episode may score
    differently later: evaluate with the scorer inside. `bind` returns a copy with statistics of
    its own, so that environments which are given one `Normalize` do not share them.

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
        self.gather: Callable[[Any], list[Any]] = _alone
        """Returns the values of all processes that score a round together, given this one's."""

    @property
    def fault_name(self) -> str:
        """That of the scorer inside, which ``normalize=`` has put here."""
        return self.scorer.fault_name

    @property
    def moments(self) -> Moments:
        """The moments of all episodes; empty where groups have their own."""
        return self.groups.get(None, Moments())

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return normalised scores; the batch updates the statistics first.

        Weights are passed on. Signed attributions are scaled with the value; of those that sum to
        it, what centring and clipping take off is spread evenly, as a constant of the episode. On
        the last token alone it would outweigh the parts, which a critic has to learn first.

        Raises:
            ScorerError: if a prompt lacks the annotation ``by``.
        """
        return self._updated(episodes, call_scorer(self.scorer, episodes, attribution))

    def score_groups(self, groups: Sequence[Sequence[Episode]]) -> Scores:
        """Return normalised scores of groups; all of them are one batch to the statistics."""
        episodes = [episode for group in groups for episode in group]
        return self._updated(episodes, self.scorer.score_groups(groups))

    def _updated(self, episodes: Sequence[Episode], raw: Scores) -> Scores:
        """Return scores normalised by the statistics, which they update first."""
        raw.check(episodes, self.scorer.name)
        parts = self.gather(([self._label(episode) for episode in episodes], raw.values))
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
        rows: Sequence[NDArray[np.floating]] | None = scores.attributions
        if rows is not None and scores.signed:
            rows = [row.astype(np.float64) * by for by, row in zip(factors, rows, strict=True)]
        if rows is not None and scores.additive:
            rows = [
                add_rest_evenly(float(value), row) for row, value in zip(rows, values, strict=True)
            ]
        parts = scores.parts  # of a `Normalize`: they have the value as it was before that one
        if not isinstance(self.scorer, Normalize):
            parts = {**inner_parts(parts), RAW_SCORE: scores.values}
        return Scores(
            values=values,
            parts=parts,
            attributions=rows,
            additive=scores.additive,
            signed=scores.signed,
        )

    def score_prefix(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return scores normalised by the statistics as they are, and not clipped."""
        raw = self.scorer.score_prefix(episodes)
        means, _, factors = self._statistics(episodes)
        return (np.asarray(raw, dtype=np.float64) - means) * factors

    def with_components(self, **components: Any) -> "Normalize | None":
        """Return a copy around the switched scorer, whose scores no statistics know yet."""
        switched = super().with_components(**components)
        if switched is not None:
            switched.groups = {}
        return switched

    def token_worth(
        self, episodes: Sequence[Episode], tokenizer: "PreTrainedTokenizerBase"
    ) -> list[NDArray[np.float64]] | None:
        """Return what each token adds, scaled by the statistics as they are, and not clipped."""
        worth = self.scorer.token_worth(episodes, tokenizer)
        if worth is None:
            return None
        return [by * row for by, row in zip(self._statistics(episodes)[2], worth, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics."""
        shown = self.moments if self.by is None else Moments()
        groups = {name: moments._asdict() for name, moments in self.groups.items() if name}
        return {**shown._asdict(), "groups": groups, "scorer": self.scorer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the statistics that `state_dict` returned.

        Raises:
            ScorerError: if one is missing, or none of them is what it must be.
        """
        try:
            groups: dict[str | None, Moments] = {None: _moments(state)} if self.by is None else {}
            groups |= {name: _moments(group) for name, group in state.get("groups", {}).items()}
            if state["scorer"]:
                self.scorer.load_state_dict(state["scorer"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else f"is damaged ({error})"
            raise ScorerError(
                f"the state of {self.name!r} {what}; pass what state_dict() returned"
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
        """Return what each episode is normalised by, (batch,) each.

        Returns:
            Means, deviations, and what differences of scores are multiplied by, which is 0 before
            any deviation.
        """
        moments = [self.groups.get(self._label(episode), Moments()) for episode in episodes]
        means, deviations = np.array([one.mean for one in moments]), np.ones(len(moments))
        if self.scale:
            deviations = np.sqrt([one.variance for one in moments]) + _EPSILON
        return means, deviations, np.where(deviations > _EPSILON, 1.0 / deviations, 0.0)


def _alone(value: Any) -> list[Any]:
    return [value]


def _moments(state: Mapping[str, Any]) -> Moments:
    return Moments(int(state["seen"]), float(state["mean"]), float(state["variance"]))
