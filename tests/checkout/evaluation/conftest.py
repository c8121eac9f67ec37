"""Learning curves made up for tests."""

from tests.suite.evaluation.conftest import make_curves, make_rows

__all__ = ["make_curves", "make_rows"]
