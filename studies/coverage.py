"""Coverage of the intervals, by simulation: fills docs/results/details/coverage.md.

Each experiment draws one score per seed from a known distribution, computes the 95 % interval of
`tokengym.evaluation.statistics`, and checks whether it contains the distribution's own value.

    python -m studies.coverage [--experiments 2000] [--docs docs/results]
"""

from collections.abc import Callable, Mapping

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from tokengym.evaluation.statistics import improvement_interval, interval, iqm, paired_difference
from tokengym.lab.study import DOCS, Docs, command_line
from tokengym.lab.tables import fill, markdown_table

SEEDS = (3, 5, 10, 20)
RESAMPLES = 1_000
Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]

DISTRIBUTIONS: Mapping[str, Draw] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "heavy tails (Student t, 3)": lambda rng, size: rng.standard_t(3, size=size),
    "skewed (lognormal, sigma 0.5)": lambda rng, size: rng.lognormal(sigma=0.5, size=size),
    "two heaps (one run in five fails)": lambda rng, size: (
        rng.normal(size=size) - 6.0 * (rng.random(size=size) < 0.2)
    ),
}


def truth(draw: Draw, runs: int) -> float:
    """Return what the interquartile mean of so many runs estimates: its mean over experiments.

    With few runs whole ones are cut (floor of a quarter), so it depends on their number.
    """
    return float(iqm(draw(np.random.default_rng(12345), (200_000, runs)), axis=1).mean())


def coverage(draw: Draw, runs: int, experiments: int) -> float:
    """Return the share of experiments whose 95 % interval holds the truth."""
    rng = np.random.default_rng([0, runs])
    target, hits = truth(draw, runs), 0
    for scores in draw(rng, (experiments, runs)):
        low, high = interval(scores, rng=rng, resamples=RESAMPLES)
        hits += low <= target <= high
    return hits / experiments


def paired_coverage(runs: int, experiments: int) -> float:
    """Return the same for differences of 1 between runs whose seeds differ by ten times that."""
    rng, hits = np.random.default_rng([1, runs]), 0
    for _ in range(experiments):
        y = rng.normal(scale=10.0, size=runs)
        bounds = paired_difference(y + 1.0 + rng.normal(size=runs), y)
        hits += bounds.low <= 1.0 <= bounds.high
    return hits / experiments


def improvement_coverage(runs: int, experiments: int) -> float:
    """Return the same for the probability that a run of N(1, 1) beats one of N(0, 1)."""
    rng, hits = np.random.default_rng([2, runs]), 0
    target = float(scipy.stats.norm.cdf(1.0 / np.sqrt(2.0)))
    for _ in range(experiments):
        x, y = rng.normal(1.0, size=runs), rng.normal(size=runs)
        low, high = improvement_interval(x, y, rng=rng, resamples=RESAMPLES)
        hits += low <= target <= high
    return hits / experiments


def scipy_coverage(draw: Draw, runs: int, experiments: int, method: str) -> float:
    """Return the same for SciPy's bootstrap of its trimmed mean."""
    rng, hits = np.random.default_rng([0, runs]), 0
    target = truth(draw, runs)
    for scores in draw(rng, (experiments, runs)):
        bounds = scipy.stats.bootstrap(
            (scores,),
            lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis),
            n_resamples=RESAMPLES,
            method=method,
            rng=rng,
        ).confidence_interval
        hits += bounds.low <= target <= bounds.high
    return hits / experiments


def table(experiments: int) -> str:
    """Return the whole table, a column per number of seeds."""
    rows = [
        [name, *(f"{coverage(draw, runs, experiments):.1%}" for runs in SEEDS)]
        for name, draw in DISTRIBUTIONS.items()
    ]
    rows += [
        [
            "paired difference (Student t)",
            *(f"{paired_coverage(runs, experiments):.1%}" for runs in SEEDS),
        ],
        [
            "probability of improvement",
            *(f"{improvement_coverage(runs, experiments):.1%}" for runs in SEEDS),
        ],
    ]
    normal = DISTRIBUTIONS["normal"]
    for method in ("percentile", "BCa"):
        label = f"SciPy's {method} bootstrap, normal"
        few = experiments // 4
        rows.append(
            [label, *(f"{scipy_coverage(normal, runs, few, method):.1%}" for runs in SEEDS)]
        )
    return markdown_table(["", *(f"{runs} seeds" for runs in SEEDS)], rows)


def main(experiments: int = 2000, docs: Docs = DOCS) -> None:
    """Simulate and fill the document.

    Args:
        docs: Folder of the study's page.
        experiments: Number of simulated experiments per cell of the table.
    """
    fill(docs / "details/coverage.md", {"coverage": table(experiments)})


if __name__ == "__main__":
    command_line(__doc__, main)
