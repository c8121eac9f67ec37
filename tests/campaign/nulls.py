"""Comparisons of identical rewards, whose headlines claim a difference in at most 6 %."""

import numpy as np
from numpy.typing import NDArray

from tests.campaign.outcome import LostError, Outcome, try_cases
from tokengym.evaluation.report.curves import Curve
from tokengym.evaluation.report.summary import summarize
from tokengym.evaluation.statistics import holm, student_interval

Areas = NDArray[np.float64]
NOISES = ("normal", "heavy tails", "skewed", "uniform")
REPORTS = 20_000


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


def false_headlines(areas: Areas) -> float:
    """Return the share of reports that claim a difference, after checking eight whole ones.

    Args:
        areas: (reports, seeds, rewards), the first reward the baseline.

    Raises:
        LostError: if a whole report's headline is not what the statistics say.
    """
    differences = np.moveaxis(areas[:, :, 1:] - areas[:, :, :1], 1, 2)  # (reports, others, seeds)
    false = np.any(np.asarray(holm(student_interval(differences)[3])) < 0.05, axis=1)
    for report in [*np.flatnonzero(false)[:4], *np.flatnonzero(~false)[:4]]:
        curves = [
            Curve(
                credit="sparse" if reward == 0 else f"reward-{reward}",
                seed=seed,
                steps=np.array([0.0, 1.0]),
                values={"score": np.full(2, area)},
            )
            for (seed, reward), area in np.ndenumerate(areas[report])
        ]
        headline = summarize(curves)["groups"][0]["verdict"]["headline"]
        if (headline != "No reward learned clearly faster than sparse.") != false[report]:
            raise LostError(f"a report of {areas.shape[1]} seeds says {headline!r}")
    return float(false.mean())


def one_null(random: np.random.Generator) -> None:
    """Simulate comparisons of two to five identical rewards."""
    noise, seeds = str(random.choice(NOISES)), int(random.choice([5, 10]))
    rewards = int(random.integers(2, 6))
    share = false_headlines(areas_of(noise, (REPORTS, seeds, rewards), random))
    if share > 0.06:
        raise LostError(f"{share:.1%} false headlines, {noise}, {rewards} rewards, {seeds} seeds")


def nulls(count: int, seed: int) -> Outcome:
    """Try ``count`` sets of 20,000 comparisons."""
    return try_cases("nulls", one_null, count, seed)
