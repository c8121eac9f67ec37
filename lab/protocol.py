"""Rules of docs/results/protocol.md for every study: criterion, grid, levels, margins and rates."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from tokengym.agents import losses
from tokengym.agents.offline import ResponseCollector, Sampling, make_policy
from tokengym.envs import Episode, Task
from tokengym.evaluation.measure import BEST_OF, BEST_OF_SIZES, MIN_ERRORS, span_error
from tokengym.evaluation.runs import EvaluationSettings, RunRecord, training_settings
from tokengym.evaluation.statistics import (
    DEFAULT_LEVEL,
    Curve,
    paired_difference,
)
from tokengym.lab.tables import mean
from tokengym.rewards import gold_scorer

Choice = TypeVar("Choice")
Row = Mapping[str, Any]
"""A row of a table of results: its values by column."""
PRICE = 0.05
"""Score that a nat of KL costs, in training and in the criterion."""
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
FIRST_RATE = 1e-3
"""Rate that a sweep begins with; it climbs from there while a neighbour is better."""
SPARE_SEEDS = (1000, 1001, 1002)
"""Seeds of the sweeps, which stand behind no difference."""
SPARE_SEED = SPARE_SEEDS[0]
"""The one seed of the sweeps of most studies, which say so."""
DRAWN, PROMPTS, DRAW_SEED = 64, 128, 0
"""Responses of the untrained policy to each held-out prompt, behind best-of-n and the bound."""
GRID = EvaluationSettings(every=1, episodes=PROMPTS, samples=0)
"""Measurement of a run: after every update, since most of a lead can arise in the first ones."""
NET_MARGIN, GOLD_MARGIN = 0.03, 0.05
"""Shares of the way within which two rules are level: score - c KL over a run, gold at its end."""
FIGURES = ("score", "gold_score", "kl")
"""What a measurement says of a policy."""
MEASURES = ("step", "tokens", *FIGURES)
"""Columns that a study keeps of a measurement."""
LEARNER: dict[str, Any] = {
    "learning_rate_schedule": "linear",
    "vf_coef": 1.0,
    "clip_range_vf": None,
    "n_epochs": 2,
    "n_minibatches": 4,
    "kl_coef": PRICE,
    "kl_estimator": "exact",
}
"""PPO's settings in studies (docs/results/earlier.md); lambda and critic vary by cell."""


def measured(record: RunRecord) -> list[dict[str, Any]]:
    """Return a run's measurements, one row each, as studies keep them."""
    return [{k: round(point[k], 4) for k in MEASURES} for point in record.points]


def net(row: Row, price: float = PRICE) -> float:
    """Return score - c KL of a measurement."""
    return float(row["score"] - price * row["kl"])


def curve_of(rows: Sequence[Row], price: float = PRICE) -> Curve:
    """Return a run's curve over its tokens, with ``net_score``: score - c KL."""
    return Curve.of(rows).over_tokens().priced(price)


def net_area(rows: Sequence[Row], price: float = PRICE) -> float:
    """Return the criterion of the protocol, the mean of score - c KL over the tokens of a run."""
    return curve_of(rows, price).area("net_score")


def way(drawn: Iterable[Row], of: Callable[[Row], float] = net) -> tuple[float, float]:
    """Return where the way from the untrained policy to its best of 16 begins and ends.

    It begins at the mean of all `DRAWN` responses to each prompt, not at the one response that
    the curves' first points have: a lead is a share of it whatever a run starts from.

    Args:
        drawn: Rows of `best_of_rows`, a row per n.
        of: What is measured; score - c KL by default.
    """
    by_n = {row["n"]: of(row) for row in drawn}
    return by_n[1], by_n[BEST_OF]


def next_rate(areas: Mapping[float, float], first: float = FIRST_RATE) -> float | None:
    """Return the rate that a sweep tries next, None once no neighbour of the best is untried.

    Args:
        areas: What each rate tried so far has reached.
        first: Rate that is tried first.

    Example:
        >>> next_rate({}), next_rate({1e-3: 2.0}), next_rate({1e-3: 2.0, 3e-3: 1.0, 3e-4: 1.0})
        (0.001, 0.003, None)
    """
    if not areas:
        return first
    at = RATES.index(max(areas, key=lambda rate: areas[rate]))
    near = RATES[max(at - 1, 0) : at + 2]
    return next((rate for rate in reversed(near) if rate not in areas), None)


