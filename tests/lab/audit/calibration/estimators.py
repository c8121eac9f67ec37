"""All estimators of the calibration, and the rules by which they are divided."""

from dataclasses import replace

from tests.lab.audit.calibration import baselines, scales, tokens
from tests.lab.audit.calibration.common import WRONG, Estimator

WRITTEN = (*baselines.ESTIMATORS, *tokens.ESTIMATORS, *scales.ESTIMATORS)

BY_A_LENGTH_OF_0 = "others' scores for each of their tokens as the baseline"
"""Along the gradient, but it divides by the length of a row without a token."""

ESTIMATORS: list[Estimator] = [
    replace(estimator, label=WRONG) if estimator.idea == BY_A_LENGTH_OF_0 else estimator
    for estimator in WRITTEN
]

IN_TESTS = ESTIMATORS[::6]
"""A sixth, which the tests hold; the rest is held by `python -m tests.lab.audit.calibration`."""


DESCRIBED = (
    "gamma once for all that comes later",
    "a warm-up of advantages",
    "each row gets the group's mean score",
)
"""Ideas of the second half that the checks' writer was told of all the same."""


def held_out(estimator: Estimator) -> bool:
    """Whether the estimator is of the half that nobody who writes checks was told of.

    Of each kind and label, as first written, the second, the fourth, ... are, but for those
    `DESCRIBED`.
    """
    (first,) = [
        other for other in WRITTEN if (other.kind, other.idea) == (estimator.kind, estimator.idea)
    ]
    alike = [other for other in WRITTEN if (other.kind, other.label) == (first.kind, first.label)]
    return alike.index(first) % 2 == 1 and estimator.idea not in DESCRIBED
