"""What pages tell of runs, in one order: score - c KL, gold, a lead's parts, and speed last."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from tokengym.evaluation.report import number
from tokengym.evaluation.statistics import (
    PairedDifference,
    RelativeSteps,
    paired_difference,
    relative_steps,
)
from tokengym.lab.protocol import curve_of
from tokengym.lab.study import NET, Row
from tokengym.lab.tables import NONE, Key, after_holm, difference_text, mean, paired

Points = Mapping[int, Sequence[Row]]
"""Seed -> measurements of its run."""
GOLD = "gold at the end"
FIGURES = {
    NET: ("net_score", "auc"),
    GOLD: ("gold_score", "final"),
    "score": ("score", "auc"),
    "KL, nats": ("kl", "auc"),
}
"""Figure -> measurement, and its kind, see `Curve.figure`. The first decides, and a lead in it may
be score or KL that was not paid."""
SPEED = ("times as fast", "gold there", "KL there, nats")
"""Heads of what `speed` returns."""


def by_seed(runs: Points, measure: str = "net_score", kind: str = "auc") -> dict[int, float]:
    """Return a figure of runs by seed; "net_score" is score - c KL."""
    return {seed: curve_of(points).figure(measure, kind) for seed, points in runs.items()}


def lead(
    own: Points, base: Points, measure: str = "net_score", kind: str = "auc"
) -> PairedDifference:
    """Return a figure of runs minus that of others, paired by seed."""
    return paired_difference(*paired(*(by_seed(runs, measure, kind) for runs in (own, base))))


def leads(
    pairs: Mapping[Key, tuple[Points, Points]],
    figures: Mapping[str, tuple[str, str]] = FIGURES,
    *,
    ends: Collection[str] = (NET,),
) -> dict[Key, list[str]]:
    """Return leads as pages print them, a text for each figure in order.

    Those in score - c KL and in gold are bold where clear after Holm's correction over the pairs, a
    family each. The others are parts of the first, and not tested.

    Args:
        pairs: Key -> the runs of an arm and of its baseline, paired by seed.
        figures: Head -> measurement and kind.
        ends: Heads of the figures that have their 95 % intervals beside them.
    """
    texts: dict[Key, list[str]] = {key: [] for key in pairs}
    for head, figure in figures.items():
        found = {key: lead(*both, *figure) for key, both in pairs.items()}
        shown = {key: difference_text(of) for key, of in found.items()}
        if head in (NET, GOLD):
            shown = after_holm(found, with_wins=False)
        for key, text in shown.items():
            texts[key].append(text if head in ends else text.partition(" ")[0])
    return texts


def speed_of(own: Points, base: Points) -> RelativeSteps | None:
    """Return the updates that runs take, as a share of those of others, see `relative_steps`."""
    pairs = paired(own, base)
    steps = [row["step"] for row in pairs[0][0]]
    x, y = ([[row["score"] for row in points] for points in runs] for runs in pairs)
    return relative_steps(steps, x, y)


def speed(own: Points, base: Points) -> list[str]:
    """Return how many times as fast runs are as others, and gold and KL of both where it is read.

    It is bold where its 95 % interval, uncorrected, leaves out 1. It is read at the mean update at
    which the runs of an arm are at the shares of the way.
    """
    read = speed_of(own, base)
    if read is None:
        return [NONE] * len(SPEED)
    text = f"{number(1 / read.ratio)} ({number(1 / read.high)} to {number(1 / read.low)})"
    if read.high < 1.0 or read.low > 1.0:
        text = "**{}** {}".format(*text.split(" ", 1))
    places = [*zip(paired(own, base), (read.steps, read.baseline_steps), strict=True)]
    return [
        text,
        *(
            ", ".join(number(there(runs, step, name)) for runs, step in places)
            for name in ("gold_score", "kl")
        ),
    ]


def there(runs: Sequence[Sequence[Row]], step: float, measure: str) -> float:
    """Return the mean of a measurement of runs at an update, interpolated."""
    at = [[row["step"] for row in points] for points in runs]
    values = [[row[measure] for row in points] for points in runs]
    return mean([np.interp(step, *each) for each in zip(at, values, strict=True)])
