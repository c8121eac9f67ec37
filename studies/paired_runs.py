"""Two rules' runs on the seeds that both have, which is what a paired comparison takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokengym.evaluation.report.curves import Panel
from tokengym.evaluation.report.summary import FINAL_WINDOW, per_run
from tokengym.evaluation.statistics import (
    DEFAULT_RESAMPLES,
    Array,
    PairedDifference,
    iqm,
    paired_difference,
)
from tokengym.evaluation.statistics.curves import RelativeSteps, relative_steps

Interval = tuple[float, float, float]
"""A value, and the lower and upper end of its 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class PairedRuns:
    """A rule and its baseline, in one setting."""

    panel: Panel
    """The setting's runs."""
    rule: str
    """The rule in question."""
    baseline: str
    """Rule that it is compared with."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds both have, rising."""
        rewards = self.panel.rewards
        if not {self.rule, self.baseline} <= set(rewards):
            return ()
        other = rewards[self.baseline].seeds
        return tuple(seed for seed in rewards[self.rule].seeds if seed in other)

    def curves(self, measure: str) -> tuple[Array, Array]:
        """Return both sides' curves of a measurement, each (pairs, time)."""
        rule, baseline = (
            self.panel.rewards[name].values[measure][self._rows(name)]
            for name in (self.rule, self.baseline)
        )
        return rule, baseline

    def figures(self, measure: str, kind: str) -> tuple[Array, Array]:
        """Return both sides' figures of a measurement, each (pairs,); see `summary.per_run`."""
        rule, baseline = (
            per_run(self.panel, self.panel.rewards[name], measure, kind)[self._rows(name)]
            for name in (self.rule, self.baseline)
        )
        return rule, baseline

    def difference(self, measure: str, kind: str) -> PairedDifference | None:
        """Return the rule's figure minus the baseline's; None where it was not measured."""
        if measure not in self.panel.measures:
            return None
        return paired_difference(*self.figures(measure, kind))

    def relative_steps(self, measure: str) -> RelativeSteps | None:
        """Return the steps to the baseline's final level as a share of its own.

        None where it was not measured, or where the baseline gains nothing.
        """
        if measure not in self.panel.measures:
            return None
        return relative_steps(self.panel.steps, *self.curves(measure), window=FINAL_WINDOW)

    def _rows(self, name: str) -> list[int]:
        return [self.panel.rewards[name].seeds.index(seed) for seed in self.seeds]


def slope_per_doubling(gains: Mapping[float, Array]) -> Interval:
    """Return how much a gain grows when the length doubles, and the interval.

    gain(l) = IQM over seeds;  slope = least squares over log2 of l. Seeds are drawn anew within
    each length.

    Args:
        gains: By length in tokens, (seeds,).

    Returns:
        Slope, lower and upper end: units of the gain per doubling.
    """
    at = np.log2(list(gains))
    centred = at - at.mean()
    rng = np.random.default_rng(0)

    def slope(values: Sequence[float]) -> float:
        return float(centred @ np.array(values) / (centred @ centred))

    drawn = [
        slope([iqm(rng.choice(gain, len(gain))) for gain in gains.values()])
        for _ in range(DEFAULT_RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return slope([iqm(gain) for gain in gains.values()]), float(low), float(high)
