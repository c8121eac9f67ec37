"""Rules of docs/results/protocol.md for every study: criterion, grid, levels, margins and rates."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike

from tokengym.agents.losses import best_of_n_kl_bound, mean_of_best
from tokengym.agents.offline import ResponseCollector, Sampling, make_policy
from tokengym.envs import Episode
from tokengym.evaluation.runs import EvaluationSettings, RunRecord, training_settings
from tokengym.evaluation.statistics import Equivalence, area_under_curve, equivalence
from tokengym.lab.tables import mean

Row = Mapping[str, Any]
PRICE = 0.05
"""Score that a nat of KL costs, in training and in the criterion."""
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
FIRST_RATE = 1e-3
"""Rate that a sweep begins with; it climbs from there while a neighbour is better."""
SPARE_SEED = 1000
"""Seed of the sweeps, which stands behind no difference."""
DRAWN, PROMPTS, DRAW_SEED = 64, 128, 0
"""Responses of the untrained policy to each held-out prompt, behind best-of-n and the bound."""
NS = (1, 2, 4, 8, 16, 32, 64)
"""Values of n in a study's tables of best-of-n."""
GRID = EvaluationSettings(every=1, episodes=PROMPTS, samples=0)
"""Measurement of a run: after every update, since most of a lead can arise in the first ones."""
NET_MARGIN, GOLD_MARGIN = 0.03, 0.05
"""Shares of the way within which two rules are level: score - c KL over a run, gold at its end."""
MEASURES = ("step", "tokens", "score", "gold_score", "kl")
"""Columns that a study keeps of a measurement."""


def measured(record: RunRecord) -> list[dict[str, Any]]:
    """Return a run's measurements, one row each, as studies keep them."""
    return [{k: round(point[k], 4) for k in MEASURES} for point in record.curve]


def net(row: Row, price: float = PRICE) -> float:
    """Return score - c KL of a measurement."""
    return float(row["score"] - price * row["kl"])


def net_area(rows: Sequence[Row], price: float = PRICE) -> float:
    """Return the mean of score - c KL over the tokens of a run."""
    tokens = [row["tokens"] for row in rows]
    return float(area_under_curve(tokens, [net(row, price) for row in rows], normalize=True))


def over_run(rows: Sequence[Row], measure: str) -> float:
    """Return the mean of a measurement over the tokens of a run."""
    tokens = [row["tokens"] for row in rows]
    return float(area_under_curve(tokens, [row[measure] for row in rows], normalize=True))


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


def best_of_rows(proxy: ArrayLike, gold: ArrayLike) -> list[dict[str, Any]]:
    """Return a row per n: what the best of n responses scores, and the bound on its KL.

    Args:
        proxy: (prompts, drawn) scores that the best is picked by.
        gold: (prompts, drawn) of the same responses.
    """
    return [
        {
            "n": n,
            "score": mean(mean_of_best(proxy, proxy, n)),
            "gold_score": mean(mean_of_best(proxy, gold, n)),
            "kl": best_of_n_kl_bound(n),
        }
        for n in NS
    ]
