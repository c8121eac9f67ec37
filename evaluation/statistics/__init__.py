"""Statistics of learning curves and scores: pure functions of arrays."""

from tokengym.evaluation.statistics.arrivals import (
    FASTER_AT,
    RelativeSteps,
    relative_steps,
    steps_to_threshold,
)
from tokengym.evaluation.statistics.curve import Curve, pairs
from tokengym.evaluation.statistics.frontier import (
    COUNT,
    FEWEST_PAIRS,
    MIN_KL,
    EqualKL,
    compare_at_kl,
)
from tokengym.evaluation.statistics.scores import (
    DEFAULT_LEVEL,
    RELIABLE_SEEDS,
    Array,
    PairedDifference,
    holm,
    holm_level,
    improvement_interval,
    optimum_bound,
    paired_difference,
    probability_of_improvement,
    student_interval,
)
from tokengym.evaluation.statistics.series import (
    LEAP,
    Fall,
    area_under_curve,
    collapsed,
    fall,
    final_mean,
    leaps,
    nats_per_update,
    pooled_kl,
)

__all__ = [
    "COUNT",
    "DEFAULT_LEVEL",
    "FASTER_AT",
    "FEWEST_PAIRS",
    "LEAP",
    "MIN_KL",
    "RELIABLE_SEEDS",
    "Array",
    "Curve",
    "EqualKL",
    "Fall",
    "PairedDifference",
    "RelativeSteps",
    "area_under_curve",
    "collapsed",
    "compare_at_kl",
    "fall",
    "final_mean",
    "holm",
    "holm_level",
    "improvement_interval",
    "leaps",
    "nats_per_update",
    "optimum_bound",
    "paired_difference",
    "pairs",
    "pooled_kl",
    "probability_of_improvement",
    "relative_steps",
    "steps_to_threshold",
    "student_interval",
]


def __dir__() -> list[str]:
    """Return the public names alone: modules of the package are no part of it."""
    return __all__
