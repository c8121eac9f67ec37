"""Statistics of learning curves and scores: pure functions of arrays."""

from tokengym.evaluation.statistics.aggregates import (
    DEFAULT_RESAMPLES,
    RELIABLE_SEEDS,
    Array,
    Random,
    curve_interval,
    interval,
    iqm,
    performance_profile,
)
from tokengym.evaluation.statistics.comparisons import (
    PairedDifference,
    holm,
    holm_level,
    improvement_interval,
    paired_difference,
    probability_of_improvement,
    student_interval,
)
from tokengym.evaluation.statistics.curves import (
    CensoredSteps,
    RelativeSteps,
    area_under_curve,
    censored_steps,
    collapsed,
    final_mean,
    relative_steps,
    steps_to_threshold,
)
from tokengym.evaluation.statistics.frontiers import frontier, gain_at

__all__ = [
    "DEFAULT_RESAMPLES",
    "RELIABLE_SEEDS",
    "Array",
    "CensoredSteps",
    "PairedDifference",
    "Random",
    "RelativeSteps",
    "area_under_curve",
    "censored_steps",
    "collapsed",
    "curve_interval",
    "final_mean",
    "frontier",
    "gain_at",
    "holm",
    "holm_level",
    "improvement_interval",
    "interval",
    "iqm",
    "paired_difference",
    "performance_profile",
    "probability_of_improvement",
    "relative_steps",
    "steps_to_threshold",
    "student_interval",
]
