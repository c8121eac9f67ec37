"""Comparisons of identical rewards, whose headlines claim a difference in at most 6 %."""

import numpy as np
from numpy.typing import NDArray

from tests.campaign.outcome import LostError, Outcome, try_cases
from tokengym.evaluation.report.curves import Curve
from tokengym.evaluation.report.summary import SHARE_OF_KL, summarize
from tokengym.evaluation.statistics import DEFAULT_LEVEL, holm, student_interval

Areas = NDArray[np.float64]
NOISES = ("normal", "heavy tails", "skewed", "uniform")
TIES = (0.0, 1.0)
"""How much KL a run spends for each unit of score that it has by chance."""
REPORTS = 20_000
NATS = 20.0
"""KL of every reward, in the mean."""
ERROR = 1.0 - DEFAULT_LEVEL


def areas_of(noise: str, size: tuple[int, int, int], random: np.random.Generator) -> Areas:
    """Return areas under curves, (reports, seeds, rewards), that differ by noise alone."""
    drawn = {
        "normal": lambda: random.normal(size=size),
        "heavy tails": lambda: random.standard_t(3, size=size),
        "skewed": lambda: random.lognormal(size=size),
        "uniform": lambda: random.uniform(size=size),
    }[noise]()
    areas: Areas = drawn + random.normal(size=(*size[:2], 1))  # what a seed does to all of them
    return areas


def nats_of(areas: Areas, noise: str, tie: float, random: np.random.Generator) -> Areas:
    """Return the KL of the same runs, which differs by noise alone too."""
    return NATS + areas_of(noise, areas.shape, random) + tie * areas


def false_headlines(areas: Areas, nats: Areas) -> float:
    """Return the share of reports that claim a difference, after checking some whole ones.

    A headline claims that a reward learned faster or slower, or else that it drifts less.

    Args:
        areas: (reports, seeds, rewards), the first reward the baseline.
        nats: Likewise, the KL over the run.

    Raises:
        LostError: if a whole report's headline is not what the statistics say.
    """
    of_speed, _ = _tests(areas)
    of_kl, kl = _tests(nats)
    speed = np.any(of_speed < ERROR, axis=1)
    drift = np.any((of_kl < SHARE_OF_KL * ERROR) & (kl < 0.0), axis=1)
    false = speed | drift
    for kind in (speed, drift & ~speed, ~false):
        for report in np.flatnonzero(kind)[:3]:
            headline = _headline(areas[report], nats[report])
            if (headline != "No reward learned clearly faster than sparse.") != false[report]:
                raise LostError(f"a report of {areas.shape[1]} seeds says {headline!r}")
            if headline.endswith("less.") != (drift & ~speed)[report]:
                raise LostError(f"a report of {areas.shape[1]} seeds says {headline!r}")
    return float(false.mean())


def _tests(areas: Areas) -> tuple[Areas, Areas]:
    """Return the corrected p-values and the differences to the baseline, (reports, others)."""
    differences = np.moveaxis(areas[:, :, 1:] - areas[:, :, :1], 1, 2)  # (reports, others, seeds)
    mean, _, _, p_values = student_interval(differences)
    return np.asarray(holm(p_values)), mean


def _headline(areas: Areas, nats: Areas) -> str:
    """Return the headline of one report of runs whose score and KL never move."""
    curves = [
        Curve(
            credit="sparse" if reward == 0 else f"reward-{reward}",
            seed=seed,
            steps=np.array([0.0, 1.0]),
            values={"score": np.full(2, area), "kl": np.full(2, nats[seed, reward])},
        )
        for (seed, reward), area in np.ndenumerate(areas)
    ]
    headline: str = summarize(curves).groups[0].verdict.headline
    return headline


def one_null(random: np.random.Generator) -> None:
    """Simulate comparisons of two to five identical rewards."""
    noise, seeds = str(random.choice(NOISES)), int(random.choice([5, 10]))
    rewards, tie = int(random.integers(2, 6)), float(random.choice(TIES))
    areas = areas_of(noise, (REPORTS, seeds, rewards), random)
    share = false_headlines(areas, nats_of(areas, noise, tie, random))
    if share > 0.06:
        raise LostError(f"{share:.1%} false headlines, {noise}, {rewards} rewards, {seeds} seeds")


def nulls(count: int, seed: int) -> Outcome:
    """Try ``count`` sets of 20,000 comparisons."""
    return try_cases("nulls", one_null, count, seed)