def best_rate(areas: Mapping[float, float], first: float = FIRST_RATE) -> float | None:
    """Return the rate that a sweep found, None while it is not finished.

    Args:
        areas: What each rate tried so far has reached.
        first: Rate that is tried first.
    """
    if next_rate(areas, first) is not None:
        return None
    return max(areas, key=lambda rate: areas[rate])


def chosen_on_others(
    choices: Sequence[Choice], seeds: Sequence[int], figures: ArrayLike
) -> dict[int, Choice]:
    """Return by seed the choice that does best on the other seeds.

    c(s) = argmax over choices c of mean over seeds t != s of figures[c, t]

    The highest mean of several equal cells would be above what any of them has. Here the seed that
    is measured has no say in the choice, whose noise is then in the differences between seeds. A
    choice that lacks a seed's figure is left out: which seeds have one is not by chance.

    Args:
        choices: Cells, settings or rates to choose from.
        seeds: The seeds.
        figures: (choices, seeds) by which they are chosen, NaN where there is none; the larger, the
            better.

    Raises:
        ValueError: if there are several choices and one seed, or no choice has every seed's figure.

    Example:
        >>> chosen_on_others(["a", "b"], [7, 8, 9], [[1.0, 5.0, 1.0], [2.0, 2.0, 2.0]])
        {7: 'a', 8: 'b', 9: 'a'}
    """
    table = np.asarray(figures, dtype=np.float64)
    whole = np.flatnonzero(np.isfinite(table).all(axis=1))
    if len(whole) == 0 or (len(whole) > 1 and len(seeds) == 1):
        raise ValueError(
            f"{len(choices)} cells have the seeds {[*seeds]}, {len(whole)} of them all: a cell is "
            "chosen on the other seeds, so that two are needed"
        )
    others = table[whole].sum(axis=1, keepdims=True) - table[whole]
    best = whole[np.argmax(others, axis=0)]
    return {seed: choices[int(place)] for seed, place in zip(seeds, best, strict=True)}


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """Two one-sided tests of whether two sets of runs with the same seeds are level."""

    margin: float
    """Largest difference that counts as none, in the scores' unit."""
    low: float
    """Lower end of the interval of x - y, of level 2 * level - 1: 90 % for 0.95."""
    high: float
    """Upper end of that interval."""
    p_value: float
    """p-value of a difference of the margin or more; 1 with a single pair."""
    equivalent: bool
    """Whether the interval is inside the margin, which is whether p_value < 1 - level."""


def equivalence(
    x: ArrayLike, y: ArrayLike, margin: float, level: float = DEFAULT_LEVEL
) -> Equivalence:
    """Return whether runs paired by seed differ by less than a margin: a test of "no difference".

    p = max(P(T_{n-1} > (mean + margin) * sqrt(n) / s), P(T_{n-1} > (margin - mean) * sqrt(n) / s))

    An interval that holds 0 shows nothing of the kind: with few noisy pairs it always does.

    Args:
        x: (pairs,) scores.
        y: (pairs,) scores of the same seeds, in the same order.
        margin: Largest difference that counts as none, chosen before the runs; > 0.
        level: Confidence level, in (0.5, 1).

    Source:
        Schuirmann 1987, "A comparison of the two one-sided tests procedure and the power approach",
        J. Pharmacokinet. Biopharm. 15.
    """
    if not margin > 0.0:
        raise ValueError(f"margin must be > 0, got {margin}; choose it before the runs")
    if not 0.5 < level < 1.0:
        raise ValueError(f"level must lie in (0.5, 1), got {level}; {DEFAULT_LEVEL} is usual")
    paired = paired_difference(x, y, 2.0 * level - 1.0)
    if paired.pairs == 1:
        return Equivalence(
            margin=margin, low=paired.low, high=paired.high, p_value=1.0, equivalent=False
        )
    degrees = paired.pairs - 1
    error = (paired.high - paired.low) / 2.0 / stdtrit(degrees, level)
    room = margin - abs(paired.difference)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = float(stdtr(degrees, -np.divide(room, error))) if room else 0.5
    return Equivalence(
        margin=margin,
        low=paired.low,
        high=paired.high,
        p_value=p_value,
        equivalent=p_value < 1.0 - level,
    )


