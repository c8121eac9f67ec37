"""Statistics of learning curves and scores: pure functions of arrays."""

from tokengym.evaluation.statistics.estimates import (
    DEFAULT_RESAMPLES,
    RELIABLE_SEEDS,
    Array,
    PairedDifference,
    Random,
    area_under_curve,
    collapsed,
    curve_interval,
    final_mean,
    improvement_interval,
    interval,
    iqm,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    steps_to_threshold,
)

__all__ = [
    "DEFAULT_RESAMPLES",
    "RELIABLE_SEEDS",
    "Array",
    "PairedDifference",
    "Random",
    "area_under_curve",
    "collapsed",
    "curve_interval",
    "final_mean",
    "improvement_interval",
    "interval",
    "iqm",
    "paired_difference",
    "performance_profile",
    "probability_of_improvement",
    "steps_to_threshold",
]
