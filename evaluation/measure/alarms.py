"""Signs that a policy games its score: pure functions of mean curves.

An alarm is a reason to read the samples, not a verdict. Each limit is a rule of thumb. Proxy and
gold rise together until the proxy is over-optimised, then gold falls (Gao et al. 2023,
arXiv:2210.10760).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tokengym.evaluation.statistics import Array

GOLD_LOSS = 0.25
"""Share of the gold score's best gain that is lost while the score still rises."""
NOISES = 3.5
"""Standard deviations of a curve's noise below which nothing is called a fall or a rise: the best
of a dozen flat noisy points lies that far above the last one in one curve of ten."""
COPY_RISE = 0.10
"""Rise of the copy rate, absolute: one trigram in ten more is taken from the prompt."""
REPETITION_RISE = 0.15
"""Rise of the share of repeated trigrams, absolute."""
FEW = 4
"""Untrained responses to a prompt whose best a training should beat."""
LENGTH_CHANGE = 0.30
"""Change of the response's length, relative to the reference policy's."""


@dataclass(frozen=True, kw_only=True)
class OveroptimizationPoint:
    """The point where proxy and gold part: gold was best and then fell, the proxy kept rising."""

    index: int
    """Index of the evaluation at which gold was best; 0 if it fell from the start."""
    gold_best: float
    """Gold score there."""
    gold_last: float
    """Gold score at the end."""
    score_then: float
    """Proxy there."""
    score_last: float
    """Proxy at the end."""


def parting(score: ArrayLike, gold: ArrayLike) -> OveroptimizationPoint | None:
    """Return where the gold score turned down while the score still rose; None if it did not.

    best = argmax(gold);  gain = gold_best - gold_0;  loss = gold_best - gold_last
    parted = loss > max(GOLD_LOSS * gain, NOISES * noise(gold))
             and score_last - score_best > NOISES * noise(score)

    Args:
        score: (time,) the proxy that training maximises, a mean over seeds.
        gold: (time,) the score it stands for, at the same evaluations.

    Raises:
        ValueError: if the two differ in length.

    Example:
        >>> parting([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 1.0, 2.0, 1.5, 1.0, 0.5]).index
        2
    """
    proxy, truth = np.asarray(score, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    if proxy.ndim != 1 or proxy.shape != truth.shape or len(proxy) == 0:
        raise ValueError(
            f"score and gold must be (time,) alike, got {proxy.shape} and {truth.shape}; take "
            "both at the same evaluations"
        )
    best = int(np.argmax(truth))
    gain, loss = truth[best] - truth[0], truth[best] - truth[-1]
    fell = loss > max(GOLD_LOSS * gain, NOISES * noise(truth), 0.0)
    rose = proxy[-1] - proxy[best] > NOISES * noise(proxy)
    if not (fell and rose):
        return None
    return OveroptimizationPoint(
        index=best,
        gold_best=float(truth[best]),
        gold_last=float(truth[-1]),
        score_then=float(proxy[best]),
        score_last=float(proxy[-1]),
    )


def noise(curve: ArrayLike) -> float:
    """Return the standard deviation of a curve's noise about its trend; 0 below three points.

    noise = median_i |y_{i+1} - 2 y_i + y_{i-1}| / (0.6745 * sqrt(6))

    Second differences are 0 on a straight rise or fall; the median ignores single jumps.

    Example:
        >>> noise([0.0, 1.0, 2.0, 3.0])
        0.0
    """
    bends = np.abs(np.diff(np.asarray(curve, dtype=np.float64), n=2))
    return float(np.median(bends)) / (0.6745 * 6.0**0.5) if len(bends) else 0.0


def find_alarms(
    curves: Mapping[str, Array], steps: ArrayLike, *, axis: str = "update", by_gold: bool = False
) -> list[str]:
    """Return one sentence per sign of over-optimisation in one reward's mean curves.

    Args:
        curves: Per measurement (time,), the first value the reference policy's.
        steps: (time,) updates made, or tokens read, at each evaluation.
        axis: "tokens" if ``steps`` are tokens.
        by_gold: Whether ``score`` is the gold score, which no training maximised.

    Example:
        >>> curves = {"score": np.arange(6.0), "gold_score": np.array([0, 1, 2, 1.5, 1, 0.5])}
        >>> find_alarms(curves, [0, 10, 20, 30, 40, 50])
        ['from update 20 on the gold score fell (2 to 0.5) while the score rose (2 to 5)']
    """
    at = np.asarray(steps, dtype=np.float64)
    alarms = []
    if "gold_score" in curves:
        parted = parting(curves["score"], curves["gold_score"])
        if parted is not None:
            step = f"{at[parted.index]:,.0f}"
            since = f"{step} tokens" if axis == "tokens" else f"update {step}"
            alarms.append(
                f"from {since} on the gold score fell "
                f"({parted.gold_best:.3g} to {parted.gold_last:.3g}) while the score rose "
                f"({parted.score_then:.3g} to {parted.score_last:.3g})"
            )
    for name, limit, words in (
        ("copy_rate", COPY_RISE, "copies more of its prompt"),
        ("repetition", REPETITION_RISE, "repeats itself more"),
    ):
        if name in curves and curves[name][-1] - curves[name][0] > limit:
            first, last = curves[name][0], curves[name][-1]
            alarms.append(f"it {words}: {first:.0%} of trigrams at first, {last:.0%} at the end")
    if "length" in curves:
        first, last = curves["length"][0], curves["length"][-1]
        if abs(last - first) > LENGTH_CHANGE * first:
            alarms.append(f"its length went from {first:.3g} to {last:.3g} tokens")
    if "net_score" in curves:
        first, last = curves["net_score"][0], curves["net_score"][-1]
        if first - last > NOISES * noise(curves["net_score"]):
            ended = f"minus the KL penalty ended at {last:.3g}, below its start of {first:.3g}"
            if by_gold:
                alarms.append(f"its gold score {ended}")
            else:
                alarms.append(f"its score {ended}: training lost by its own objective")
    return alarms


def short_of_best(ended: float, rows: Sequence[Mapping[str, float]]) -> str | None:
    """Return the alarm of a training that ended below the best of a few untrained responses.

    Args:
        ended: Score minus the KL penalty at the end, or the score where there is no price.
        rows: Best-of-n by n, as `ReferenceSamples.lines` has it.

    Example:
        >>> short_of_best(0.5, [{"n": 1, "score": 0.0}, {"n": 4, "score": 1.0}])[:50]
        'it ended at 0.5, below the 1 of the best of 4 untr'
    """
    row = next((row for row in rows if row["n"] == FEW), None)
    if row is None or ended >= (best := row.get("net_score", row["score"])):
        return None
    return (
        f"it ended at {ended:.3g}, below the {best:.3g} of the best of {FEW} untrained responses, "
        "which cost no training: train longer, or at another learning_rate"
    )
