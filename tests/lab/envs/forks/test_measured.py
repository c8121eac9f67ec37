"""Forks under an evaluation."""

import pytest

from tokengym.evaluation.measure.evaluate import Evaluator


def test_a_policy_at_its_reference_has_no_kl_where_each_position_has_its_own_tokens():
    evaluator = Evaluator("Forks", {"family": "maze", "fillers": 1}, num_episodes=4)
    assert evaluator(evaluator.untrained(None)).metrics["kl"] == pytest.approx(0.0, abs=1e-4)
