"""Learning curves made up for tests: what a comparison would have measured."""

from tests.support.evaluation.common import make_curves as make_curves
from tests.support.evaluation.common import make_rows as make_rows
