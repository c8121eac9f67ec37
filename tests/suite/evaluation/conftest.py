"""Learning curves made up for tests: what a comparison would have measured."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tokengym.evaluation.report.curves import Curve

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
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in fabricate_rows(rewards, seeds, last):
        found.setdefault((row["credit"], row["seed"]), []).append(row)
    return [
        Curve(
            credit=credit,
            seed=seed,
            steps=np.array([row["step"] for row in points], dtype=np.float64),
            values={
                name: np.array([row[name] for row in points])
                for name in points[0]
                if name not in ("credit", "seed", "step")
            },
        )
        for (credit, seed), points in found.items()
    ]


@pytest.fixture
def make_rows() -> Callable[..., list[dict[str, Any]]]:
    return fabricate_rows


@pytest.fixture
def make_curves() -> Callable[..., list[Curve]]:
    return fabricate_curves