def level(
    one: Sequence[float], other: Sequence[float], way: float, margin: float = NET_MARGIN
) -> Equivalence:
    """Return whether two rules, paired by seed, are level: two one-sided tests.

    Args:
        one: (pairs,) figures of a rule.
        other: (pairs,) of the other, on the same seeds.
        way: From the untrained policy to its best of 16, in the figures' units.
        margin: Share of the way, `NET_MARGIN` or `GOLD_MARGIN`.

    Example:
        >>> level([1.0, 1.1, 0.9], [1.0, 1.09, 0.91], way=2.0).equivalent
        True
    """
    return equivalence(one, other, margin=margin * way)


def untrained_responses(env: str, length: int, **options: Any) -> list[Episode]:
    """Return the untrained policy's responses to the held-out prompts, `DRAWN` to each in turn.

    Args:
        env: Environment id.
        length: Tokens of a response.
        options: Further arguments of ``gym.make_vec``, such as ``bundle``.
    """
    lengths: dict[str, Any] = training_settings(env, max_new_tokens=length).lengths()
    envs: Any = gym.make_vec(env, num_envs=1, reward="sparse", split="test", **lengths, **options)
    collector = ResponseCollector(envs, sampling=Sampling(n=DRAWN), max_rows=256)
    groups = collector.collect(make_policy(envs), range(PROMPTS), seed=DRAW_SEED)
    return [episode for group in groups for episode in group]


def scores_of(episodes: Sequence[Episode]) -> np.ndarray:
    """Return the scores that `untrained_responses` were paid, (prompts, drawn)."""
    return np.array([episode.score for episode in episodes], dtype=np.float64).reshape(-1, DRAWN)


def check_span(scores: np.ndarray, name: str) -> None:
    """Refuse a way that may be noise: a share of it could be any number.

    Args:
        scores: (prompts, drawn) of the untrained policy.
        name: Where they were drawn, for the message.
    """
    span = mean(losses.mean_of_best(scores, scores, BEST_OF)) - float(scores.mean())
    error = span_error(scores, BEST_OF, len(scores))
    if error is None or span <= MIN_ERRORS * error:
        said = "of unknown error" if error is None else f"with a standard error of {error:.3g}"
        raise ValueError(
            f"the best of {BEST_OF} untrained responses in {name} is {span:.3g} above one, {said}: "
            "no share of that way is told from noise; take another task, or draw more prompts"
        )


def untrained_best_of(env: str, length: int) -> list[dict[str, Any]]:
    """Return `best_of_rows` of the untrained policy, by a task's own score and its gold score.

    Args:
        env: Environment id.
        length: Tokens of a response.
    """
    task = Task.of(env)
    judge = None if task is None else gold_scorer(task.own_bundle())
    assert judge is not None, env
    episodes = untrained_responses(env, length)
    check_span(scores_of(episodes), env)
    return best_of_rows(scores_of(episodes), judge.score(episodes).values.reshape(-1, DRAWN))


def best_of_rows(proxy: ArrayLike, gold: ArrayLike) -> list[dict[str, Any]]:
    """Return a row per n: what the best of n responses scores, and the bound on its KL.

    Args:
        proxy: (prompts, drawn) scores that the best is picked by.
        gold: (prompts, drawn) of the same responses.
    """
    return [
        {
            "n": n,
            "score": mean(losses.mean_of_best(proxy, proxy, n)),
            "gold_score": mean(losses.mean_of_best(proxy, gold, n)),
            "kl": losses.best_of_n_kl_bound(n),
        }
        for n in BEST_OF_SIZES
    ]
