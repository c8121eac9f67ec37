"""Curves and rows of known answers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tokengym.evaluation.measure.references import ReferenceSamples
from tokengym.evaluation.report.curves import Curve
from tokengym.evaluation.report.facts import Group
from tokengym.evaluation.report.summary import SummarySettings, summarize

SEEDS = np.linspace(-1.0, 1.0, 6)


SPEED = {"sparse": 1.0, "uniform": 1.0, "abc": 2.0}


def fabricate_rows(
    rewards: Sequence[str] = ("sparse", "uniform", "abc"), seeds: int = 5, last: int = 30
) -> list[dict[str, Any]]:
    """Return rows of a curves.csv in which abc learns twice as fast, at more KL."""
    made = []
    for name in rewards:
        speed = SPEED.get(name, 1.0)
        for seed in range(seeds):
            rng = np.random.default_rng([len(name), seed])
            for step in range(0, last + 1, 3):
                gain = 1.0 - np.exp(-step * speed / 15.0)
                noise = 0.03 * rng.normal() if step else 0.0
                made.append(
                    {
                        "credit": name,
                        "seed": seed,
                        "step": step,
                        "tokens": step * 100,
                        "episodes": step * 4,
                        "score": float(-0.5 + 2.0 * gain + noise),
                        "gold_score": float(0.1 + 0.5 * gain + 0.1 * noise),
                        "kl": float(5.0 * speed * gain),
                        "length": 48.0,
                        "wall_s": step * 0.7,
                    }
                )
    return made


def fabricate_curves(
    rewards: Sequence[str] = ("sparse", "uniform", "abc"), seeds: int = 5, last: int = 30
) -> list[Curve]:
    """Return the same as curves."""
    rows = fabricate_rows(rewards, seeds, last)
    made: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        made.setdefault((row["credit"], row["seed"]), []).append(row)
    measures = [name for name in rows[0] if name not in ("credit", "seed", "step")]
    return [Curve.of(of, measures, credit=name, seed=seed) for (name, seed), of in made.items()]


def group_of(curves: Sequence[Curve], **settings: Any) -> Group:
    """Return the summary of the one setting that curves have."""
    (group,) = summarize(curves, SummarySettings(**settings)).groups
    return group


def root_of(nats: dict[str, float], slopes: dict[str, float] | None = None) -> list[Curve]:
    """Return `paths_of` on which the score is the root of the KL, or a multiple of it."""
    return paths_of(nats, lambda name, kl: (slopes or {}).get(name, 1.0) * np.sqrt(kl))


def leaping(curves: list[Curve], credit: str) -> list[Curve]:
    """Make the first update of a reward's runs cross 6 nats."""
    for curve in curves:
        if curve.credit == credit:
            curve.values["kl"][1:] = 6.0 + 0.1 * curve.steps[1:]
    return curves


def cheaper() -> list[Curve]:
    """Return curves of which abc has nine tenths of the score for half the KL."""
    curves = fabricate_curves(("sparse", "abc"))
    for curve in curves:
        factor, kl = (0.9, 0.5) if curve.credit == "abc" else (1.0, 1.0)
        rise = 1.0 - np.exp(-curve.steps / 10.0)
        curve.values["score"][:] = 2.0 * factor * rise + 0.01 * np.sin(curve.seed + curve.steps)
        curve.values["kl"][:] = 20.0 * kl * rise
    return curves


def references(prompts: int = 3) -> dict[Any, ReferenceSamples]:
    """Return samples whose best of 16 has a score of 1.5, gold .6, and whose mean is -.5, .1."""
    scores = np.full((prompts, 16), -0.5 - 2.0 / 15.0)
    scores[:, 0] = 1.5
    gold = np.full((prompts, 16), 0.1 - 0.5 / 15.0)
    gold[:, 0] = 0.6
    return {(): ReferenceSamples(scores=scores, gold_scores=gold, tokens=2304)}


def paths_of(
    nats: dict[str, float], score_of: Callable[[str, np.ndarray], np.ndarray]
) -> list[Curve]:
    """Return six seeds whose KL goes evenly to so many nats in 20 updates, a point after each."""
    steps = np.arange(21.0)
    return [
        Curve(
            credit=name,
            seed=seed,
            steps=steps,
            values={
                "score": score_of(name, kl * steps / 20.0) + 0.01 * shift,
                "gold_score": 0.5 * score_of(name, kl * steps / 20.0) + 0.01 * shift**2,
                "kl": kl * steps / 20.0 * (1.0 + 0.001 * shift**2),
            },
        )
        for name, kl in nats.items()
        for seed, shift in enumerate(SEEDS if name == "sparse" else SEEDS**3)
    ]


def curves_of(areas: np.ndarray) -> list[Curve]:
    """Return flat curves of the given heights, (seeds, rewards); the first reward is sparse."""
    return [
        Curve(
            credit=f"reward-{reward}" if reward else "sparse",
            seed=seed,
            steps=np.array([0.0, 1.0]),
            values={"score": np.full(2, area)},
        )
        for (seed, reward), area in np.ndenumerate(areas)
    ]


@pytest.fixture
def make_rows() -> Callable[..., list[dict[str, Any]]]:
    return fabricate_rows


@pytest.fixture
def make_curves() -> Callable[..., list[Curve]]:
    return fabricate_curves
