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
