"""Learning curves made up for tests."""

from tests.support.evaluation.common import make_curves, make_rows

__all__ = ["make_curves", "make_rows"]
