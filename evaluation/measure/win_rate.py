"""Win rate: the share of prompts on which one policy's responses are preferred to another's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from tokengym.envs import Episode
from tokengym.evaluation.statistics import DEFAULT_LEVEL, Array, student_interval
from tokengym.evaluation.statistics.scores import without_rounding

if TYPE_CHECKING:
    from tokengym.evaluation.measure.evaluate import Evaluation

Triple = tuple[str, str, str]
Prefer = Callable[[Sequence[Triple]], ArrayLike]
"""Function of (context, A, B) in this order: (batch,) probability that A is better."""


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """Counts and rate of one policy's responses being preferred to another's."""

    wins: int
    """Prompts on which the first was preferred in both orders."""
    ties: int
    """Prompts on which the two orders disagree, or neither response was preferred."""
    losses: int
    """Prompts on which the second was preferred in both orders."""
    rate: float
    """(wins + ties / 2) / prompts."""
    low: float
    """Lower end of the rate's interval over prompts."""
    high: float
    """Upper end."""
    disagreement: float
    """Position bias: share of prompts on which the judge preferred a place, not a response."""


def win_rate(as_a: ArrayLike, as_b: ArrayLike, level: float = DEFAULT_LEVEL) -> WinRate:
    """Summarise preferences asked in both orders, ties counting half.

    win if as_a > 1/2 and as_b > 1/2;  loss if as_a < 1/2 and as_b < 1/2;  else tie
    rate = (wins + ties / 2) / prompts

    Args:
        as_a: (prompts,) probability that the first policy's response is better, shown first.
        as_b: (prompts,) the same, shown second.
        level: Confidence level of the interval, in (0, 1).

    Source: both orders as in Zheng et al. 2023, arXiv:2306.05685, section 3.4.

    Example:
        >>> win_rate([0.9, 0.8, 0.2, 0.5], [0.7, 0.3, 0.1, 0.5]).rate
        0.5
    """
    first, second = _probabilities("as_a", as_a), _probabilities("as_b", as_b)
    if first.shape != second.shape:
        raise ValueError(
            f"as_a and as_b must be of the same prompts, got {first.shape} and {second.shape}"
        )
    wins, losses = (first > 0.5) & (second > 0.5), (first < 0.5) & (second < 0.5)
    ties = ~(wins | losses)
    points = wins + 0.5 * ties
    _, low, high, _ = student_interval(points, level)
    return WinRate(
        wins=int(wins.sum()),
        ties=int(ties.sum()),
        losses=int(losses.sum()),
        rate=float(points.mean()),
        low=max(float(low), 0.0),
        high=min(float(high), 1.0),
        disagreement=float(((first - 0.5) * (second - 0.5) < 0).mean()),
    )


def judged(first: Sequence[Episode], second: Sequence[Episode], prefer: Prefer) -> WinRate:
    """Compare two policies' responses by a judge that reads each pair in both orders.

    Args:
        first: One policy's episodes.
        second: The other's, on the same prompts in the same order.
        prefer: Judge, such as `PreferenceModel.preferences`.

    Raises:
        ValueError: if there are none, or the prompts differ.
    """
    _same_prompts(first, second)
    both = zip(first, second, strict=True)
    pairs = [(a.prompt, a.response, b.response) for a, b in both]
    as_a = np.asarray(prefer(pairs))
    return win_rate(as_a, 1.0 - np.asarray(prefer([(c, b, a) for c, a, b in pairs])))


def answered(first: "Evaluation", second: "Evaluation") -> tuple[list[Episode], list[Episode]]:
    """Return the responses to the prompts of which both evaluations have one."""
    ones, others = (dict(zip(e.places, e.episodes, strict=True)) for e in (first, second))
    places = sorted(ones.keys() & others.keys())
    return [ones[place] for place in places], [others[place] for place in places]


def scored(first: Sequence[Episode], second: Sequence[Episode]) -> WinRate:
    """Compare two policies' responses by their scores: the higher wins, an equal one ties.

    Raises:
        ValueError: if there are none, the prompts differ, or an episode has no score.
    """
    _same_prompts(first, second)
    both = [(one.score, other.score) for one, other in zip(first, second, strict=True)]
    values = np.array(both, dtype=np.float64)  # nan where there is none
    if np.isnan(values).any():
        raise ValueError(
            "an episode has no score; leave its prompt out of both, as `answered` does"
        )
    sure = 0.5 + 0.5 * np.sign(without_rounding(*values.T))
    return win_rate(sure, sure)


def _same_prompts(first: Sequence[Episode], second: Sequence[Episode]) -> None:
    if not first or [e.prompt for e in first] != [e.prompt for e in second]:
        raise ValueError(
            f"first and second must answer the same prompts in one order, got {len(first)} and "
            f"{len(second)} episodes; collect both with one seed"
        )


def _probabilities(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or not ((array >= 0.0) & (array <= 1.0)).all():
        raise ValueError(
            f"{name} must be (prompts,) probabilities, got shape {array.shape} with values "
            f"{array.reshape(-1)[:3]}; PreferenceModel.preferences gives them"
        )
    return array
